"""A pool with limits, as a proxy's streams see it: who is refused, what is told, and what is given back in the end."""

import json
from typing import Any

import pytest

from igw_api import wire
from igw_api.limits import KeyLimits, Limits
from igw_api.objects import Queue
from igw_api.standby import Provider, Standby
from igw_extproc.domain import Ask, Outcome
from igw_protos import ext_proc_pb2 as pb
from igw_testing.builders import Picking, chat, load, members, model, policy, pool
from igw_testing.conversations import Serving, Stream, modes
from igw_testing.ext_proc import (
    BUFFERED,
    BUFFERED_PARTIAL,
    NONE,
    STREAMED,
    headers_set,
    kind,
    metadata,
    refusal,
    request_body,
    request_headers,
    response_body,
    response_headers,
    with_attributes,
)

FULL = load(running=8, waiting=4, kv_usage=1.0, kv_capacity_tokens=10_000)
CLOUD = Standby("standby/default/policy/cloud", "cloud", provider=Provider("api.example.com", 443, True, "/v1"))
ONE_A_MINUTE = Limits(keys=KeyLimits(requests=1))
ANSWER = b'{"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}'


def serving(limits: Limits | None, queue: Queue | None = None, *standbys: Standby, full: bool = False) -> Serving:
    """A picker with one engine, whose pool has these limits."""
    chosen = policy("prefix-cache", queue=queue, limits=limits, standbys=standbys)
    here = Serving(Picking(pool(), chosen, model("m"), model("other"), *members(1)))
    if full:
        here.picking.ledger(1).reserve(Ask("m", 0, 10), 0, here.now)
        here.picking.says(1, FULL, here.now)
    return here


def ask(here: Serving, name: str = "m", key: str = "one", **fields: Any) -> Stream:
    """A request with an API key, whose proxy buffers the body."""
    stream = here.stream()
    headers = request_headers({"authorization": f"Bearer {key}"})
    stream.tell(modes(headers, BUFFERED, NONE), request_body(chat(name, **fields)))
    return stream


def last(stream: Stream) -> pb.ProcessingResponse:
    """What the proxy was told last."""
    return pb.ProcessingResponse.FromString(stream.said[-1])


def is_placed(stream: Stream) -> bool:
    """Whether it goes to an engine, and not back to the client. It must have been answered."""
    answer = last(stream)
    assert len(stream.said) > 1 or kind(answer) == "immediate_response"
    return kind(answer) == "request_body"


def left(stream: Stream) -> dict[str, str]:
    """What the client is told of its limits, by an answer or a refusal: the last words of the headers' names."""
    answer = last(stream)
    told = metadata(answer) if is_placed(stream) else headers_set(answer)
    return {name.removeprefix("x-ratelimit-"): str(told[name]) for name in wire.LEFT_HEADERS if name in told}


def lease(stream: Stream) -> str:
    """What the answer to this request is known by."""
    return str(metadata(last(stream))[wire.LEASE_HEADER])


def responds(here: Serving, stream: Stream, status: int = 200, body: bytes = b"") -> None:
    """The engine answers, and the first-byte filter sees it; then the request is over."""
    observer = here.stream()
    begun = modes(response_headers({"content-type": "application/json"}, status=status), NONE, STREAMED)
    observer.tell(with_attributes(begun, {f"request.headers['{wire.LEASE_HEADER}']": lease(stream)}))
    if observer.status is None:
        observer.tell(response_body(body))
    observer.conversation.ended()
    stream.conversation.ended()


def test_without_limits_nothing_is_said_of_them() -> None:
    assert left(ask(serving(None))) == {}
    assert left(ask(serving(Limits(concurrent=5)))) == {}, "those of the pool are nobody's in particular"


