"""One gRPC stream from its first message to its end: exact accounting, whatever happens in between."""

import json
import logging
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_api import wire
from igw_extproc.conversation import Health, Picker, Process
from igw_extproc.director import Placed
from igw_extproc.stream import Arrived
from igw_extproc.telemetry import Telemetry
from igw_extproc.transport import Call, Conversation, GrpcStatus
from igw_protos import ext_proc_pb2 as pb
from igw_protos import health_pb2
from igw_testing.builders import Picking, address, chat, member, members, model, pool
from igw_testing.ext_proc import (
    BUFFERED,
    FULL_DUPLEX,
    NONE,
    STREAMED,
    common,
    destinations,
    headers_set,
    kind,
    request_body,
    request_headers,
    response_body,
    response_headers,
    response_trailers,
    with_attributes,
)

LIMIT = 10_000
USAGE = b'{"usage":{"prompt_tokens":7,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":4}}}'
POOL = "default/llm"


class Stream(Call):
    """A transport's call that writes down what was said, and the stream's side of the peer."""

    def __init__(self, here: "Serving", path: str) -> None:
        self.said: list[bytes] = []
        self.status: GrpcStatus | None = None
        self.detail = ""
        self.conversation: Conversation = here.picker.methods()[path](self)

    def send(self, message: bytes) -> None:
        assert self.status is None, "nothing is said after the end"
        self.said.append(message)

    def finish(self, status: GrpcStatus = GrpcStatus.OK, detail: str = "") -> None:
        if self.status is None:
            self.status, self.detail = status, detail

    def tell(self, *messages: pb.ProcessingRequest) -> list[pb.ProcessingResponse]:
        """Give the conversation these messages; its answers to them."""
        before = len(self.said)
        for message in messages:
            if self.status is None:
                self.conversation.receive(message.SerializeToString())
        return [pb.ProcessingResponse.FromString(data) for data in self.said[before:]]


class Serving:
    """A picker over idle engines, at a time that the test tells."""

    def __init__(self, picking: Picking) -> None:
        self.picking = picking
        self.director = picking.director
        self.telemetry = Telemetry()
        self.now = 100.0
        self.suspects: list[str] = []
        self.is_ready = True
        self.picker = Picker(
            self.director, self.telemetry, lambda: self.now, LIMIT, self.suspects.append, lambda: self.is_ready
        )

    def stream(self) -> Stream:
        """A proxy opens a stream."""
        return Stream(self, wire.EXT_PROC_METHOD)

    def in_flight(self) -> int:
        """Requests counted at all engines."""
        return self.picking.in_flight()


@pytest.fixture
def here() -> Iterator[Serving]:
    """A picker with two idle engines."""
    yield Serving(Picking(pool(), *members(2)))


def modes(message: pb.ProcessingRequest, request: pb.BodySendMode, response: pb.BodySendMode) -> pb.ProcessingRequest:
    """`message` as the first of its stream."""
    message.protocol_config.request_body_mode = request
    message.protocol_config.response_body_mode = response
    return message


def duplex(stream: Stream, body: bytes = b"") -> list[pb.ProcessingResponse]:
    """A whole request in full duplex."""
    return stream.tell(modes(request_headers(), FULL_DUPLEX, FULL_DUPLEX), request_body(body or chat()))


def observe(stream: Stream, lease: str, status: int = 200, served: str | None = None) -> list[pb.ProcessingResponse]:
    """The first message of the first-byte filter about a stream of events."""
    message = modes(
        response_headers({"content-type": "text/event-stream"}, status=status, served=served), NONE, STREAMED
    )
    return stream.tell(with_attributes(message, {f"request.headers['{wire.LEASE_HEADER}']": lease}))


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

    def fail(request: Arrived, now: float) -> Placed:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(here.director, "place", fail)
    stream = here.stream()
    with caplog.at_level(logging.ERROR, logger="igw_extproc"):
        assert duplex(stream) == []
    assert stream.status is GrpcStatus.INTERNAL
    assert "a mistake" not in stream.detail
    stream.conversation.ended()
    assert here.telemetry.faults == Counter({"place": 1})
    assert not here.telemetry.requests and here.telemetry.open_streams == 0
    assert "placement failed" in caplog.text


