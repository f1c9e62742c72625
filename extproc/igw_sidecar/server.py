"""The sidecar's server: which requests are split, what becomes of failures, and the life of the process.

Called by `cli`, and by tests in their own process: `Sidecar` as an async context manager listens; it ends with a drain.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final

import aiohttp
import orjson
from aiohttp import web

from igw_api.wire import (
    PREFILL_FAILED,
    PREFILL_FAILURE_HEADER,
    PREFILL_OUTCOME_HEADER,
    PREFILL_STRICT,
    PREFILLED_LOCALLY,
    PREFILLER_HEADER,
)
from igw_sidecar import bodies, prefillers
from igw_sidecar.engines import Engines
from igw_sidecar.errors import EngineGone, PrefillFailed, SplitError, TooLarge
from igw_sidecar.settings import Format, Settings
from igw_sidecar.splits import SPLITS, Job
from igw_sidecar.telemetry import Telemetry

_log = logging.getLogger(__name__)

METRICS_PATH: Final = "/sidecar/metrics"
_SPLIT_PATHS: Final = ("/v1/completions", "/v1/chat/completions")
# Smaller bodies are read before they are sent on: one write instead of a task that copies.
_SMALL_BYTES: Final = 2**20
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Sidecar:
    """One sidecar. `address` is where it listens."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.telemetry = Telemetry()
        self.address = ("", 0)
        self._engines = Engines(settings, self.telemetry)
        self._group = asyncio.TaskGroup()
        self._runner = web.AppRunner(
            self._application(), handler_cancellation=True, access_log=None, shutdown_timeout=settings.drain_s
        )

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=self.settings.max_body_bytes)
        app.router.add_get(METRICS_PATH, self._metrics)
        for path in _SPLIT_PATHS:
            app.router.add_post(path, self._counted(self._generate))
        app.router.add_route("*", "/{path:.*}", self._counted(self._pass))
        return app

    async def __aenter__(self) -> "Sidecar":
        """Listen. OSError if the address cannot be had."""
        await self._group.__aenter__()
        await self._engines.__aenter__()
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.settings.host, self.settings.port, reuse_port=False).start()
        except OSError:
            await self.__aexit__(None, None, None)
            raise
        self.address = self._runner.addresses[0][:2]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no new connections, leave requests `drain_s` seconds, close."""
        await self._runner.cleanup()
        await self._engines.__aexit__()
        await self._group.__aexit__(kind, error, trace)

    def _counted(self, handler: Callable[[web.Request], Awaitable[tuple[str, web.StreamResponse]]]) -> _Handler:
        """Count how a request ends. The outcome of one whose client leaves, or that breaks off, is `gone`."""

        async def handle(request: web.Request) -> web.StreamResponse:
            outcome = "gone"
            self.telemetry.in_flight.inc()
            try:
                outcome, response = await handler(request)
                return response
            except ConnectionResetError:
                return web.Response()  # its client has left, and reads nothing
            finally:
                self.telemetry.in_flight.dec()
                self.telemetry.requests.labels(outcome).inc()

        return handle

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self.telemetry.page(), headers={"content-type": "text/plain; version=0.0.4"})

    async def _pass(self, request: web.Request) -> tuple[str, web.StreamResponse]:
        return await self._forward(request, await self._payload(request), None, "passed")

    async def _payload(self, request: web.Request) -> bytes | aiohttp.StreamReader | None:
        if not request.body_exists:
            return None
        most = min(_SMALL_BYTES, self.settings.max_body_bytes)
        small = request.content_length is not None and request.content_length <= most
        return await request.read() if small else request.content

    async def _generate(self, request: web.Request) -> tuple[str, web.StreamResponse]:
        named = request.headers.get(PREFILLER_HEADER)
        if named is None:
            return await self._forward(request, await self._payload(request), PREFILLED_LOCALLY, PREFILLED_LOCALLY)
        try:
            raw = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return "refused", _refusal(TooLarge(self.settings.max_body_bytes))
        body = _object(raw)
        if body is None or not bodies.splittable(body):
            # What is wrong with it, the engine says.
            return await self._forward(request, raw, PREFILLED_LOCALLY, PREFILLED_LOCALLY)
        try:
            return "remote", await self._split(request, named, body)
        except PrefillFailed as failure:
            return await self._without_prefiller(request, raw, failure)
        except EngineGone as error:
            return "unreachable", _refusal(error)

    async def _split(self, request: web.Request, named: str, body: dict[str, Any]) -> web.StreamResponse:
        settings = self.settings
        try:
            prefiller = prefillers.parse(named, settings.allowed)
        except prefillers.NotAllowed as error:
            raise PrefillFailed("refused", str(error)) from None
        job = Job(request, body, prefiller, settings.bootstrap_port, self._group)
        return await SPLITS[settings.format](self._engines, job)

    async def _without_prefiller(
        self, request: web.Request, raw: bytes, failure: PrefillFailed
    ) -> tuple[str, web.StreamResponse]:
        """The failure policy: refuse, or compute the prompt here after all."""
        self.telemetry.prefill_failures.labels(failure.reason).inc()
        strict = request.headers.get(PREFILL_FAILURE_HEADER) == PREFILL_STRICT
        _log.warning(
            "prefill failed reason=%s policy=%s: %s", failure.reason, "strict" if strict else "decode", failure
        )
        if strict:
            return "refused", _refusal(failure)
        return await self._forward(request, raw, PREFILL_FAILED, PREFILL_FAILED, failure)

    async def _forward(
        self,
        request: web.Request,
        body: bytes | aiohttp.StreamReader | None,
        header: str | None,
        outcome: str,
        failure: PrefillFailed | None = None,
    ) -> tuple[str, web.StreamResponse]:
        """To the engine beside us, whole; because of a `failure`, if there was one."""
        try:
            async with self._engines.opened(request, body) as response:
                if failure is not None and self.settings.format is Format.SGLANG and response.status == 400:
                    # In SGLang's decode mode it refuses requests without a room: that is no fault of the client's.
                    return "refused", _refusal(failure)
                return outcome, await self._engines.relay(request, response, header)
        except EngineGone as error:
            return "unreachable", _refusal(error)


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def _refusal(error: SplitError) -> web.Response:
    headers = {PREFILL_OUTCOME_HEADER: PREFILL_FAILED} if isinstance(error, PrefillFailed) else {}
    return web.Response(body=error.body(), status=error.status, content_type="application/json", headers=headers)
