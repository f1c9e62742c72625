"""Exporters of GPUs are asked over real sockets, one page for all endpoints that name it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from igw_extproc.domain import Endpoint
from igw_extproc.gpu_watch import GpuWatch

PATIENCE = 30.0
PORT, GPUS = "inferencegateway.io/gpu-metrics-port", "inferencegateway.io/gpus"


class Exporter:
    """Tells of two GPUs, in percent."""

    def __init__(self) -> None:
        self.busy = [20, 80]
        self.status = 200
        self.asked = 0
        self.port = 0

    async def page(self, _: web.Request) -> web.Response:
        self.asked += 1
        text = "".join(f'DCGM_FI_DEV_GPU_UTIL{{gpu="{at}"}} {value}\n' for at, value in enumerate(self.busy))
        return web.Response(text=text, status=self.status)


@asynccontextmanager
async def exporting() -> AsyncIterator[Exporter]:
    made = Exporter()
    app = web.Application()
    app.router.add_get("/metrics", made.page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, reuse_port=False).start()
        made.port = int(runner.addresses[0][1])
        yield made
    finally:
        await runner.cleanup()


class Told:
    """What a watch says, by address."""

    def __init__(self) -> None:
        self.shares: dict[str, float | None] = {}
        self._changed = asyncio.Event()

    def gpu_told(self, address: str, share: float | None) -> None:
        self.shares[address] = share
        self._changed.set()

    async def until(self, **wanted: float | None) -> None:
        async with asyncio.timeout(PATIENCE):
            while {name: self.shares.get(name, -1) for name in wanted} != wanted:
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def watching(told: Told, *endpoints: Endpoint) -> AsyncIterator[GpuWatch]:
    made = GpuWatch(told, interval=0.05)
    made.sync(endpoints)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(made.run())
        try:
            yield made
        finally:
            task.cancel()


def endpoint(host: int, exporter: Exporter, gpus: str) -> Endpoint:
    return Endpoint(f"127.0.0.1:{host}", {PORT: str(exporter.port), GPUS: gpus})


async def test_one_page_tells_of_all_who_name_it_and_changes_are_seen() -> None:
    told = Told()
    async with exporting() as exporter:
        both = endpoint(1, exporter, "0"), endpoint(2, exporter, "1")
        async with watching(told, *both):
            await told.until(**{"127.0.0.1:1": 0.2, "127.0.0.1:2": 0.8})
            exporter.busy = [50, 60]
            await told.until(**{"127.0.0.1:1": 0.5, "127.0.0.1:2": 0.6})


async def test_a_silent_exporter_leaves_it_unknown_until_it_answers_again() -> None:
    told = Told()
    async with exporting() as exporter, watching(told, endpoint(1, exporter, "0")):
        await told.until(**{"127.0.0.1:1": 0.2})
        exporter.status = 503
        await told.until(**{"127.0.0.1:1": None})
        exporter.status = 200
        await told.until(**{"127.0.0.1:1": 0.2})


async def test_where_nobody_listens_others_are_told_all_the_same() -> None:
    told = Told()
    async with exporting() as gone:
        closed = endpoint(1, gone, "0")
    async with exporting() as exporter, watching(told, closed, endpoint(2, exporter, "1")):
        await told.until(**{"127.0.0.1:1": None, "127.0.0.1:2": 0.8})


async def test_an_endpoint_that_comes_is_asked_for_and_one_that_leaves_is_forgotten() -> None:
    told = Told()
    async with exporting() as exporter, watching(told) as watch:
        watch.sync([endpoint(1, exporter, "0")])
        await told.until(**{"127.0.0.1:1": 0.2})
        watch.sync([Endpoint("127.0.0.1:1")])
        assert told.shares == {"127.0.0.1:1": None}