# ------------------------------------------------------------------------------------------------ responses


def test_the_first_byte_is_counted_once_from_the_placement(here: Serving) -> None:
    stream = here.stream()
    duplex(stream)
    here.now += 0.3
    stream.tell(response_headers({"content-type": "text/event-stream"}))
    here.now += 0.3
    stream.tell(response_body(b"data: 1", end=False))
    here.now += 60
    stream.tell(response_body(b"data: 2", end=False), response_body(b""))
    histogram = here.telemetry.first_byte[POOL]
    assert histogram.buckets()[-1] == ("+Inf", 1.0)
    assert histogram.sum == pytest.approx(0.6)


@pytest.mark.parametrize("cut", [None, 1, 10, 30, 60, len(USAGE) - 1])
@pytest.mark.parametrize("trailers", [False, True])
def test_the_usage_is_told_once_and_what_the_request_cost_goes_to_the_proxy(
    here: Serving, cut: int | None, trailers: bool
) -> None:
    stream = here.stream()
    duplex(stream)
    parts = [USAGE] if cut is None else [USAGE[:cut], USAGE[cut:]]
    stream.tell(response_headers())
    messages = [response_body(part, end=False) for part in parts]
    last = stream.tell(*messages, response_trailers() if trailers else response_body(b""))[-1]
    cost = last.dynamic_metadata.fields[wire.LB_NAMESPACE].struct_value.fields[wire.REQUEST_COST_KEY]
    assert cost.number_value == 17
    stream.conversation.ended()
    assert here.telemetry.tokens == Counter({(POOL, "prompt"): 7, (POOL, "completion"): 10, (POOL, "cached"): 4})
    assert here.telemetry.input_tokens[POOL].sum == 7


def test_a_response_without_usage_costs_nothing_known(here: Serving) -> None:
    stream = here.stream()
    duplex(stream)
    last = stream.tell(response_headers(), response_body(b"{}"))[-1]
    assert not last.HasField("dynamic_metadata")
    assert not here.telemetry.tokens


def test_a_response_is_counted_where_it_came_from(here: Serving) -> None:
    stream = here.stream()
    head, *_ = duplex(stream)
    chosen, other = destinations(head)
    stream.tell(response_headers(status=200, served=other))
    assert here.telemetry.responses == Counter({(other, "2xx"): 1})
    assert here.telemetry.moved == Counter({chosen: 1})
    assert here.suspects == [chosen], "it did not answer although it was named first"


@pytest.mark.parametrize(("status", "suspected"), [(200, False), (404, False), (500, False), (502, True), (503, True)])
def test_an_endpoint_that_does_not_serve_is_looked_at_at_once(here: Serving, status: int, suspected: bool) -> None:
    stream = here.stream()
    head, *_ = duplex(stream)
    stream.tell(response_headers(status=status))
    chosen = destinations(head)[0]
    assert here.telemetry.responses == Counter({(chosen, f"{status // 100}xx"): 1})
    assert here.suspects == ([chosen] if suspected else [])


def test_a_response_of_the_proxy_itself_is_nobodys(here: Serving) -> None:
    """It came before any placement."""
    stream = here.stream()
    stream.tell(
        modes(request_headers(), FULL_DUPLEX, FULL_DUPLEX), response_headers(status=413), response_body(b"long")
    )
    assert not here.telemetry.responses and not here.telemetry.first_byte and not here.suspects


# ------------------------------------------------------------------------------------------------ first-byte filter


def test_the_first_byte_filter_finds_its_request_by_the_lease(here: Serving) -> None:
    requests = [here.stream() for _ in range(3)]
    leases = [headers_set(duplex(stream)[0])[wire.LEASE_HEADER] for stream in requests]
    here.now += 0.5
    filter_ = here.stream()
    (reply,) = observe(filter_, leases[1])
    assert kind(reply) == "response_headers" and filter_.status is None
    (reply,) = filter_.tell(response_body(b"data: 1", end=False))
    assert kind(reply) == "response_body" and not common(reply).HasField("body_mutation")
    assert filter_.status is GrpcStatus.OK, "then it is let go, and the proxy carries on alone"
    filter_.conversation.ended()
    assert here.in_flight() == 3, "the request itself goes on"
    assert here.director.flights[leases[1]].first_byte_at == here.now
    assert [here.director.flights[lease].first_byte_at for lease in (leases[0], leases[2])] == [None, None]
    assert here.telemetry.first_byte[POOL].buckets()[-1] == ("+Inf", 1.0)


