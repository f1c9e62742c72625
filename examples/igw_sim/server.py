"""One simulated engine on one port: the HTTP API of the real engines over one or more `Driver`s.

It checks requests (`calls`), runs them through an engine, renders answers (`replies`), breaks on demand (`faults`),
and tells tests what it saw under `/sim/`. `cli` starts it; so do tests, in their own process. It never exits the
process: `died` is set when the engine is to look dead.
"""

import asyncio
import hashlib
import logging
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from random import Random
from typing import Any

import orjson
from aiohttp import web

from igw_sim import calls, faults, handover, replies, splits, tokens
from igw_sim.dialects import DIALECTS
from igw_sim.driver import Driver, Ticket
from igw_sim.events import DONE, Reply
from igw_sim.exposition import Page, garbled
from igw_sim.jobs import Job, plan
from igw_sim.kept import Kept, Response
from igw_sim.model import Finished
from igw_sim.settings import Settings

_log = logging.getLogger(__name__)

VERSION = "0.11.0"
_MOST_BODY_BYTES = 64 * 2**20
# A hung request is given up after this long, so that nothing waits for ever.
_HANG_S = 3600.0
_PATHS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/rerank": "rerank",
}
_EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_RECORD: web.RequestKey[dict[str, Any]] = web.RequestKey("record", dict)


