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
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

import orjson
from aiohttp import web

from igw_sim import calls, faults, replies, tokens
from igw_sim.dialects import DIALECTS
from igw_sim.driver import Driver, Ticket
from igw_sim.exposition import Page
from igw_sim.lengths import Lengths, output_length
from igw_sim.model import Limits, Request, Speed

_log = logging.getLogger(__name__)

VERSION = "0.11.0"
_MOST_BODY_BYTES = 64 * 2**20
# A hung request is given up after this long, so that nothing waits for ever.
_HANG_S = 3600.0
_EMBEDDING_SIZE = 64
_PATHS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/rerank": "rerank",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """One simulated engine. `ranks` is the number of data-parallel engines behind the one port."""

    name: str
    limits: Limits
    speed: Speed
    dialect: str = "vllm"
    models: tuple[str, ...] = ("sim-model",)
    adapters: tuple[str, ...] = ()
    lengths: Lengths = field(default_factory=lambda: Lengths.parse("lognormal:128:0.7"))
    early_headers: bool = True
    ranks: int = 1
    seed: int = 0
    keep_requests: int = 1000
    # What `stop` leaves to running requests, in seconds.
    grace_s: float = 0.0


class SimServer:
    """Start with `start`, run `run` as a task, end with `stop`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.faults = faults.Faults()
        self.died = asyncio.Event()
        self.address = ("", 0)
        self._models: dict[str, str | None] = dict.fromkeys(settings.models)
        self._models |= {adapter: adapter for adapter in settings.adapters}
        self._rng = Random(settings.seed)
        self._drivers = [
            Driver(settings.limits, settings.speed, Random(f"{settings.seed}/{rank}")) for rank in range(settings.ranks)
        ]
        self._dialect = DIALECTS[settings.dialect]
        self._page = Page(self._dialect, settings.models[0], settings.adapters, settings.limits, time.time())
        self._served: Counter[str] = Counter()
        self._answered = 0
        self._started = asyncio.get_running_loop().time()
        self._requests: deque[dict[str, Any]] = deque(maxlen=settings.keep_requests)
        self._connections: set[asyncio.BaseTransport] = set()
        self._number = 0
        self._runner = web.AppRunner(
            self._application(), handler_cancellation=True, access_log=None, shutdown_timeout=settings.grace_s
        )
        self._site: web.TCPSite | None = None

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=_MOST_BODY_BYTES, middlewares=[self._middleware])
        app.on_response_prepare.append(self._sign)
        for path, api in _PATHS.items():
            app.router.add_post(path, self._handler(api))
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/version", self._version)
        app.router.add_get(self._dialect.path, self._metrics)
        app.router.add_get("/sim/state", self._state)
        app.router.add_get("/sim/requests", self._seen)
        app.router.add_post("/sim/fail", self._fail)
        app.router.add_route("*", "/{path:.*}", self._not_found)
        return app

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen, and return the address. OSError if it cannot be had."""
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, host, port, reuse_port=False)
        await self._site.start()
        self.address = self._runner.addresses[0][:2]
        return self.address

    async def run(self) -> None:
        """Run the engines until cancelled."""
        async with asyncio.TaskGroup() as group:
            for driver in self._drivers:
                group.create_task(driver.run())

    async def stop(self) -> None:
        """Stop listening, give running requests `grace_s` seconds, close every connection."""
        await self._runner.cleanup()

    async def break_with(self, changes: dict[str, Any]) -> None:
        """Change what is broken; BadFault on nonsense."""
        self.faults.set(changes)
        for driver in self._drivers:
            driver.slow_down(self.faults.slow)
            driver.stall(self.faults.stall)
        if self.faults.die:
            await self._die()

    async def _die(self) -> None:
        _log.info("died name=%s", self.settings.name)
        if self._site is not None:
            site, self._site = self._site, None
            await site.stop()
        self._abort_connections()
        self.died.set()

    def _abort_connections(self) -> None:
        for transport in tuple(self._connections):
            _reset(transport)

    # Every request.

    @web.middleware
    async def _middleware(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.transport is not None and request.transport not in self._connections:
            self._connections = {t for t in self._connections if not t.is_closing()} | {request.transport}
        if request.path.startswith("/sim/"):
            return await handler(request)
        if request.path != self._dialect.path:
            self._record(request, await request.read())
        if self.faults.hang:
            await asyncio.sleep(_HANG_S)
        return await handler(request)

    async def _sign(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        response.headers["x-sim-engine"] = self.settings.name

    def _record(self, request: web.Request, body: bytes) -> None:
        self._requests.append(
            {
                "method": request.method,
                "path": request.path_qs,
                "headers": [(name.lower(), value) for name, value in request.headers.items()],
                "size": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
                "model": None,
                "time": time.time(),
            }
        )

    # Generation.

    def _handler(self, api: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            reset = self.faults.take_reset()
            if reset == "before":
                _reset(request.transport)
                raise web.HTTPInternalServerError
            status = self.faults.take_error(self._rng)
            if status is not None:
                error = calls.ApiError(status, "injected failure", "InternalServerError")
                return _json(error.body(), status)
            try:
                call = calls.parse(api, await request.read(), self._models)
                self._requests[-1]["model"] = call.model
                response = await self._answer(api, call, request, reset == "after")
            except calls.ApiError as error:
                return _json(error.body(), error.status)
            self._served[api] += 1
            if self.faults.answered():
                await self._die()
            return response

        return handle

    async def _answer(self, api: str, call: calls.Call, request: web.Request, reset: bool) -> web.StreamResponse:
        job = self._job(call, generates=api in replies.REPLIES)
        driver = min(self._drivers, key=_load)
        ticket = driver.submit(job.request)
        try:
            if api not in replies.REPLIES:
                await _until_done(ticket)
                return _json(_BODIES[api](call, job))
            reply = replies.REPLIES[api](job.header(call, int(time.time())))
            if call.stream:
                return await self._stream(request, reply, job, ticket, reset)
            await _until_done(ticket)
            if reset:
                _reset(request.transport)
            return _json(reply.body(job.text, job.usage(ticket)))
        finally:
            driver.cancel(job.request.id)

    def _job(self, call: calls.Call, generates: bool) -> "_Job":
        """Fix the whole generation: how long the reply will be, its text, its blocks."""
        prompt_tokens = tokens.token_count(call.prompt)
        room = self.settings.limits.longest - prompt_tokens
        if room < 1 or (call.max_tokens or 0) > room:
            raise calls.ApiError(
                400,
                f"This model's maximum context length is {self.settings.limits.longest} tokens. However, your request "
                f"has {prompt_tokens} input tokens and asks for {call.max_tokens or 1} output tokens.",
                param="max_tokens",
            )
        seed = tokens.content_seed(call.prompt)
        natural = self.settings.lengths.draw(Random(seed ^ self.settings.seed)) if generates else 1
        count, reason = output_length(natural, call.max_tokens or room, call.min_tokens, call.ignore_end)
        text = tokens.reply(seed, count)
        self._number += 1
        hashes = tokens.block_hashes(call.prompt + text, self.settings.limits.block_tokens, call.adapter or "")
        request_id = f"{self.settings.name}-{self._number:x}"
        return _Job(Request(request_id, prompt_tokens, count, hashes, call.adapter, reason), text)

    async def _stream(
        self, request: web.Request, reply: replies.Reply, job: "_Job", ticket: Ticket, reset: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
        if self.settings.early_headers:
            await response.prepare(request)
        sent = 0
        while ticket.finished is None or sent < job.request.output_tokens:
            if ticket.tokens == sent:
                await ticket.changed()
            if not response.prepared:
                await response.prepare(request)
            words = job.text[sent * tokens.TOKEN_BYTES : ticket.tokens * tokens.TOKEN_BYTES]
            part = (b"" if sent else reply.head()) + reply.words(words)
            sent = ticket.tokens
            if ticket.finished is not None:
                part += reply.tail(job.text, job.usage(ticket))
            await response.write(part)
            if reset:
                _reset(request.transport)
        await response.write_eof()
        return response

    # Everything else.

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
        return web.Response(body=page, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _not_found(self, request: web.Request) -> web.Response:
        return _json(b'{"detail":"Not Found"}', 404)

    async def _state(self, request: web.Request) -> web.Response:
        state = {
            "name": self.settings.name,
            "engine": self.settings.dialect,
            "served": dict(self._served),
            "served_total": sum(self._served.values()),
            "seconds": asyncio.get_running_loop().time() - self._started,
            "faults": asdict(self.faults),
            "statistics": [asdict(driver.engine.statistics()) for driver in self._drivers],
        }
        return _json(orjson.dumps(state))

    async def _seen(self, request: web.Request) -> web.Response:
        return _json(orjson.dumps({"name": self.settings.name, "requests": list(self._requests)}))

    async def _fail(self, request: web.Request) -> web.Response:
        try:
            changes = orjson.loads(await request.read())
            if not isinstance(changes, dict):
                raise faults.BadFault("a JSON object is required")
            await self.break_with(changes)
        except ValueError as error:
            return _json(orjson.dumps({"error": str(error)}), 400)
        return _json(orjson.dumps(asdict(self.faults)))


@dataclass(frozen=True, slots=True)
class _Job:
    """One generation, fixed before it starts."""

    request: Request
    text: bytes

    def header(self, call: calls.Call, created: int) -> replies.Header:
        return replies.Header(self.request.id, call.model, created, call.include_usage, self.request.finish_reason)

    def usage(self, ticket: Ticket) -> replies.Usage:
        cached = ticket.finished.cached_tokens if ticket.finished else 0
        return replies.Usage(self.request.prompt_tokens, self.request.output_tokens, cached)


def _load(driver: Driver) -> int:
    return driver.engine.load


async def _until_done(ticket: Ticket) -> None:
    while ticket.finished is None:
        await ticket.changed()


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def _reset(transport: asyncio.BaseTransport | None) -> None:
    """Close with a TCP reset: what is not sent yet is lost, and the peer sees an error, not an end."""
    if transport is None or transport.is_closing():
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "abort"):
        transport.abort()


def _embedding(text: str) -> list[float]:
    rng = Random(text)
    vector = [rng.gauss(0, 1) for _ in range(_EMBEDDING_SIZE)]
    norm = sum(value * value for value in vector) ** 0.5
    return [value / norm for value in vector]


def _embeddings_body(call: calls.Call, job: _Job) -> bytes:
    data = []
    for index, text in enumerate(call.inputs):
        vector = _embedding(text)
        packed = b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": packed if call.base64 else vector})
    count = job.request.prompt_tokens
    usage = {"prompt_tokens": count, "total_tokens": count}
    return orjson.dumps({"object": "list", "model": call.model, "data": data, "usage": usage})


def _rerank_body(call: calls.Call, job: _Job) -> bytes:
    scored = sorted(((Random(text).random(), index) for index, text in enumerate(call.inputs)), reverse=True)
    results = [
        {"index": index, "document": {"text": call.inputs[index]}, "relevance_score": score}
        for score, index in scored[: call.top_n]
    ]
    usage = {"total_tokens": job.request.prompt_tokens}
    return orjson.dumps({"id": job.request.id, "model": call.model, "results": results, "usage": usage})


_BODIES: dict[str, Callable[[calls.Call, _Job], bytes]] = {"embeddings": _embeddings_body, "rerank": _rerank_body}
