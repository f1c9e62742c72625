"""What each half of a request is sent."""

from typing import Any

import pytest

from igw_sidecar.bodies import sglang, splittable, vllm_decode, vllm_prefill
from igw_sidecar.prefillers import Prefiller

CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "user", "content": "hello"}],
    "stream": True,
    "stream_options": {"include_usage": True},
    "max_completion_tokens": 300,
    "min_tokens": 20,
    "temperature": 0.5,
}


def test_a_prefill_is_the_same_request_for_one_token_in_one_piece() -> None:
    half = vllm_prefill(CHAT)
    assert {name: half[name] for name in ("model", "messages", "temperature")} == {
        "model": "m",
        "messages": CHAT["messages"],
        "temperature": 0.5,
    }
    assert (half["max_tokens"], half["max_completion_tokens"], half["stream"]) == (1, 1, False)
    assert not {"stream_options", "min_tokens"} & set(half)


def test_a_prefill_without_a_newer_limit_gets_none() -> None:
    assert "max_completion_tokens" not in vllm_prefill({"prompt": "hello", "max_tokens": 5})


def test_a_prefill_asks_that_its_kv_be_kept_for_nobody_known_yet() -> None:
    assert vllm_prefill(CHAT)["kv_transfer_params"] == {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
    }


def test_what_the_client_sent_stays_as_it_is() -> None:
    before = dict(CHAT)
    vllm_prefill(CHAT)
    vllm_decode(CHAT, {"kv_transfer_params": {"remote_host": "a"}})
    sglang(CHAT, Prefiller("10.0.0.1", 8000), 8998, 1)
    assert before == CHAT


def test_a_decode_is_the_clients_request_with_what_the_prefill_answered() -> None:
    params = {"do_remote_prefill": True, "remote_block_ids": [[1, 2]], "something new": 7}
    assert vllm_decode(CHAT, {"id": "x", "kv_transfer_params": params}) == {**CHAT, "kv_transfer_params": params}


def test_parameters_of_the_clients_own_are_replaced() -> None:
    """It could name an engine to fetch from, of which the picker knows nothing."""
    mine = {**CHAT, "kv_transfer_params": {"remote_host": "elsewhere"}}
    decode = vllm_decode(mine, {"kv_transfer_params": {"remote_host": "10.0.0.1"}})
    assert decode is not None
    assert decode["kv_transfer_params"] == {"remote_host": "10.0.0.1"}
    assert vllm_prefill(mine)["kv_transfer_params"]["remote_host"] is None


@pytest.mark.parametrize("answer", [{}, [], None, {"kv_transfer_params": None}, {"kv_transfer_params": {}}])
def test_an_answer_that_does_not_say_where_the_kv_is_leads_to_no_decode(answer: object) -> None:
    assert vllm_decode(CHAT, answer) is None


def test_both_engines_of_sglang_are_told_the_same_room_on_the_prefiller() -> None:
    body = sglang(CHAT, Prefiller("10.0.0.1", 8000), 8998, 123)
    assert body == {**CHAT, "bootstrap_host": "10.0.0.1", "bootstrap_port": 8998, "bootstrap_room": 123}


def test_the_bootstrap_port_may_be_the_prefillers_own() -> None:
    body = sglang(CHAT, Prefiller("fd00::1", 8000), 0, 123)
    assert (body["bootstrap_host"], body["bootstrap_port"]) == ("[fd00::1]", 8000)


@pytest.mark.parametrize(
    "more",
    [{}, {"n": 1}, {"n": None}, {"best_of": 1}, {"prompt": "text"}, {"prompt": [1, 2, 3]}, {"echo": False}],
)
def test_one_prompt_with_one_reply_can_be_split(more: dict[str, Any]) -> None:
    assert splittable({**CHAT, **more})


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2},
        {"best_of": 3},
        {"use_beam_search": True},
        {"prompt": ["one", "two"]},
        {"prompt": [[1, 2], [3]]},
        {"echo": True},
        {"prompt_logprobs": 0},
    ],
)
def test_what_needs_several_replies_or_the_prompt_itself_is_not_split(more: dict[str, Any]) -> None:
    assert not splittable({**CHAT, **more})
