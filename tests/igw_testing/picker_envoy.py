"""The real Envoy before the real picker, as Envoy Gateway can set it up: one listener, one filter for all its routes.

Two pools share the port; the second one's route matches only a header (or metadata) that the picker sets. Each pool has
a busy engine and an idle one, so a request that was not moved is seen: round robin would find the busy one. The route
`/web` is somebody else's and leads to a plain backend.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from aiohttp import web

from igw_api.objects import Key, Lead
from igw_api.objectset import ObjectSet, dump
from igw_testing.envoy_process import running_envoy
from igw_testing.metrics_stub import EngineStub
from igw_testing.picker import PickerProcess, model, pool_documents, running, write_manifests

RULE: Final = "httproute/infra/igw/rule/0"
OTHER: Final = "httproute/users/web/rule/0/match/0/*"
TYPES: Final = "type.googleapis.com/envoy.extensions"
ONE_MESSAGE: Final = "ONE_MESSAGE"
# What the picker writes into a request.
TOLD: Final = (
    "x-igw-pool",
    "x-gateway-destination-endpoint",
    "x-igw-lease",
    "x-prefiller-host-port",
    "x-igw-prefill-failure",
)


@dataclass(slots=True)
class Engine(EngineStub):
    """Answers any request with its name, and a WebSocket with what it is told.

    `/web/echo` is answered piece by piece while it comes, `/v1/slow` only once `may_end` is set.
    """

    name: str = ""
    seen: list[str] = field(default_factory=list)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Its metrics page, an echo, or who it is. What the picker told is in the answer."""
        if request.path == "/metrics":
            return web.Response(text=self.page())
        self.seen.append(request.method)
        if request.headers.get("upgrade") == "websocket":
            return await self._converse(request)
        if request.path == "/web/echo":
            return await _echo(request)
        body = await request.read()
        if request.path == "/v1/slow":
            await self.may_end.wait()
        told = {name: request.headers[name] for name in TOLD if name in request.headers}
        return web.json_response({"name": self.name, "body": body.decode(), "told": told})

    async def _converse(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"{self.name}: {message.data}")
        return socket


async def _echo(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    async for piece in request.content.iter_any():
        await response.write(piece)
    return response


@asynccontextmanager
async def answering(engine: Engine) -> AsyncIterator[None]:
    """The engine serves on a port of the system's choice."""
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{tail:.*}", engine.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, engine.host, 0, reuse_port=False).start()
        engine.port = int(runner.addresses[0][1])
        yield
    finally:
        await runner.cleanup()


# ------------------------------------------------------------------------------------------------ Envoy


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, ports: list[int], **more: Any) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _address(port)}} for port in ports]
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}
    return {"name": name, "type": "STATIC", "load_assignment": assignment, **more}


def _placed(name: str, ports: list[int]) -> dict[str, Any]:
    """A cluster that goes where the picker says, else round robin."""
    round_robin = {
        "name": "envoy.load_balancing_policies.round_robin",
        "typed_config": {"@type": f"{TYPES}.load_balancing_policies.round_robin.v3.RoundRobin"},
    }
    override = {
        "@type": f"{TYPES}.load_balancing_policies.override_host.v3.OverrideHost",
        "override_host_sources": [
            {"header": "x-gateway-destination-endpoint"},
            {"metadata": {"key": "envoy.lb", "path": [{"key": "x-gateway-destination-endpoint"}]}},
        ],
        "fallback_policy": {"policies": [{"typed_extension_config": round_robin}]},
    }
    named = {"name": "envoy.load_balancing_policies.override_host", "typed_config": override}
    policy = {"policies": [{"typed_extension_config": named}]}
    return _cluster(name, ports, load_balancing_policy=policy)


def _routes(one_message: bool) -> list[dict[str, Any]]:
    exact = {"exact": "small/small"}
    chosen: dict[str, Any] = {"headers": [{"name": "x-igw-pool", "string_match": exact}]}
    if one_message:
        value = {"string_match": exact}
        chosen = {"dynamic_metadata": [{"filter": "envoy.lb", "path": [{"key": "x-igw-pool"}], "value": value}]}
    return [
        {"name": OTHER, "match": {"path_separated_prefix": "/web"}, "route": {"cluster": "web"}},
        {"name": f"{RULE}/match/1/*", "match": {"prefix": "/", **chosen}, "route": {"cluster": "small"}},
        {"name": f"{RULE}/match/0/*", "match": {"prefix": "/"}, "route": {"cluster": "large"}},
    ]


