"""What proxies tell of tries that failed: whom it is about, and what becomes of the request."""

import pytest

from igw_api import wire
from igw_extproc import codec
from igw_extproc.messages import Try
from igw_extproc.reports import Reports
from igw_extproc.transport import GrpcStatus
from igw_protos import access_log_pb2 as pb
from igw_testing.builders import Picking, address, arrived, chat, members, pool
from igw_testing.placing import place


class Line:
    """A `Call` that remembers how it ended."""

    def __init__(self) -> None:
        self.status: GrpcStatus | None = None

    def send(self, message: bytes) -> None:
        raise AssertionError("nothing is ever answered")

    def finish(self, status: GrpcStatus = GrpcStatus.OK, detail: str = "") -> None:
        self.status = status


def entry(at: str, lease: str | None = None, status: int | None = None, **flags: bool) -> pb.HttpLogEntry:
    """One entry of the log."""
    host, _, port = at.rpartition(":")
    where = pb.Address(socket_address=pb.SocketAddress(address=host.strip("[]"), port_value=int(port)))
    told = pb.HttpLogEntry(
        common_properties=pb.Common(upstream_remote_address=where, response_flags=pb.ResponseFlags(**flags)),
        request=pb.Request(request_headers={wire.LEASE_HEADER: lease} if lease is not None else {}),
    )
    if status is not None:
        told.response.response_code.value = status
    return told


def message(*entries: pb.HttpLogEntry) -> bytes:
    """As the proxy sends it."""
    return pb.StreamAccessLogsMessage(http_logs=pb.HttpLogs(log_entry=entries)).SerializeToString()


class Told:
    """A picker with idle endpoints, and one stream of reports."""

    def __init__(self, count: int = 3) -> None:
        self.picking = Picking(pool(), *members(count))
        self.suspects: list[str] = []
        self.reports = Reports(self.picking.director, self.picking.ledgers, lambda: 1.0, self.suspects.append)
        self.line = Line()
        self.stream = self.reports.methods()[wire.TRIES_METHOD](self.line)

    def failures(self) -> dict[tuple[str, str], int]:
        """By endpoint and kind."""
        return dict(self.picking.director.health.statistics().failures)


def test_an_entry_is_read_as_a_try() -> None:
    """Flags that we do not list say nothing."""
    entries = (
        entry("10.0.0.1:80", "a", upstream_connection_failure=True),
        entry("[::1]:80", None, 503),
        entry("10.0.0.1:80", "b", 200, upstream_protocol_error=True),
    )
    assert codec.decode_tries(message(*entries)) == [
        Try("10.0.0.1:80", "a", 0, True),
        Try("[::1]:80", None, 503, False),
        Try("10.0.0.1:80", "b", 200, True),
    ]
    unknown = pb.ResponseFlags.FromString(b"\x08\x01").SerializeToString()
    assert pb.ResponseFlags.FromString(unknown).ListFields() == []


def test_a_websocket_that_somebody_closes_has_not_failed() -> None:
    """Its connection has no other end, and the proxy logs that end as the engine's."""
    told = Told()
    told.stream.receive(message(entry("10.0.0.1:80", "a", 101, upstream_connection_termination=True)))
    assert told.failures() == {} and told.suspects == []


def test_who_failed_is_blamed_and_asked_at_once() -> None:
    """Not who answered in the end."""
    told = Told()
    placed = place(told.picking, arrived(chat()))
    first, other, _ = placed.placement.destinations
    told.stream.receive(message(entry(first, placed.placement.lease, upstream_remote_reset=True)))
    assert told.failures() == {(first, "lost"): 1} and told.suspects == [first]
    assert [ledger.endpoint.address for ledger in placed.flight.failed] == [first]
    moved = told.picking.ledgers.get(other)
    assert moved is not None
    placed.flight.decision.lease.moved_to(moved)
    assert placed.flight.went_well(sees_responses=False), "by the one that answered"


def test_a_request_that_failed_where_it_counts_did_not_go_well() -> None:
    """Also when its answer had begun."""
    told = Told()
    placed = place(told.picking, arrived(chat()))
    placed.flight.status = 200
    assert placed.flight.went_well(sees_responses=True)
    first = placed.placement.destinations[0]
    told.stream.receive(message(entry(first, placed.placement.lease, 200, upstream_protocol_error=True)))
    assert not placed.flight.went_well(sees_responses=True)


def test_who_leaves_before_the_answer_shows_nothing() -> None:
    """Unless nobody shows us answers."""
    placed = place(Told().picking, arrived(chat()))
    assert not placed.flight.went_well(sees_responses=True)
    assert placed.flight.went_well(sees_responses=False)


@pytest.mark.parametrize("lease", [None, "", "of-another-picker"])
def test_a_try_of_an_unknown_request_counts_for_its_endpoint(lease: str | None) -> None:
    """One that the picker did not place, or that is over."""
    told = Told()
    told.stream.receive(message(entry(address(1), lease, 502), entry("10.9.9.9:1", lease, 502)))
    assert told.failures() == {(address(1), "error"): 1} and told.suspects == []


def test_requests_go_elsewhere_after_a_few_failures() -> None:
    """The failing endpoint is not in the list of fallbacks either."""
    told = Told()
    told.stream.receive(message(*[entry(address(1), upstream_connection_termination=True)] * 3))
    for _ in range(10):
        assert address(1) not in place(told.picking, arrived(chat())).placement.destinations


def test_nonsense_ends_the_stream_with_an_error() -> None:
    """And changes nothing."""
    told = Told()
    told.stream.receive(b"\xff\xff")
    assert told.line.status is GrpcStatus.INVALID_ARGUMENT and told.failures() == {}


def test_streams_end_with_the_proxy_or_with_us() -> None:
    """They never end by themselves, so a drain would wait for them in vain."""
    told, other = Told(), Line()
    told.reports.methods()[wire.TRIES_METHOD](other)
    told.stream.half_closed()
    told.stream.ended()
    assert told.line.status is GrpcStatus.OK and told.reports.open == {other}
    told.reports.close()
    assert other.status is GrpcStatus.OK
