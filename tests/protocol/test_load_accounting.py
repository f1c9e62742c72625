"""What the picker counts as in flight: from the pick to the stream's end, whoever ends it and however."""

import asyncio
import signal
import sys
from contextlib import AsyncExitStack

import pytest

from igw_testing.ext_proc import (
    DEADLINE_S,
    First,
    Stream,
    chat,
    destinations,
    kind,
    request_body,
    request_headers,
    response_body,
    response_headers,
)
from igw_testing.metrics_stub import EngineStub
from igw_testing.picker import PickerProcess, Pool, eventually, pool

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def place(stream: Stream) -> str:
    """Place one request; its destination."""
    await stream.send(request_headers(), request_body(chat()))
    head, _ = await stream.replies(2)
    return destinations(head)[0]


async def counts(served: Pool, *wanted: float) -> None:
    """Wait until the pool's engines have these numbers of requests in flight."""

    async def equal() -> bool:
        return [await served.picker.in_flight(engine) for engine in served.engines] == list(wanted)

    await eventually(equal, f"in flight: {wanted}")


async def test_requests_count_from_the_pick_on(shared: PickerProcess) -> None:
    """And a request that has not been placed yet counts nowhere."""
    async with pool(shared, EngineStub()) as served, served.stream() as first, served.stream() as second:
        await first.send(request_headers())
        await place(second)
        await counts(served, 1)
        await first.send(request_body(chat()))
        await first.replies(2)
        await counts(served, 2)


async def test_a_stream_that_the_proxy_closes_in_good_order_ends_the_request(shared: PickerProcess) -> None:
    """Half-close after the response: the ordinary end."""
    async with pool(shared, EngineStub()) as served, served.stream() as stream:
        await place(stream)
        await stream.send(response_headers(), response_body(b"{}"))
        await stream.replies(2)
        await counts(served, 1)
        assert await stream.rest() == []
        await counts(served, 0)


async def test_a_stream_that_is_reset_ends_the_request(shared: PickerProcess) -> None:
    """Envoy resets the stream when the client goes away; before or after the response began."""
    async with pool(shared, EngineStub()) as served, served.stream() as early, served.stream() as late:
        await place(early)
        await place(late)
        await late.send(response_headers(), response_body(b"{", end=False))
        await late.receive()
        await counts(served, 2)
        early.cancel()
        await counts(served, 1)
        late.cancel()
        await counts(served, 0)


async def test_a_stream_that_ends_before_its_request_is_whole_leaves_nothing_behind(shared: PickerProcess) -> None:
    """The client went away while it was still sending."""
    async with pool(shared, EngineStub()) as served:
        open_before = await shared.sample("igw_picker_open_streams")
        async with served.stream() as stream:
            await stream.send(request_headers(), request_body(b"{", end=False))
            assert await stream.rest() == []
        async with served.stream() as stream:
            await stream.send(request_headers(), request_body(b"{", end=False))

        async def closed() -> bool:
            # A stream of an earlier test may have been counted that was about to end.
            return await shared.sample("igw_picker_open_streams") <= open_before

        await eventually(closed, "both streams are gone")
        await counts(served, 0)


async def test_a_connection_that_closes_ends_its_requests(shared: PickerProcess) -> None:
    """All streams of it, and no others."""
    async with pool(shared, EngineStub()) as served, AsyncExitStack() as stack:
        await place(await stack.enter_async_context(served.stream()))
        channel = shared.new_channel()
        first = First(route=served.route)
        for _ in range(3):
            await place(await stack.enter_async_context(shared.stream(first, channel)))
        await counts(served, 4)
        await channel.close()
        await counts(served, 1)


# A proxy of few words: opens a stream, says when its request is placed, and waits to be killed.
_PROXY = """
import sys, threading, grpc
address, *messages = sys.argv[1:]
def requests():
    yield from map(bytes.fromhex, messages)
    threading.Event().wait()
with grpc.insecure_channel(address) as channel:
    call = channel.stream_stream("/envoy.service.ext_proc.v3.ExternalProcessor/Process")
    for _ in call(requests()):
        print("placed", flush=True)
"""


async def test_the_death_of_a_proxy_ends_its_requests(shared: PickerProcess) -> None:
    """Killed without a word: the kernel closes its sockets, and that must be enough."""
    async with pool(shared, EngineStub()) as served:
        first = First(route=served.route).tell(request_headers())
        messages = [one.SerializeToString().hex() for one in (first, request_body(chat()))]
        proxy = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _PROXY, shared.address, *messages, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert proxy.stdout is not None
            async with asyncio.timeout(DEADLINE_S):
                assert await proxy.stdout.readline() == b"placed\n"
            await counts(served, 1)
        finally:
            proxy.send_signal(signal.SIGKILL)
            await proxy.communicate()
        await counts(served, 0)


async def test_the_load_moves_to_the_endpoint_that_served(shared: PickerProcess) -> None:
    """The proxy retried elsewhere and says so with the response's headers."""
    async with pool(shared, EngineStub(0), EngineStub(5)) as served, served.stream() as stream:
        chosen, other = served.engines
        assert await place(stream) == chosen.address
        await counts(served, 1, 0)
        await stream.send(response_headers(served=other.address))
        await stream.receive()
        await counts(served, 0, 1)
        assert await shared.sample("igw_picker_moved_total", endpoint=chosen.address) == 1.0
        await stream.rest()
        await counts(served, 0, 0)


@pytest.mark.parametrize("address", ["127.0.0.9:8000", "", "nonsense"], ids=["unknown", "empty", "nonsense"])
async def test_an_unknown_endpoint_that_served_changes_nothing(shared: PickerProcess, address: str) -> None:
    """One that has just left the pool, or another pool's after a failover."""
    async with pool(shared, EngineStub()) as served, served.stream() as stream:
        await place(stream)
        await stream.send(response_headers(served=address))
        assert kind(await stream.receive()) == "response_headers"
        await counts(served, 1)
        await stream.rest()
        await counts(served, 0)


async def test_a_refused_request_counts_nowhere(shared: PickerProcess) -> None:
    """It never reached an engine."""
    async with pool(shared, EngineStub()) as served, served.stream() as stream:
        await stream.send(request_headers(), request_body(b"no JSON"))
        await stream.last()
        await counts(served, 0)


async def test_an_engine_that_leaves_while_it_answers_does_not_disturb_its_streams(shared: PickerProcess) -> None:
    """Scaling in: the endpoint is gone from the manifests before its last response ends."""
    async with pool(shared, EngineStub()) as kept:
        async with AsyncExitStack() as stack:
            async with pool(shared, EngineStub()) as served:
                stream = await stack.enter_async_context(served.stream())
                await place(stream)

            async def gone() -> bool:
                _, text = await shared.get("/metrics")
                return served.engines[0].address not in text.partition("igw_picker_endpoint_available")[2]

            await eventually(gone, "the endpoint has left")
            await stream.send(response_headers(), response_body(b"{}"))
            assert len(await stream.replies(2)) == 2
            assert await stream.rest() == []
        async with kept.stream() as stream:
            assert await place(stream) == kept.engines[0].address