def test_a_response_that_is_no_stream_has_its_first_byte_with_its_headers(here: Serving) -> None:
    lease = headers_set(duplex(here.stream())[0])[wire.LEASE_HEADER]
    filter_ = here.stream()
    message = modes(response_headers(), NONE, STREAMED)
    filter_.tell(with_attributes(message, {f"request.headers['{wire.LEASE_HEADER}']": lease}))
    assert filter_.status is GrpcStatus.OK
    assert here.telemetry.first_byte[POOL].buckets()[-1] == ("+Inf", 1.0)


def test_an_error_has_no_first_byte(here: Serving) -> None:
    lease = headers_set(duplex(here.stream())[0])[wire.LEASE_HEADER]
    filter_ = here.stream()
    observe(filter_, lease, status=503)
    assert filter_.status is GrpcStatus.OK
    assert not here.telemetry.first_byte
    assert len(here.suspects) == 1


def test_the_filter_moves_the_load_to_who_answered(here: Serving) -> None:
    head, *_ = duplex(here.stream())
    chosen, other = destinations(head)
    observe(here.stream(), headers_set(head)[wire.LEASE_HEADER], served=other)
    assert {one.endpoint.address: one.requests for one in here.picking.ledgers} == {chosen: 0, other: 1}


def test_a_lease_of_an_earlier_picker_or_of_an_ended_request_changes_nothing(here: Serving) -> None:
    request = here.stream()
    ended = headers_set(duplex(request)[0])[wire.LEASE_HEADER]
    request.conversation.ended()
    for lease in (ended, "another-1"):
        filter_ = here.stream()
        observe(filter_, lease)
        filter_.tell(response_body(b"data", end=False))
        filter_.conversation.ended()
    assert not here.telemetry.responses and not here.telemetry.first_byte
    assert (here.in_flight(), here.telemetry.open_streams) == (0, 0)


# ------------------------------------------------------------------------------------------------ health


def check(here: Serving, service: str) -> tuple[str | None, GrpcStatus | None]:
    """The answer to a health check, and how the stream ended."""
    stream = Stream(here, "/grpc.health.v1.Health/Check")
    stream.conversation.receive(health_pb2.HealthCheckRequest(service=service).SerializeToString())
    stream.conversation.half_closed()
    stream.conversation.ended()
    statuses = [health_pb2.HealthCheckResponse.FromString(data).status for data in stream.said]
    names = [health_pb2.HealthCheckResponse.ServingStatus.Name(status) for status in statuses]
    return (names[0] if names else None), stream.status


@pytest.mark.parametrize("service", ["", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"])
def test_the_picker_serves_while_it_can_place(here: Serving, service: str) -> None:
    assert check(here, service) == ("SERVING", GrpcStatus.OK)
    here.is_ready = False
    assert check(here, service) == ("NOT_SERVING", GrpcStatus.OK)


def test_the_picker_is_alive_even_if_it_cannot_place(here: Serving) -> None:
    here.is_ready = False
    assert check(here, "liveness") == ("SERVING", GrpcStatus.OK)


def test_an_unknown_service_is_not_found(here: Serving) -> None:
    assert check(here, "else") == (None, GrpcStatus.NOT_FOUND)


def test_a_malformed_health_check_is_the_peers_mistake(here: Serving) -> None:
    stream = Stream(here, "/grpc.health.v1.Health/Check")
    stream.conversation.receive(b"\xff")
    assert stream.status is GrpcStatus.INVALID_ARGUMENT


def test_health_checks_are_no_proxys_streams(here: Serving) -> None:
    check(here, "")
    assert here.telemetry.open_streams == 0
    assert isinstance(here.stream().conversation, Process)
    assert isinstance(Stream(here, "/grpc.health.v1.Health/Check").conversation, Health)
