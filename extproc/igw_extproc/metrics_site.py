"""Where the metrics page listens: an address whose connections cannot take all that this process may have.

Prometheus has one or two. Whoever opens more makes the oldest go, whatever they do, so that a flood of idle ones keeps
no scrape out and leaves the descriptors to proxies and engines. `server` starts it.
"""

import asyncio
from typing import Final

from aiohttp import web

# Connections that stay.
MOST: Final = 64


class MetricsSite(web.BaseSite):
    """As `web.TCPSite`, for at most MOST connections at a time."""

    def __init__(self, runner: web.AppRunner, host: str, port: int) -> None:
        super().__init__(runner)
        self._host = host
        self._port = port

    @property
    def name(self) -> str:
        """For aiohttp's own lists."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises OSError."""
        await super().start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connected, self._host, self._port, reuse_port=False)

    def _connected(self) -> asyncio.Protocol:
        handlers = self._runner.server
        assert handlers is not None, "the runner is set up before its sites start"
        for oldest in handlers.connections[: -MOST + 1]:
            oldest.force_close()
        return handlers()
