"""One gRPC stream from its first message to its end: exact accounting, whatever happens in between."""

import json
import logging
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_api import wire
from igw_extproc.director import Wish
from igw_extproc.flight import Flight
from igw_extproc.transport import GrpcStatus
from igw_protos import ext_proc_pb2 as pb
from igw_testing.builders import Picking, address, chat, member, members, model, pool
from igw_testing.conversations import LIMIT, POOL, USAGE, Serving, duplex, modes
from igw_testing.ext_proc import (
    BUFFERED,
    FULL_DUPLEX,
    NONE,
    headers_set,
    request_body,
    request_headers,
    response_body,
    response_headers,
    response_trailers,
)


@pytest.fixture
def here() -> Iterator[Serving]:
    """A picker with two idle engines."""
    yield Serving(Picking(pool(), *members(2)))


# ------------------------------------------------------------------------------------------------ accounting


def test_a_request_counts_from_its_placement_to_the_end_of_its_stream(here: Serving) -> None:
    stream = here.stream()
    stream.tell(modes(request_headers(), FULL_DUPLEX, FULL_DUPLEX))
    assert here.in_flight() == 0
    stream.tell(request_body(chat()))
    assert here.in_flight() == 1
    stream.tell(response_headers(), response_body(b"{}"))
    assert here.in_flight() == 1, "until the client has it all"
    stream.conversation.half_closed()
    assert (stream.status, here.in_flight()) == (GrpcStatus.OK, 1)
    stream.conversation.ended()
    assert (here.in_flight(), here.telemetry.open_streams) == (0, 0)


MESSAGES = st.sampled_from(
    [
        modes(request_headers(), FULL_DUPLEX, FULL_DUPLEX),
        modes(request_headers(), BUFFERED, NONE),
        modes(request_headers(), NONE, NONE),
        request_body(chat(), end=False),
        request_body(chat()),
        request_body(b"not json"),
        response_headers(served=address(1)),
        response_headers(served=address(2)),
        response_headers({"content-type": "text/event-stream"}, status=503),
        response_body(USAGE, end=False),
        response_body(b"{}"),
        response_trailers(),
        pb.ProcessingRequest(),
    ]
)


@given(streams=st.lists(st.tuples(st.lists(MESSAGES, max_size=6), st.booleans()), max_size=4), data=st.data())
def test_nothing_stays_counted_whatever_proxies_say_and_however_their_streams_end(
    streams: list[tuple[list[pb.ProcessingRequest], bool]], data: st.DataObject
) -> None:
    """The accounts are what placement goes by: a leak would make an engine look busy for ever."""
    here = Serving(Picking(pool(), *members(2)))
    opened = [(here.stream(), list(messages), half_closes) for messages, half_closes in streams]
    going = list(opened)
    while going:
        at = data.draw(st.integers(0, len(going) - 1))
        stream, messages, half_closes = going[at]
        if messages:
            stream.tell(messages.pop(0))
            assert 0 <= here.in_flight() == len(here.director.flights) <= len(opened)
            continue
        if half_closes and stream.status is None:
            stream.conversation.half_closed()
        stream.conversation.ended()
        del going[at]
    assert (here.in_flight(), here.director.flights, here.telemetry.open_streams) == (0, {}, 0)
    placed = [count for (_, _, outcome), count in here.telemetry.requests.items() if outcome == "placed"]
    assert sum(placed) == here.telemetry.placed.total()


@pytest.mark.parametrize("half_closed", [True, False], ids=["half closed", "reset"])
def test_a_stream_that_ends_before_any_decision_leaves_nothing(here: Serving, half_closed: bool) -> None:
    stream = here.stream()
    stream.tell(modes(request_headers(), FULL_DUPLEX, NONE), request_body(b"{", end=False))
    if half_closed:
        stream.conversation.half_closed()
        assert stream.status is GrpcStatus.OK
    stream.conversation.ended()
    assert not here.telemetry.requests and here.telemetry.open_streams == 0


def test_what_was_placed_is_told_by_pool_model_and_endpoint() -> None:
    here = Serving(Picking(pool(), member(1), model("m")))
    here.stream().tell(modes(request_headers(end=True), NONE, NONE))
    duplex(here.stream(), chat("m"))
    assert here.telemetry.requests == Counter({(POOL, "", "placed"): 1, (POOL, "m", "placed"): 1})
    assert here.telemetry.placed == Counter({address(1): 2})
    assert here.telemetry.placement.buckets()[-1] == ("+Inf", 2.0)


# ------------------------------------------------------------------------------------------------ refusals and faults


@pytest.mark.parametrize(
    ("body", "status", "outcome"),
    [
        (b"not json", 400, "rejected-bad-request"),
        (chat("made-up"), 404, "rejected-unknown-model"),
        (b"x" * (LIMIT + 1), 413, "rejected-too-large"),
    ],
)
def test_a_refused_request_is_answered_counted_and_costs_nothing(
    body: bytes, status: int, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    here = Serving(Picking(pool(), member(1), model("m")))
    stream = here.stream()
    with caplog.at_level(logging.INFO, logger="igw_extproc"):
        (reply,) = duplex(stream, body)
    assert reply.immediate_response.status.code == status
    assert headers_set(reply)[wire.DROP_REASON_HEADER] == outcome
    assert json.loads(reply.immediate_response.body)["error"]["message"]
    assert stream.status is GrpcStatus.OK
    stream.conversation.ended()
    assert here.telemetry.requests == Counter({("", "", outcome): 1})
    assert (here.in_flight(), here.telemetry.open_streams) == (0, 0)
    assert f"refused status={status} outcome={outcome}" in caplog.text
    assert "made-up" not in caplog.text


def test_a_malformed_message_ends_the_stream_as_the_peers_mistake(here: Serving) -> None:
    stream = here.stream()
    duplex(stream)
    stream.conversation.receive(b"\xff\xff")
    assert stream.status is GrpcStatus.INVALID_ARGUMENT
    stream.conversation.ended()
    assert here.telemetry.faults == Counter({"decode": 1})
    assert here.in_flight() == 0


def test_a_fault_of_ours_ends_the_stream_and_is_counted_but_refuses_nobody(
    here: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The proxy then goes on by its own policy: it fails open."""

    def fail(wish: Wish, now: float) -> Flight:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(here.director, "reserve", fail)
    stream = here.stream()
    with caplog.at_level(logging.ERROR, logger="igw_extproc"):
        assert duplex(stream) == []
    assert stream.status is GrpcStatus.INTERNAL
    assert "a mistake" not in stream.detail
    stream.conversation.ended()
    assert here.telemetry.faults == Counter({"place": 1})
    assert not here.telemetry.requests and here.telemetry.open_streams == 0
    assert "placement failed" in caplog.text