def test_a_key_that_has_used_up_its_requests_is_refused_and_others_are_not() -> None:
    here = serving(ONE_A_MINUTE)
    assert left(ask(here)) == {"limit-requests": "1", "remaining-requests": "0", "reset-requests": "1m0s"}
    here.now += 15.0
    stream = ask(here)
    error = refusal(last(stream), 429, "rejected-over-limit")
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert error["message"].endswith("limit of requests a minute to m, which is 1. Try again in 45 s.")
    assert headers_set(last(stream))["retry-after"] == "45"
    assert left(stream) == {"limit-requests": "1", "remaining-requests": "0", "reset-requests": "45s"}
    assert here.telemetry.requests[("", "", Outcome.REJECTED_OVER_LIMIT.value)] == 1
    assert is_placed(ask(here, key="two"))
    assert is_placed(ask(here, "other")), "another model"
    here.now += 45.0
    assert is_placed(ask(here))


def test_requests_without_a_key_count_together_and_a_key_is_the_same_in_either_header() -> None:
    here = serving(ONE_A_MINUTE)
    for headers in ({}, {wire.FAIRNESS_HEADER: "somebody"}, {"x-api-key": "k"}, {"authorization": "Bearer k"}):
        stream = here.stream()
        stream.tell(modes(request_headers(headers), BUFFERED, NONE), request_body(chat("m")))
        assert is_placed(stream) == (headers in ({}, {"x-api-key": "k"})), headers


def test_models_that_no_object_names_count_together() -> None:
    """What clients make up must not give them a new limit each time."""
    limits = Limits(keys=KeyLimits(requests=1), models={"big": KeyLimits(requests=1)})
    here = Serving(Picking(pool(), policy("prefix-cache", limits=limits), *members(1)))
    assert [is_placed(ask(here, name)) for name in ("a", "b", "big", "big")] == [True, False, True, False]


def test_the_one_message_mode_tells_it_too() -> None:
    here = serving(ONE_A_MINUTE)
    stream = here.stream()
    attributes = {"request.path": "/v1/chat/completions", "request.headers['authorization']": "Bearer one"}
    for _ in range(2):
        stream = here.stream()
        stream.tell(with_attributes(modes(request_body(chat("m")), BUFFERED_PARTIAL, NONE), attributes))
    refusal(last(stream), 429, "rejected-over-limit")


@pytest.mark.parametrize(
    ("status", "body", "requests", "tokens"),
    [
        (200, ANSWER % (100, 300), "9", "600"),
        (200, b"no usage", "9", "743"),
        (400, b"", "9", "1000"),
        (503, b"", "10", "1000"),
    ],
    ids=["as many tokens as the engine counted", "as expected", "no tokens where it is wrong", "nothing for a failure"],
)
def test_in_the_end_a_key_pays_what_was_used(status: int, body: bytes, requests: str, tokens: str) -> None:
    here = serving(Limits(keys=KeyLimits(10, 1000)))
    responds(here, ask(here), status, body)
    now = left(ask(here, max_tokens=1))
    before = {"remaining-requests": str(int(now["remaining-requests"]) + 1)}
    assert before["remaining-requests"] == requests
    spent = 2 + 1  # the second request's own
    assert abs(int(now["remaining-tokens"]) + spent - int(tokens)) <= 8, now


def test_a_client_that_leaves_before_the_answer_pays_for_its_prompt() -> None:
    here = serving(Limits(keys=KeyLimits(10, 10_000)))
    responds(here, ask(here), 200, ANSWER % (0, 0))
    prompt = "long " * 2000
    ask(here, key="leaves", content=prompt).conversation.ended()
    told = left(ask(here, key="leaves", max_tokens=1))
    assert told["remaining-requests"] == "8"
    assert 7_000 < int(told["remaining-tokens"]) < 7_600


def test_a_pool_that_has_reached_its_limit_refuses_until_one_has_ended() -> None:
    here = serving(Limits(concurrent=2))
    first, _ = ask(here), ask(here)
    stream = ask(here)
    error = refusal(last(stream), 429, "rejected-over-limit")
    assert error["message"].startswith("The pool default/llm has reached its limit of requests at once, which is 2.")
    assert headers_set(last(stream))["retry-after"] == "1"
    first.conversation.ended()
    assert is_placed(ask(here))


