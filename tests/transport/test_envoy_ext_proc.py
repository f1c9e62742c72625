"""The real Envoy calls a picker over our HTTP/2 transport."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from igw_extproc.http2 import Http2Server
from igw_extproc.transport import Call
from igw_protos.ext_proc_pb2 import HeaderValueOption, ProcessingRequest, ProcessingResponse
from igw_testing.envoy_process import running_envoy
from igw_testing.http2_peers import until

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

BOOTSTRAP = """
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: main
    enable_reuse_port: false
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: backend, timeout: 0s}}}}]
          http_filters:
          - name: envoy.filters.http.ext_proc
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {{envoy_grpc: {{cluster_name: picker}}}}
              message_timeout: 5s
              processing_mode:
                {{request_header_mode: SEND, request_body_mode: BUFFERED_PARTIAL, response_header_mode: SKIP}}
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: picker
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: picker
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {picker}}}}}}}
  - name: backend
    type: STATIC
    load_assignment:
      cluster_name: backend
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {backend}}}}}}}
"""


@dataclass
class Pick:
    """Lets the headers pass, then answers the body with the header x-picked, which says how large the body was."""

    call: Call
    picks: "Picks"

    def receive(self, message: bytes) -> None:
        request = ProcessingRequest.FromString(message)
        response = ProcessingResponse()
        if request.WhichOneof("request") == "request_headers":
            response.request_headers.SetInParent()
            self.call.send(response.SerializeToString())
            return
        self.picks.bodies.append(len(request.request_body.body))
        option = response.request_body.response.header_mutation.set_headers.add()
        option.append_action = HeaderValueOption.AppendAction.OVERWRITE_IF_EXISTS_OR_ADD
        option.header.key = "x-picked"
        option.header.raw_value = str(len(request.request_body.body)).encode()
        self.call.send(response.SerializeToString())
        if self.picks.hang_up:
            self.call.finish()

    def half_closed(self) -> None:
        self.picks.half_closed += 1
        self.call.finish()

    def ended(self) -> None:
        self.picks.open -= 1


@dataclass
class Picks:
    """All conversations of a test. `hang_up`: end each stream right after its answer."""

    hang_up: bool = False
    open: int = 0
    half_closed: int = 0
    bodies: list[int] = field(default_factory=list)

    def begin(self, call: Call) -> Pick:
        self.open += 1
        return Pick(call, self)


@contextlib.asynccontextmanager
async def backend(gate: asyncio.Event) -> AsyncIterator[int]:
    """An HTTP server that tells which x-picked it saw and how long the body was; /held waits for the gate."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        response = web.StreamResponse(
            headers={"x-seen": request.headers.get("x-picked", "-"), "x-size": str(len(body))}
        )
        await response.prepare(request)
        if request.path == "/held":
            await gate.wait()
        await response.write_eof(b"done")
        return response

    app = web.Application(client_max_size=16 * 1024 * 1024)
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@dataclass
class Setup:
    """A running Envoy with its picker."""

    url: str
    picks: Picks
    server: Http2Server
    gate: asyncio.Event


@contextlib.asynccontextmanager
async def setup(folder: Path, *, hang_up: bool = False) -> AsyncIterator[Setup]:
    """Backend, picker and Envoy."""
    picks, gate = Picks(hang_up), asyncio.Event()
    server = Http2Server({PROCESS: picks.begin})
    port = await server.start("127.0.0.1", 0)
    try:
        async with (
            backend(gate) as upstream,
            running_envoy(folder, BOOTSTRAP.format(picker=port, backend=upstream)) as url,
        ):
            yield Setup(url, picks, server, gate)
    finally:
        server.close()


async def post(session: aiohttp.ClientSession, url: str, size: int) -> tuple[int, str, int]:
    """Status, the x-picked that the backend saw, and the body's length there."""
    async with session.post(url, data=BytesIO(b"x" * size)) as response:
        await response.read()
        return response.status, response.headers.get("x-seen", ""), int(response.headers.get("x-size", "-1"))


@pytest.mark.parametrize("hang_up", [False, True], ids=["stream-stays", "picker-ends-first"])
async def test_every_request_is_picked_and_every_stream_ends(tmp_path: Path, hang_up: bool) -> None:
    async with setup(tmp_path, hang_up=hang_up) as running, aiohttp.ClientSession() as session:
        sizes = [300, 20_000, 300_000, 900_000]
        for size in sizes * 3:
            assert await post(session, running.url + "/now", size) == (200, str(size), size)
        assert running.picks.bodies == sizes * 3
        await until(lambda: running.picks.open == 0)
        assert running.picks.half_closed == (0 if hang_up else len(sizes) * 3)
        assert running.server.open_streams == 0


async def test_a_body_above_envoys_buffer_arrives_in_part_and_passes_whole(tmp_path: Path) -> None:
    async with setup(tmp_path) as running, aiohttp.ClientSession() as session:
        status, seen, size = await post(session, running.url + "/now", 3_000_000)
        assert (status, size) == (200, 3_000_000)
        assert 900_000 < int(seen) < 3_000_000


async def test_many_requests_at_once_share_one_connection(tmp_path: Path) -> None:
    async with setup(tmp_path) as running, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await _all(post(session, running.url + "/now", 1000 + n) for n in range(200))
        assert sorted(running.picks.bodies) == [1000 + n for n in range(200)]
        assert running.server.connections == 1
        await until(lambda: running.picks.open == 0)


async def test_the_stream_stays_open_as_long_as_the_response_and_ends_with_the_client(tmp_path: Path) -> None:
    async with setup(tmp_path) as running, aiohttp.ClientSession() as session:
        async with session.post(running.url + "/held", data=b"x" * 100) as response:
            assert response.status == 200
            assert running.picks.open == 1
            running.gate.set()
            await response.read()
        await until(lambda: running.picks.open == 0)
        running.gate.clear()
        gone = await session.post(running.url + "/held", data=b"x" * 100)
        assert running.picks.open == 1
        gone.close()
        await until(lambda: running.picks.open == 0)
        running.gate.set()


async def test_draining_lets_open_streams_end_and_loses_no_request(tmp_path: Path) -> None:
    async with setup(tmp_path) as running, aiohttp.ClientSession() as session:
        async with session.post(running.url + "/held", data=b"x" * 100) as response, asyncio.TaskGroup() as group:
            drained = group.create_task(running.server.drain(10.0))
            await until(lambda: running.server.draining)
            # Envoy has heard of it when a request finds no picker; the stream that was open is still there.
            assert (await session.post(running.url + "/now", data=b"x")).status >= 500
            assert running.picks.open == 1
            assert not drained.done()
            running.gate.set()
            assert await response.read() == b"done"
        assert running.picks.open == 0
        assert running.server.connections == 0


async def _all(requests: Iterable[Coroutine[None, None, tuple[int, str, int]]]) -> None:
    async with asyncio.TaskGroup() as group:
        for request in requests:
            group.create_task(_ok(request))


async def _ok(request: Awaitable[tuple[int, str, int]]) -> None:
    status, seen, size = await request
    assert (status, seen) == (200, str(size))
