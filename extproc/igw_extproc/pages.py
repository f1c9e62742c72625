"""What the picker tells people and monitoring by HTTP, on its metrics port: read-only. Started by `server`.

    /metrics                     for Prometheus
    /readyz                      200 once requests can be placed
    /state                       pools, endpoints and queues now, JSON: for `igw top`
    /decisions?limit=50          the last requests and what became of them, JSON
    /decisions/REQUEST-ID        one of them, with what was weighed: for `igw explain`

No prompt, key or body is on any of them.
"""

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from igw_extproc.explanation import explained, listed
from igw_extproc.history import MOST, History
from igw_extproc.metrics_site import MetricsSite

LISTED: Final = 50
_MOST_DIGITS: Final = 4


class Pages:
    """The handlers. `overview` is `/state`."""

    def __init__(
        self,
        registry: CollectorRegistry,
        history: History,
        overview: Callable[[], dict[str, Any]],
        ready: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._history = history
        self._overview = overview
        self._ready = ready
        self._clock = clock

    async def serve(self, host: str, port: int) -> tuple[web.AppRunner, int]:
        """Open the port; the caller cleans the runner up. Raises OSError."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/state", self._state)
        app.router.add_get("/decisions", self._decisions)
        app.router.add_get("/decisions/{name}", self._decision)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await MetricsSite(runner, host, port).start()
        return runner, int(runner.addresses[0][1])

    async def _metrics(self, _: web.Request) -> web.Response:
        # Numbers are read here, in one go; the text of thousands of lines is made off the loop.
        families = list(self._registry.collect())
        text = await asyncio.to_thread(generate_latest, _Collected(families))
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _readyz(self, _: web.Request) -> web.Response:
        ready = self._ready()
        return web.Response(status=200 if ready else 503, text="ready\n" if ready else "not ready\n")

    async def _state(self, _: web.Request) -> web.Response:
        return _json(self._overview())

    async def _decisions(self, request: web.Request) -> web.Response:
        asked = request.query.get("limit", str(LISTED))
        if not (asked.isdecimal() and len(asked) <= _MOST_DIGITS and 1 <= int(asked) <= MOST):
            return _json({"error": f"limit must be a number from 1 to {MOST}"}, 400)
        now = self._clock()
        return _json({"decisions": [listed(told, now) for told in islice(self._history, int(asked))]})

    async def _decision(self, request: web.Request) -> web.Response:
        told = self._history.find(request.match_info["name"])
        if told is None:
            return _json({"error": f"no such request among the last {MOST}"}, 404)
        return _json(explained(told, self._clock()))


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(value), content_type="application/json")


class _Collected(CollectorRegistry):
    """Families that were collected already, in the shape that the text writer reads."""

    def __init__(self, families: list[Any]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Any]:
        return self._families