class SimServer:
    """Start with `start`, run `run` as a task, end with `stop`. Needs a running loop from the beginning."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.faults = faults.Faults()
        self.died = asyncio.Event()
        self._models: dict[str, str | None] = dict.fromkeys(settings.models)
        self._models |= {adapter: adapter for adapter in settings.adapters}
        # By name too: engines with one seed give equal replies, but fail and jitter each in their own way.
        self._rng = Random(f"{settings.seed}/{settings.name}")
        self._drivers = [
            Driver(settings.limits, settings.speed, Random(f"{settings.seed}/{settings.name}/{rank}"))
            for rank in range(settings.ranks)
        ]
        self._dialect = DIALECTS[settings.dialect]
        self._page = Page(self._dialect, settings.models[0], settings.adapters, settings.limits, time.time())
        self._served: Counter[str] = Counter()
        self._kept = Kept()
        self._started = asyncio.get_running_loop().time()
        self._requests: deque[dict[str, Any]] = deque(maxlen=settings.keep_requests)
        self._number = 0
        self._handover = handover.Handover(settings.transfer, settings.lease_s, self.faults)
        self._runner = web.AppRunner(
            self._application(), handler_cancellation=True, access_log=None, shutdown_timeout=settings.grace_s
        )
        self._site: web.TCPSite | None = None

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=_MOST_BODY_BYTES, middlewares=[self._middleware])
        app.on_response_prepare.append(self._sign)
        for path, api in _PATHS.items():
            app.router.add_post(path, self._api(api))
        app.router.add_get("/v1/responses/{id}", self._kept_response)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/version", self._version)
        app.router.add_get(self._dialect.path, self._metrics)
        app.router.add_get("/sim/state", self._state)
        app.router.add_get("/sim/requests", self._seen)
        app.router.add_post("/sim/fail", self._fail)
        self._handover.mount(app)
        app.router.add_route("*", "/{path:.*}", self._not_found)
        return app

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen, and return the address. OSError if it cannot be had."""
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, host, port, reuse_port=False)
        await self._site.start()
        address: tuple[str, int] = self._runner.addresses[0][:2]
        self._handover.open(address)
        return address

    async def run(self) -> None:
        """Run the engines until cancelled."""
        async with asyncio.TaskGroup() as group:
            for driver in self._drivers:
                group.create_task(driver.run())

    async def stop(self) -> None:
        """Stop listening, give running requests `grace_s` seconds, close every connection."""
        await self._runner.cleanup()
        await self._handover.close()

    async def break_with(self, changes: dict[str, Any]) -> None:
        """Change what is broken; BadFault on nonsense."""
        self.faults.set(changes)
        for driver in self._drivers:
            driver.slow_down(self.faults.slow)
            driver.stall(self.faults.stall)
        if self.faults.die:
            await self._die()

    async def _die(self) -> None:
        """What a killed process looks like from outside: the port and all connections closed."""
        _log.info("died name=%s", self.settings.name)
        if self._site is not None:
            site, self._site = self._site, None
            await site.stop()
        for connection in self._runner.server.connections if self._runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()
        self.died.set()

    # Every request.

    @web.middleware
    async def _middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.path.startswith("/sim/"):
            return await handler(request)
        if request.path != self._dialect.path and not request.path.startswith(handover.PREFIX):
            self._record(request, await request.read())
        if self.faults.hang:
            await asyncio.sleep(_HANG_S)
        return await handler(request)

    async def _sign(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        response.headers["x-sim-engine"] = self.settings.name

    def _record(self, request: web.Request, body: bytes) -> None:
        record = {
            "method": request.method,
            "path": request.path_qs,
            "headers": [(name.lower(), value) for name, value in request.headers.items()],
            "size": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
            "model": None,
            "time": time.time(),
        }
        request[_RECORD] = record
        self._requests.append(record)

    # Generation.

    def _api(self, api: str) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            broken = self.faults.take_reset()
            if broken == "before":
                _break(request.transport, broken)
                return web.Response(status=500)
            status = self.faults.take_error(self._rng)
            if status is not None:
                error = calls.ApiError(status, "injected failure", "InternalServerError")
                return _json(error.body(), status)
            try:
                call = self._kept.continued(calls.parse(api, await request.read(), self._models))
                request[_RECORD]["model"] = call.model
                response = await self._answer(api, call, request, broken)
            except calls.ApiError as error:
                return _json(error.body(), error.status)
            self._served[api] += 1
            if self.faults.answered():
                await self._send(request, response)
                await self._die()
            return response

        return handle

    async def _send(self, request: web.Request, response: web.StreamResponse) -> None:
        """Send all of it now, rather than when the handler is done."""
        await response.prepare(request)
        await response.write_eof()

    async def _answer(self, api: str, call: calls.Call, request: web.Request, broken: str | None) -> web.StreamResponse:
        self._number += 1
        settings = self.settings
        job = plan(call, f"{settings.name}-{self._number:x}", settings.limits, settings.lengths, settings.seed)
        address = self._handover.address
        split = splits.parse(call.halves, job.request.id, settings.dialect, settings.role, address)
        driver = min(self._drivers, key=lambda driver: driver.engine.load)
        if split is not None and split.room and split.keeps:
            return await self._prefill(api, call, job, split, driver)
        ticket = driver.submit(split.half(job.request) if split else job.request)
        try:
            if api in replies.BODIES:
                await ticket.done()
                return _json(replies.BODIES[api](call, job.request.id, job.request.prompt_tokens))
            fetch = partial(self._fetch, split, driver, ticket, job.request.id)
            reply = replies.REPLIES[api](job.header(call, int(time.time())))
            if call.stream:
                response = await self._stream(request, reply, job, ticket, broken, fetch)
                if ticket.finished is not None:
                    self._keep(call, job, reply, ticket.finished)
                return response
            await fetch()
            finished = await ticket.done()
            self._keep(call, job, reply, finished)
            body = reply.body(job.text, job.usage(finished))
            if broken:
                return await self._half(request, body, broken)
            if split is not None and split.keeps:
                body = _with(body, "kv_transfer_params", self._handover.keep(job.request, driver))
            return _json(body)
        finally:
            if not self._handover.keeps(job.request.id):
                driver.drop(job.request.id)

    async def _fetch(self, split: splits.Split | None, driver: Driver, ticket: Ticket, request_id: str) -> None:
        if split is not None and not split.keeps:
            await self._handover.fetch(split, ticket, lambda: driver.deliver(request_id))

    async def _prefill(
        self, api: str, call: calls.Call, job: Job, split: splits.Split, driver: Driver
    ) -> web.StreamResponse:
        """SGLang's: one token once the KV is with the decoder."""
        finished = await self._handover.serve(split, split.half(job.request), driver)
        reply = replies.REPLIES[api](job.header(call, int(time.time())))
        text, usage = job.text[: tokens.TOKEN_BYTES], job.usage(finished)
        if not call.stream:
            return _json(reply.body(text, usage))
        return web.Response(body=reply.head() + reply.words(text) + reply.tail(text, usage), headers=_EVENTS)

    async def _stream(
        self,
        request: web.Request,
        reply: Reply,
        job: Job,
        ticket: Ticket,
        broken: str | None,
        fetch: Callable[[], Awaitable[None]],
    ) -> web.StreamResponse:
        """Send tokens as they come; those that came while the last write was under way go out together."""
        response = web.StreamResponse(headers=_EVENTS)
        if self.settings.early_headers:
            await response.prepare(request)
        try:
            await fetch()
        except calls.ApiError as error:
            if not response.prepared:
                raise
            await response.write(b"data: " + error.body() + b"\n\n" + DONE)
            return response
        sent = 0
        while sent < job.request.output_tokens:
            enough = min(sent + self.settings.write_every, job.request.output_tokens) if sent else 1
            if ticket.tokens < enough:
                await ticket.changed(enough)
            if not response.prepared:
                await response.prepare(request)
            words = job.text[sent * tokens.TOKEN_BYTES : ticket.tokens * tokens.TOKEN_BYTES]
            part = (b"" if sent else reply.head()) + reply.words(words)
            sent = ticket.tokens
            if ticket.finished is not None:
                part += reply.tail(job.text, job.usage(ticket.finished))
            try:
                await response.write(part)
            except ConnectionResetError:
                break
            if broken:
                _break(request.transport, broken)
        return response

    async def _half(self, request: web.Request, body: bytes, broken: str) -> web.StreamResponse:
        """The first half of a body that was announced in full; nothing of it where the connection is reset."""
        response = web.StreamResponse(headers={"content-type": "application/json", "content-length": str(len(body))})
        if broken == "cut":
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
        _break(request.transport, broken)
        return response

    def _keep(self, call: calls.Call, job: Job, reply: Reply, finished: Finished) -> None:
        if call.keeps:
            body = reply.body(job.text, job.usage(finished))
            self._kept.put(job.header(call, 0).response_id, Response(call.prompt + job.text, body))

    # Everything else.

    async def _kept_response(self, request: web.Request) -> web.Response:
        try:
            return _json(self._kept.get(request.match_info["id"]).body)
        except calls.ApiError as error:
            return _json(error.body(), error.status)

    async def _list_models(self, request: web.Request) -> web.Response:
        cards = [
            {
                "id": name,
                "object": "model",
                "created": int(self._page.started_at),
                "owned_by": "vllm",
                "root": name,
                "parent": self.settings.models[0] if adapter else None,
                "max_model_len": None if adapter else self.settings.limits.longest,
            }
            for name, adapter in self._models.items()
        ]
        return _json(orjson.dumps({"object": "list", "data": cards}))

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=self.faults.health)

    async def _version(self, request: web.Request) -> web.Response:
        return _json(orjson.dumps({"version": VERSION}))

    async def _metrics(self, request: web.Request) -> web.Response:
        if self.faults.metrics == "hang":
            await asyncio.sleep(_HANG_S)
        if self.faults.metrics == "404":
            return await self._not_found(request)
        readings = [driver.engine.statistics() for driver in self._drivers]
        page = self._page.render(readings, asyncio.get_running_loop().time(), time.time())
        if self.faults.metrics == "garbage":
            page = garbled(page, self._rng)
        return web.Response(body=page, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _not_found(self, request: web.Request) -> web.Response:
        return _json(b'{"detail":"Not Found"}', 404)

    async def _state(self, request: web.Request) -> web.Response:
        state = {
            "name": self.settings.name,
            "engine": self.settings.dialect,
            "served": dict(self._served),
            "served_total": self._served.total(),
            "seconds": asyncio.get_running_loop().time() - self._started,
            "faults": asdict(self.faults),
            "role": self.settings.role,
            "leases_expired": self._handover.expired,
            "statistics": [asdict(driver.engine.statistics()) for driver in self._drivers],
        }
        return _json(orjson.dumps(state))

    async def _seen(self, request: web.Request) -> web.Response:
        return _json(orjson.dumps({"name": self.settings.name, "requests": list(self._requests)}))

    async def _fail(self, request: web.Request) -> web.StreamResponse:
        try:
            changes = orjson.loads(await request.read())
            if not isinstance(changes, dict):
                raise faults.BadFault("a JSON object is required")
            die = changes.pop("die", False)
            await self.break_with(changes)
        except ValueError as error:
            return _json(orjson.dumps({"error": str(error)}), 400)
        response = _json(orjson.dumps(asdict(self.faults)))
        if die is True:
            await self._send(request, response)
            await self.break_with({"die": True})
        return response


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def _with(body: bytes, name: str, value: Any) -> bytes:
    return orjson.dumps({**orjson.loads(body), name: value})


def _break(transport: asyncio.Transport | None, how: str) -> None:
    """End the connection: with a TCP reset, of which the peer sees an error; or, if it is `cut`, as if all was said."""
    if transport is None or transport.is_closing():
        return
    if how == "cut":
        transport.close()
        return
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
