"""Which requests are refused, as vLLM refuses them, and what is made of the others."""

from typing import Any

import orjson
import pytest

from igw_sim import calls, tokens

MODELS = {"base": None, "tuned": "tuned"}
HELLO = [{"role": "user", "content": "hello"}]


def parse(api: str, **body: Any) -> calls.Call:
    return calls.parse(api, orjson.dumps(body), MODELS)


@pytest.mark.parametrize(
    ("api", "body"),
    [
        pytest.param("chat", {}, id="chat without messages"),
        pytest.param("chat", {"messages": []}, id="no messages"),
        pytest.param("chat", {"messages": "hello"}, id="messages are no list"),
        pytest.param("chat", {"messages": [{"content": "x"}]}, id="a message without a role"),
        pytest.param("chat", {"messages": HELLO, "max_tokens": 0}, id="no tokens wanted"),
        pytest.param("chat", {"messages": HELLO, "max_tokens": "8"}, id="max_tokens is text"),
        pytest.param("chat", {"messages": HELLO, "n": 2}, id="two choices"),
        pytest.param("chat", {"messages": HELLO, "stream_options": 1}, id="stream_options is no object"),
        pytest.param("chat", {"messages": HELLO, "model": 1}, id="model is no text"),
        pytest.param("completions", {}, id="completion without a prompt"),
        pytest.param("completions", {"prompt": ""}, id="an empty prompt"),
        pytest.param("completions", {"prompt": ["a", "b"]}, id="two prompts"),
        pytest.param("responses", {}, id="response without input"),
        pytest.param("messages", {"messages": HELLO}, id="messages without max_tokens"),
        pytest.param("embeddings", {}, id="embeddings without input"),
        pytest.param("rerank", {"query": "a"}, id="rerank without documents"),
        pytest.param("rerank", {"documents": ["a"]}, id="rerank without a query"),
    ],
)
def test_a_malformed_request_gets_a_400(api: str, body: dict[str, Any]) -> None:
    with pytest.raises(calls.ApiError) as refused:
        parse(api, **body)
    assert refused.value.status == 400


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
def test_a_body_that_is_no_json_object_gets_a_400(body: bytes) -> None:
    with pytest.raises(calls.ApiError) as refused:
        calls.parse("chat", body, MODELS)
    assert refused.value.status == 400


def test_an_unknown_model_gets_a_404_in_the_form_of_openai() -> None:
    with pytest.raises(calls.ApiError) as refused:
        parse("chat", model="other", messages=HELLO)
    assert orjson.loads(refused.value.body()) == {
        "error": {
            "message": "The model `other` does not exist.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
    }


def test_an_adapter_is_asked_for_by_the_model_name() -> None:
    assert parse("chat", model="tuned", messages=HELLO).adapter == "tuned"
    assert parse("chat", model="base", messages=HELLO).adapter is None
    assert parse("chat", messages=HELLO).model == "base"


def test_parts_of_a_message_are_read_as_its_text() -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    assert parse("chat", messages=[{"role": "user", "content": parts}]).prompt == parse("chat", messages=HELLO).prompt


def test_generation_options_are_taken_over() -> None:
    call = parse(
        "chat",
        messages=HELLO,
        max_tokens=50,
        max_completion_tokens=20,
        min_tokens=5,
        ignore_eos=True,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert (call.max_tokens, call.min_tokens, call.ignore_end) == (20, 5, True)
    assert call.stream
    assert call.include_usage


def test_a_prompt_may_be_token_ids() -> None:
    assert tokens.token_count(parse("completions", prompt=[1, 2, 3]).prompt) == 3


def test_the_system_prompt_comes_first_in_every_api() -> None:
    chat = parse("chat", messages=[{"role": "system", "content": "be kind"}, *HELLO])
    assert parse("messages", system="be kind", messages=HELLO, max_tokens=9).prompt == chat.prompt
    assert parse("responses", instructions="be kind", input="hello").prompt == chat.prompt


@pytest.mark.parametrize(("given", "count"), [("a", 1), (["a", "b"], 2), ([1, 2], 1), ([[1], [2], [3]], 3)])
def test_embeddings_are_given_for_each_input(given: Any, count: int) -> None:
    assert len(parse("embeddings", input=given).inputs) == count
