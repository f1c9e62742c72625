"""What `igw explain` and `igw top` show, from pickers' JSON."""

import io
from typing import Any

from rich.console import Console, RenderableType

from igw_inspect.explanation import page
from igw_inspect.screen import Seen, screen


def text(shown: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=120, highlight=False).print(shown)
    return out.getvalue()


def told(**changes: Any) -> dict[str, Any]:
    """A placed request that has ended."""
    return {
        "request_id": "abc",
        "age_s": 3.25,
        "pool": "default/llm",
        "model": "llama",
        "outcome": "placed",
        "lease": "1f-2",
        "waited_s": 0.0,
        "endpoint": "10.0.0.1:8000",
        "order": ["10.0.0.1:8000", "10.0.0.2:8000"],
        "prefiller": None,
        "decided_by": ["the lowest cost of 2, 0.01; the next has 0.5"],
        "cached_tokens_expected": 512,
        "first_token_predicted_s": 0.12,
        "first_byte_s": 0.133,
        "status": 200,
        "failed_tries": [],
        "prompt_tokens": 700,
        "answer_tokens": 30,
        "running_s": None,
        "took_s": 2.5,
        "weighed": [
            {
                "role": "both",
                "policy": "prefix-cache",
                "of": 2,
                "candidates": [
                    {"endpoint": "10.0.0.1:8000", "cost": 0.01, "cached_tokens": 512, "chosen": True},
                    {"endpoint": "10.0.0.2:8000", "cost": None, "cached_tokens": 0, "chosen": False},
                ],
            }
        ],
        **changes,
    }


def test_an_explanation_tells_who_was_chosen_and_why() -> None:
    shown = text(page(told()))
    assert "request abc, 3.2 s ago" in shown
    assert "decided by the lowest cost of 2, 0.01; the next has 0.5" in shown
    assert "served 10.0.0.1:8000, then 10.0.0.2:8000 for retries" in shown
    assert "first byte after 133.0 ms, status 200, 700 prompt and 30 answer tokens, ended after 2.50 s" in shown
    rows = [line.split() for line in shown.splitlines()[-2:]]
    assert rows == [["10.0.0.1:8000", "0.01", "512", "chosen"], ["10.0.0.2:8000", "not", "allowed", "0"]]


def test_an_explanation_tells_of_retries_and_of_a_prefiller() -> None:
    elsewhere = {"endpoint": "10.0.0.2:8000", "failed_tries": ["10.0.0.1:8000"], "prefiller": "10.0.0.9:8000"}
    shown = text(page(told(**elsewhere, took_s=None, running_s=0.25)))
    assert "first choice 10.0.0.1:8000" in shown
    assert "served 10.0.0.2:8000" in shown
    assert "tries failed at 10.0.0.1:8000" in shown
    assert "prompt at 10.0.0.9:8000" in shown
    assert "running 250.0 ms" in shown


def test_an_explanation_of_a_refusal_is_what_the_client_was_told() -> None:
    refusal = {"status": 429, "code": "saturated", "message": "Try again in 3 s."}
    shown = text(page({"request_id": "", "age_s": 1.0, "outcome": "refused", "pool": "", "model": "", **refusal}))
    assert shown.splitlines() == ["request (unnamed), 1.0 s ago", "refused with 429 (saturated): Try again in 3 s."]


def test_an_explanation_names_the_standby() -> None:
    named = {name: told()[name] for name in ("request_id", "age_s", "pool", "model")}
    shown = text(page({**named, "outcome": "diverted", "standby": "cloud", "reason": "saturated"}))
    assert "to its standby cloud, since the pool was saturated" in shown


# ------------------------------------------------------------------------------------------------ top


def pool(
    placed: int = 10, first_bytes: int = 4, total: float = 1.0, expired: int = 0, **changes: Any
) -> dict[str, Any]:
    return {
        "name": "default/llm",
        "policy": "prefix-cache",
        "unseen": False,
        "waiting": 3,
        "queue_ends": {"dispatched": 9, "expired": expired},
        "first_bytes": first_bytes,
        "first_byte_s_total": total,
        "endpoints": [
            {
                "address": "10.0.0.1:8000",
                "state": "available",
                "engine": "vllm",
                "in_flight": 2,
                "running": 1.0,
                "waiting": 0.0,
                "kv_use": 0.421,
                "placed": placed,
                "share": 1.0,
            }
        ],
        **changes,
    }


def state(*pools: dict[str, Any], **outcomes: int) -> dict[str, Any]:
    return {"outcomes": outcomes, "pools": list(pools)}


def test_the_first_look_shows_what_has_been() -> None:
    shown = text(screen("here", None, Seen(0.0, state(pool(), placed=10))))
    assert "picker here: 10 placed" in shown
    assert "pool default/llm, prefix-cache, 3 waiting, TTFT 250 ms in the mean" in shown
    row = " ".join(shown.splitlines()[-1].split())
    assert row == "10.0.0.1:8000 available vllm 1 0 2 42% - 100%"


def test_the_next_look_shows_what_happens_in_a_second() -> None:
    before = Seen(0.0, state(pool(), placed=10))
    outcomes = {"placed": 20, "rejected-saturated": 1}
    now = Seen(2.0, state(pool(placed=20, first_bytes=8, total=3.0, expired=4), **outcomes))
    shown = text(screen("here", before, now))
    assert "picker here: 5.0/s placed, 0.5/s rejected-saturated" in shown
    assert "TTFT 500 ms in the mean, 2.0/s expired" in shown
    assert shown.splitlines()[-1].split()[-2:] == ["5.0", "100%"]


def test_what_is_not_there_is_said() -> None:
    assert "no pools" in text(screen("here", None, Seen(0.0, state())))
    assert "no endpoints" in text(screen("here", None, Seen(0.0, state(pool(endpoints=[])))))
    silent = {**pool()["endpoints"][0], "state": "refused", "engine": None, "running": None, "kv_use": None}
    shown = text(screen("here", None, Seen(0.0, state(pool(endpoints=[silent], unseen=True, first_bytes=0)))))
    assert "its Pods cannot be listed: the proxy chooses" in shown
    assert shown.splitlines()[-1].split()[1:4] == ["refused", "-", "-"]
    same = Seen(1.0, state(pool()))
    assert "picker here: quiet" in text(screen("here", same, Seen(2.0, same.state)))
