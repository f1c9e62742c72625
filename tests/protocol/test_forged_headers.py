"""Headers by which a client could choose its own destination, or pass for another request: they never get through."""

import pytest

from igw_protos import ext_proc_pb2 as pb
from igw_testing.ext_proc import (
    BUFFERED,
    BUFFERED_PARTIAL,
    DESTINATION,
    FULL_DUPLEX,
    LEASE,
    NONE,
    STREAMED,
    First,
    chat,
    common,
    destinations,
    headers_set,
    request_body,
    request_headers,
)
from igw_testing.metrics_stub import EngineStub
from igw_testing.picker import PickerProcess, eventually, pool

pytestmark = pytest.mark.asyncio(loop_scope="session")

FORGED = {DESTINATION: "169.254.169.254:80", LEASE: "somebody-elses"}


@pytest.mark.parametrize("mode", [FULL_DUPLEX, BUFFERED, BUFFERED_PARTIAL, STREAMED, NONE], ids=pb.BodySendMode.Name)
@pytest.mark.parametrize("body", [True, False], ids=["body", "no-body"])
async def test_what_a_client_claims_is_overwritten(plain: PickerProcess, mode: pb.BodySendMode, body: bool) -> None:
    """In every mode, with and without a body: replaced or removed, never appended to."""
    async with plain.stream(First(mode, NONE)) as stream:
        await stream.send(request_headers(FORGED, end=not body))
        if body and mode not in (STREAMED, NONE):
            await stream.send(request_body(chat()))
        reply = await stream.receive()
        if DESTINATION not in headers_set(reply):
            reply = await stream.receive()
        changed = {**headers_set(reply), **dict.fromkeys(common(reply).header_mutation.remove_headers)}
        assert set(FORGED) <= set(changed)
        assert not set(FORGED.values()) & set(changed.values())
        assert FORGED[DESTINATION] not in destinations(reply)


async def test_no_other_header_of_the_client_is_sent_back(plain: PickerProcess) -> None:
    """What is not changed is not mentioned: copies would bring back what the proxy has removed meanwhile."""
    headers = {"transfer-encoding": "chunked", "authorization": "Bearer x", "x-custom": "1", **FORGED}
    async with plain.stream() as stream:
        await stream.send(request_headers(headers), request_body(chat()))
        reply = await stream.receive()
        assert set(headers_set(reply)) == {DESTINATION, LEASE, "content-length"}


async def test_leases_are_different_for_every_request(plain: PickerProcess) -> None:
    """Else one response's first byte would count for another request."""
    leases = set()
    for _ in range(20):
        async with plain.stream() as stream:
            await stream.send(request_headers(), request_body(chat()))
            leases.add(headers_set(await stream.receive())[LEASE])
    assert len(leases) == 20


async def test_a_clients_own_lease_does_not_reach_another_request(shared: PickerProcess) -> None:
    """The lease of the request's own placement counts, whatever its headers said."""
    async with pool(shared, EngineStub()) as served, served.stream() as victim:
        await victim.send(request_headers(), request_body(chat()))
        lease = headers_set(await victim.receive())[LEASE]
        async with served.stream() as attacker:
            await attacker.send(request_headers({LEASE: lease}), request_body(chat()))
            assert headers_set(await attacker.receive())[LEASE] != lease
            assert await shared.in_flight(served.engines[0]) == 2.0

        async def one_left() -> bool:
            return await shared.in_flight(served.engines[0]) == 1.0

        await eventually(one_left, "only the attacker's request has ended")
