"""Simulated engines in the test's own process, on real sockets, and quick enough for tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import orjson

from igw_sim.lengths import Lengths
from igw_sim.model import Limits, Speed
from igw_sim.presets import PRESETS
from igw_sim.server import SimServer
from igw_sim.settings import Settings


def sim_settings(name: str = "sim", output_tokens: str = "fixed:8", **changes: Any) -> Settings:
    """The `tiny` preset; `changes` are fields of `Settings`, or of its limits or speed."""
    tiny = PRESETS["tiny"]
    limits = {field: changes.pop(field) for field in tuple(changes) if field in Limits.__slots__}
    speed = {field: changes.pop(field) for field in tuple(changes) if field in Speed.__slots__}
    return Settings(
        name=name,
        limits=replace(tiny.limits, **limits),
        speed=replace(tiny.speed, **speed),
        lengths=Lengths.parse(output_tokens),
        **{"transfer": tiny.transfer, **changes},
    )


class RunningSim:
    """A server that listens: its settings, its URL and the server itself."""

    def __init__(self, server: SimServer, address: tuple[str, int]) -> None:
        self.server = server
        self.settings = server.settings
        self.address = address
        self.url = f"http://{address[0]}:{address[1]}"


@asynccontextmanager
async def running_sim(settings: Settings | None = None) -> AsyncIterator[RunningSim]:
    """One simulated engine for as long as the context lasts."""
    server = SimServer(settings or sim_settings())
    async with asyncio.TaskGroup() as group:
        running = group.create_task(server.run())
        try:
            yield RunningSim(server, await server.start())
        finally:
            await server.stop()
            running.cancel()


async def statistics(session: aiohttp.ClientSession, sim: RunningSim) -> dict[str, Any]:
    """An engine's own, without a proxy between."""
    async with session.get(f"{sim.url}/sim/state") as response:
        state = orjson.loads(await response.read())
    known: dict[str, Any] = state["statistics"][0] | {"leases_expired": state["leases_expired"]}
    return known


async def becomes(session: aiohttp.ClientSession, sim: RunningSim, fits: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the engine's statistics fit; at most ten seconds."""
    async with asyncio.timeout(10):
        for _ in range(2000):
            if fits(known := await statistics(session, sim)):
                return
            await asyncio.sleep(0.005)
    raise AssertionError(f"it stays {known}")


async def idle(session: aiohttp.ClientSession, *sims: RunningSim) -> None:
    """Wait until no engine holds KV for anybody: nothing runs, nothing waits to be fetched."""
    for sim in sims:
        await becomes(session, sim, lambda known: known["kv_used_blocks"] == known["kept"] == known["loading"] == 0)