def test_who_waits_counts_and_is_charged_once() -> None:
    here = serving(Limits(concurrent=1, keys=KeyLimits(requests=5)), Queue(wait_timeout=5.0), full=True)
    waits = ask(here)
    assert here.admission.waiting == 1
    refusal(last(ask(here)), 429, "rejected-over-limit")
    here.picking.says(1, load(running=1), here.now)
    here.wake(1)
    assert left(waits)["remaining-requests"] == "4"
    waits.conversation.ended()
    assert left(ask(here))["remaining-requests"] == "3"


def test_who_has_waited_in_vain_or_is_refused_by_the_queue_pays_nothing() -> None:
    here = serving(Limits(concurrent=9, keys=KeyLimits(2, 1000)), Queue(1, wait_timeout=5.0), full=True)
    waits = ask(here)
    refusal(last(ask(here)), 429, "rejected-saturated")
    here.now += 5.0
    here.admission.expire(here.now)
    refusal(last(waits), 429, "rejected-saturated")
    here.picking.says(1, load(), here.now)
    assert left(ask(here, max_tokens=1))["remaining-requests"] == "1"
    assert here.admission.meters.statistics().pools["default/llm"].concurrent == 1


def test_a_client_that_leaves_while_it_waits_has_sent_a_request_but_used_no_tokens() -> None:
    here = serving(Limits(keys=KeyLimits(5, 1000)), Queue(wait_timeout=5.0), full=True)
    ask(here).conversation.ended()
    here.picking.says(1, load(), here.now)
    told = left(ask(here, max_tokens=1))
    assert told["remaining-requests"] == "3"
    assert int(told["remaining-tokens"]) > 990


def test_what_exceeds_a_pools_limit_goes_to_its_standby_and_what_exceeds_a_keys_does_not() -> None:
    here = serving(Limits(concurrent=1, keys=KeyLimits(requests=2)), None, CLOUD)
    assert is_placed(ask(here))
    over = ask(here)
    assert headers_set(last(over))[wire.POOL_HEADER] == CLOUD.key
    refusal(last(ask(here)), 429, "rejected-over-limit")
    (row,) = here.admission.overflow.statistics(here.now)
    assert row.taken["limited"] == 1
    over.conversation.ended()
    assert here.admission.meters.statistics().pools["default/llm"].concurrent == 1


def test_a_standby_that_does_not_take_it_is_told_of() -> None:
    here = serving(Limits(concurrent=1), None, Standby("default/gone", "gone", pool="default/gone"))
    ask(here)
    error = refusal(last(ask(here)), 429, "rejected-over-limit")
    assert error["message"].endswith("Its standby gone does not take it: it is not served on this port.")


def test_a_pool_that_nobody_can_see_counts_who_comes_but_not_who_is_there() -> None:
    """The proxy chooses, and does not tell us of the end."""
    chosen = policy("prefix-cache", limits=Limits(concurrent=1, keys=KeyLimits(requests=2)))
    here = Serving(Picking())
    here.picking.serve(pool(), chosen, unseen=["llm"])
    assert [kind(last(ask(here))) for _ in range(3)] == ["request_body", "request_body", "immediate_response"]


def test_limits_change_without_forgetting_what_was_used() -> None:
    here = serving(ONE_A_MINUTE)
    ask(here)
    here.picking.serve(
        pool(), policy("prefix-cache", limits=Limits(keys=KeyLimits(requests=3))), model("m"), *members(1)
    )
    here.admission.refresh(here.now)
    here.now += 30.0
    assert left(ask(here))["remaining-requests"] == "0"


def test_the_key_itself_is_nowhere() -> None:
    here = serving(ONE_A_MINUTE)
    told = [ask(here, key="sk-secret") for _ in range(2)]
    assert b"sk-secret" not in b"".join(message for stream in told for message in stream.said)
    assert "sk-secret" not in json.dumps([str(name) for name in here.admission.meters._keys])
