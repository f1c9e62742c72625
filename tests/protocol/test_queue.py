"""Requests that wait in the picker, over real sockets: placed when an engine says that it has room, or refused."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from igw_testing.ext_proc import Stream, chat, destinations, headers_set, refusal, request_body, request_headers
from igw_testing.metrics_stub import EngineStub
from igw_testing.picker import PickerProcess, Pool, eventually, pool

pytestmark = pytest.mark.asyncio(loop_scope="session")


def full() -> EngineStub:
    """An engine with a queue of its own."""
    return EngineStub(waiting=5, kv=1.0, running=10)


@asynccontextmanager
async def queued(picker: PickerProcess, *engines: EngineStub, **queue: Any) -> AsyncIterator[Pool]:
    """A pool of engines that serve one request of ours already: without any, they would take the next."""
    async with pool(picker, *engines, queue=queue) as served, AsyncExitStack() as stack:
        for _ in engines:
            resident = await stack.enter_async_context(served.stream())
            await ask(resident)
            await resident.replies(2)
        yield served


async def waiting(served: Pool) -> float:
    """How many wait."""
    name = "igw_picker_waiting_requests"
    return await served.picker.sample(name, pool=f"{served.name}/{served.name}", priority="0")


async def waits(served: Pool, count: int) -> None:
    """Until so many do."""

    async def told() -> bool:
        return await waiting(served) == count

    await eventually(told, f"{count} waiting")


async def ask(stream: Stream) -> None:
    """A whole request."""
    await stream.send(request_headers(), request_body(chat()))


async def test_a_request_waits_until_an_engine_has_room(shared: PickerProcess) -> None:
    async with queued(shared, engine := full()) as served, served.stream() as stream:
        await ask(stream)
        await waits(served, 1)
        engine.waiting, engine.kv, engine.running = 0, 0.0, 0
        head, *_ = await stream.replies(2)
        assert destinations(head) == [engine.address]


async def test_a_request_that_waits_too_long_is_refused_and_told_when_to_come_back(shared: PickerProcess) -> None:
    async with queued(shared, full(), waitTimeout="300ms") as served, served.stream() as stream:
        await ask(stream)
        reply = await stream.last()
        refusal(reply, 429, "rejected-saturated")
        assert 1 <= int(headers_set(reply)["retry-after"]) <= 60


async def test_a_client_that_goes_leaves_the_queue(shared: PickerProcess) -> None:
    async with queued(shared, full()) as served:
        async with served.stream() as stream:
            await ask(stream)
            await waits(served, 1)
        await waits(served, 0)


async def test_when_the_queue_is_full_the_next_is_refused_at_once(shared: PickerProcess) -> None:
    async with queued(shared, full(), maxSize=1) as served, served.stream() as first, served.stream() as second:
        await ask(first)
        await waits(served, 1)
        await ask(second)
        refusal(await second.last(), 429, "rejected-saturated")
