"""The metrics page's port: a crowd of connections keeps no scrape out, and does not take all descriptors."""

import asyncio

import aiohttp
from aiohttp import web

from igw_extproc.metrics_site import MOST, MetricsSite

CROWD = 200


async def test_the_oldest_of_a_crowd_go_and_the_newest_are_served() -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="page")

    app = web.Application()
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await MetricsSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    crowd = [await asyncio.open_connection(host, port) for _ in range(CROWD)]
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/metrics") as answer:
        assert await answer.text() == "page"
    async with asyncio.timeout(20):
        while len(runner.server.connections if runner.server else ()) > MOST:  # noqa: ASYNC110 - sockets' ends
            await asyncio.sleep(0.01)
        ended = [await reader.read() for reader, _ in crowd[: CROWD - MOST]]
    assert not any(ended)
    for _, writer in crowd:
        writer.close()
    await runner.cleanup()
