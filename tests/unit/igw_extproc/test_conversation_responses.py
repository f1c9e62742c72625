"""What the picker learns from responses, on the request's own stream or from the first-byte filter; and health."""

from collections import Counter
from collections.abc import Iterator

import pytest

from igw_api import wire
from igw_extproc.conversation import Health, Process
from igw_extproc.transport import GrpcStatus
from igw_protos import health_pb2
from igw_testing.builders import Picking, chat, members, pool
from igw_testing.conversations import POOL, USAGE, Serving, Stream, duplex, modes, observe
from igw_testing.ext_proc import (
    FULL_DUPLEX,
    NONE,
    STREAMED,
    common,
    destinations,
    headers_set,
    kind,
    request_headers,
    response_body,
    response_headers,
    response_trailers,
    with_attributes,
)
from igw_testing.placing import LONG


@pytest.fixture
def here() -> Iterator[Serving]:
    """A picker with two idle engines."""
    yield Serving(Picking(pool(), *members(2)))


def long_chat() -> bytes:
    """A request whose prompt is worth expecting in a cache."""
    return chat(content=LONG)


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


def test_short_responses_tell_now_and_then_what_the_engine_found_in_its_cache(here: Serving) -> None:
    """One in eight of those of which something was expected: here it is found that there was nothing."""
    seen = 0
    for _ in range(64):
        stream, filter_ = here.stream(), here.stream()
        lease = headers_set(duplex(stream, long_chat())[0])[wire.LEASE_HEADER]
        message = modes(response_headers(), NONE, STREAMED)
        filter_.tell(with_attributes(message, {f"request.headers['{wire.LEASE_HEADER}']": lease}))
        if filter_.status is None:
            seen += 1
            usage = b'{"usage":{"prompt_tokens":1300,"prompt_tokens_details":{"cached_tokens":0}}}'
            filter_.tell(response_body(usage, end=True))
        assert filter_.status is GrpcStatus.OK
        stream.conversation.ended()
    assert seen in (7, 8)
    assert 0.0 in {ledger.trust.value for ledger in here.picking.ledgers}
    assert not here.telemetry.tokens, "a sample is no count"


def test_the_beginning_of_a_long_response_tells_nothing(here: Serving) -> None:
    for _ in range(64):
        stream, filter_ = here.stream(), here.stream()
        lease = headers_set(duplex(stream, long_chat())[0])[wire.LEASE_HEADER]
        message = modes(response_headers(), NONE, STREAMED)
        filter_.tell(with_attributes(message, {f"request.headers['{wire.LEASE_HEADER}']": lease}))
        filter_.tell(response_body(b'{"choices":[', end=False))
        assert filter_.status is GrpcStatus.OK
        stream.conversation.ended()
    assert {ledger.trust.value for ledger in here.picking.ledgers} == {1.0}


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