def _ext_proc(mode: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"request_header_mode": "SEND", "request_body_mode": mode}
    attributes = ["xds.route_name"]
    if mode == ONE_MESSAGE:
        shown = {"request_header_mode": "SKIP", "request_body_mode": "BUFFERED_PARTIAL"}
        attributes += ["request.path", "request.headers['content-type']"]
    return {
        "@type": f"{TYPES}.filters.http.ext_proc.v3.ExternalProcessor",
        "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}},
        "message_timeout": "5s",
        "allow_mode_override": mode != ONE_MESSAGE,
        "processing_mode": {**shown, "response_header_mode": "SKIP"},
        "request_attributes": attributes,
        "metadata_options": {"receiving_namespaces": {"untyped": ["envoy.lb"]}},
    }


def bootstrap(mode: str, picker: int, pools: list[list[int]], other: int) -> str:
    """One listener, two pools, one picker, and a backend that is none of its business."""
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"},
    }
    buffer = {
        "name": "envoy.filters.http.buffer",
        "typed_config": {"@type": f"{TYPES}.filters.http.buffer.v3.Buffer", "max_request_bytes": 1_000_000},
    }
    # Without headers, Envoy does not heed the picker's wish for a new choice of route: this does, unconditionally.
    anew = {
        "name": "envoy.filters.http.set_filter_state",
        "typed_config": {"@type": f"{TYPES}.filters.http.set_filter_state.v3.Config", "clear_route_cache": True},
    }
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "main",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": _routes(mode == ONE_MESSAGE)}]},
        "http_filters": [
            {"name": "envoy.filters.http.ext_proc", "typed_config": _ext_proc(mode)},
            # Holds the headers until the body is there, which the picker's filter does where it sends them.
            *([buffer, anew] if mode == ONE_MESSAGE else []),
            router,
        ],
    }
    listener = {
        "name": "main",
        "enable_reuse_port": False,
        "address": _address(0),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    clusters = [
        _cluster("picker", [picker], typed_extension_protocol_options=http2),
        _placed("large", pools[0]),
        _placed("small", pools[1]),
        _cluster("web", [other]),
    ]
    return yaml.safe_dump(
        {"admin": {"address": _address(0)}, "static_resources": {"listeners": [listener], "clusters": clusters}}
    )


# ------------------------------------------------------------------------------------------------ the scene


@dataclass(frozen=True, slots=True)
class Gateway:
    """A client of Envoy, and what is behind it. `engines`: large-busy, large-idle, small-busy, small-idle."""

    client: aiohttp.ClientSession
    picker: PickerProcess
    engines: list[Engine]
    web: Engine


@asynccontextmanager
async def gateway(folder: Path, mode: str) -> AsyncIterator[Gateway]:
    """All of it. The pool `large` takes models of its own only, and what has no model."""
    engines = [
        Engine(waiting=waiting, name=f"{pool}-{kind}")
        for pool in ("large", "small")
        for kind, waiting in (("busy", 50), ("idle", 0))
    ]
    keys = (Key("large", "large"), Key("small", "small"))
    objects = folder / "objects"
    objects.mkdir()
    (objects / "routes.json").write_bytes(dump(ObjectSet.of((), {RULE: Lead(keys, announce=True)})))
    async with AsyncExitStack() as stack:
        other = Engine(name="web")
        for engine in (*engines, other):
            await stack.enter_async_context(answering(engine))
        for name, members in (("large", engines[:2]), ("small", engines[2:])):
            write_manifests(objects, name, *pool_documents(name, members, [model(f"{name}-model")]))
        picker = await stack.enter_async_context(running(objects, "http2"))
        await picker.sees(*engines)
        ports = [[engine.port for engine in members] for members in (engines[:2], engines[2:])]
        port = int(picker.address.rpartition(":")[2])
        url = await stack.enter_async_context(running_envoy(folder, bootstrap(mode, port, ports, other.port)))
        timeout = aiohttp.ClientTimeout(total=10)
        client = await stack.enter_async_context(aiohttp.ClientSession(url, timeout=timeout))
        yield Gateway(client, picker, engines, other)
