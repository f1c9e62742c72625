"""An engine that does what a test tells it, on a real socket: it echoes, streams chunk by chunk, or refuses.

For tests of the proxy, which need to hold a response open or break it at a chosen moment. Anything about load belongs
to the simulated engines. `python -m igw_testing.engine_double HOST PORT` runs one until it is killed; its name is the
Pod's, from `POD_NAME`.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import WSCloseCode, WSMsgType, web

END = b""
# Said by WebSocket, it makes the engine close it, with the code of that name.
GOING_AWAY = "going away"
# Requests that run and that wait there, and the share of the KV cache that is in use.
IDLE, FULL = (0.0, 0.0, 0.0), (8.0, 4.0, 1.0)


@dataclass
class EngineDouble:
    """One engine. Every answer names it; `seen` has the headers of each request, in order."""

    name: str
    port: int = 0
    status: int = 200
    numbers: tuple[float, float, float] = IDLE  # of its metrics page
    delay: float = 0.0  # seconds until it answers
    seen: list[dict[str, str]] = field(default_factory=list)
    bodies: list[int] = field(default_factory=list)
    pages: int = 0  # how often it was asked for its metrics
    chunks: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        """`ip:port`."""
        return f"127.0.0.1:{self.port}"

    async def close(self) -> None:
        """It dies: nobody listens there any more."""
        assert self.runner is not None, "it runs"
        await self.runner.cleanup()

    async def echo(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("upgrade", "").lower() == "websocket" and self.status == 200:
            return await self._websocket(request)
        body = await request.read()
        self._saw(request)
        self.bodies.append(len(body))
        await asyncio.sleep(self.delay)
        return web.json_response({"engine": self.name, "path": request.path, "size": len(body)}, status=self.status)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Sends what `chunks` gets, until END."""
        await request.read()
        self._saw(request)
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "x-engine": self.name})
        await response.prepare(request)
        while (chunk := await self.chunks.get()) != END:
            await response.write(chunk)
        return response

    async def metrics(self, _request: web.Request) -> web.Response:
        """A vLLM's page, so that a real picker knows it."""
        self.pages += 1
        names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        lines = [f"vllm:{name} {number}" for name, number in zip(names, self.numbers, strict=True)]
        return web.Response(text="".join(f"{line}\n" for line in lines))

    def _saw(self, request: web.Request) -> None:
        self.seen.append({name.lower(): value for name, value in request.headers.items()})

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.data == GOING_AWAY:
                await socket.close(code=WSCloseCode.GOING_AWAY)
            elif message.type is WSMsgType.TEXT:
                await socket.send_str(f"{self.name} {message.data}")
        return socket


@asynccontextmanager
async def running_engine(name: str = "one", port: int = 0, host: str = "127.0.0.1") -> AsyncIterator[EngineDouble]:
    """An engine for as long as the context lasts. A port is only given to bring one back at its old place."""
    engine = EngineDouble(name)
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_get("/metrics", engine.metrics)
    app.router.add_post("/stream", engine.stream)
    app.router.add_route("*", "/{path:.*}", engine.echo)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, reuse_address=True)
        await site.start()
        engine.port = runner.addresses[0][1]
        engine.runner = runner
        yield engine
    finally:
        await runner.cleanup()


async def main(host: str, port: str) -> None:
    """One engine, until it is killed."""
    async with running_engine(os.environ["POD_NAME"], int(port), host):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
