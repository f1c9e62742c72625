"""The conversation of our second filter, which tells only that a response began: another stream than the request's.

It starts with the response's headers, and finds the request by the lease that the picker put into a request header.
"""

import pytest

from igw_protos import ext_proc_pb2 as pb
from igw_testing.ext_proc import (
    BUFFERED_PARTIAL,
    LEASE,
    NONE,
    STREAMED,
    First,
    Stream,
    chat,
    kind,
    metadata,
    request_body,
    request_headers,
    response_body,
    response_headers,
    with_attributes,
)
from igw_testing.metrics_stub import EngineStub
from igw_testing.picker import PickerProcess, eventually, pool

pytestmark = pytest.mark.asyncio(loop_scope="session")

OBSERVER = First(NONE, STREAMED)


def began(
    lease: str | None, *, code: int = 200, upstream: str | None = None, end: bool = False
) -> pb.ProcessingRequest:
    """The filter's first message, of a response that streams: all else that it tells is in attributes."""
    told: dict[str, str | int] = {"response.code": code}
    if lease is not None:
        told[f"request.headers['{LEASE}']"] = lease
    if upstream is not None:
        told["upstream.address"] = upstream
    kind_of_body = pb.HeaderValue(key="content-type", raw_value=b"text/event-stream")
    headers = pb.HttpHeaders(headers=pb.HeaderMap(headers=[kind_of_body]), end_of_stream=end)
    return with_attributes(pb.ProcessingRequest(response_headers=headers), told)


async def lease_of(stream: Stream) -> str:
    """Place a request; its lease, from whichever reply carries the decision in the stream's mode."""
    await stream.send(request_headers(), request_body(chat()))
    told = [metadata(reply) for reply in await stream.replies(2)]
    (lease,) = [str(one[LEASE]) for one in told if LEASE in one]
    return lease


async def test_a_response_that_does_not_stream_has_its_first_byte_with_its_headers(shared: PickerProcess) -> None:
    """Engines send headers and body of a plain answer together: waiting for the chunk would only cost a message."""
    async with pool(shared, EngineStub()) as served, served.stream(BUFFERED_PARTIAL, NONE) as request:
        lease = await lease_of(request)
        async with shared.stream(OBSERVER) as stream:
            headers = pb.HttpHeaders(headers=pb.HeaderMap(headers=[pb.HeaderValue(key=":status", raw_value=b"200")]))
            message = pb.ProcessingRequest(response_headers=headers)
            await stream.send(with_attributes(message, {f"request.headers['{LEASE}']": lease}))
            assert kind(await stream.last()) == "response_headers"
        assert await shared.sample("igw_picker_first_byte_seconds_count", pool=served.route) == 1.0


async def test_headers_and_the_first_chunk_are_answered_and_then_the_picker_ends_the_stream(
    shared: PickerProcess,
) -> None:
    """More than the first byte is not wanted: each further chunk would cost the picker a message."""
    async with pool(shared, EngineStub()) as served, served.stream(BUFFERED_PARTIAL, NONE) as request:
        lease = await lease_of(request)
        async with shared.stream(OBSERVER) as stream:
            await stream.send(began(lease, upstream=served.engines[0].address))
            head = await stream.receive()
            assert head == pb.ProcessingResponse(response_headers=pb.HeadersResponse(response=pb.CommonResponse()))
            await stream.send(response_body(b"data: 1\n\n", end=False))
            assert kind(await stream.last()) == "response_body"
        assert await shared.sample("igw_picker_first_byte_seconds_count", pool=served.route) == 1.0


async def test_the_request_stays_counted_after_its_first_byte(shared: PickerProcess) -> None:
    """The filter's stream is short; the request's stream is the one that lasts as long as the request."""
    async with pool(shared, EngineStub()) as served, served.stream() as request:
        lease = await lease_of(request)
        async with shared.stream(OBSERVER) as stream:
            await stream.send(began(lease, upstream=served.engines[0].address))
            await stream.receive()
            await stream.send(response_body(b"x", end=False))
            await stream.last()
        assert await shared.in_flight(served.engines[0]) == 1.0


async def test_the_load_follows_the_request_to_the_endpoint_that_answered(shared: PickerProcess) -> None:
    """After a retry the upstream's address differs from the one placed on."""
    async with pool(shared, EngineStub(), EngineStub(waiting=3)) as served, served.stream() as request:
        lease = await lease_of(request)
        idle, other = served.engines
        assert await shared.in_flight(idle) == 1.0
        async with shared.stream(OBSERVER) as stream:
            await stream.send(began(lease, upstream=other.address))
            await stream.receive()
            assert (await shared.in_flight(idle), await shared.in_flight(other)) == (0.0, 1.0)
        await request.rest()

        async def both_free() -> bool:
            return await shared.in_flight(idle) == 0.0 and await shared.in_flight(other) == 0.0

        await eventually(both_free, "no request in flight")


@pytest.mark.parametrize(
    "message",
    [began("not-a-lease"), began(None), began("x", code=503), began("x", end=True)],
    ids=["unknown-lease", "no-lease", "error", "empty-response"],
)
async def test_a_response_of_no_interest_is_let_go(shared: PickerProcess, message: pb.ProcessingRequest) -> None:
    """A lease of an earlier picker, or none: the response passes all the same."""
    async with shared.stream(OBSERVER) as stream:
        await stream.send(message)
        assert kind(await stream.receive()) == "response_headers"
        assert await stream.rest() == []


async def test_a_response_with_ordinary_headers_is_understood_as_well(shared: PickerProcess) -> None:
    """The status may come as a header instead of an attribute, and the endpoint as metadata."""
    async with pool(shared, EngineStub(), EngineStub(waiting=3)) as served, served.stream() as request:
        lease = await lease_of(request)
        async with shared.stream(OBSERVER) as stream:
            message = response_headers(status=200, served=served.engines[1].address)
            await stream.send(with_attributes(message, {f"request.headers['{LEASE}']": lease}))
            await stream.receive()
            assert await shared.in_flight(served.engines[1]) == 1.0
