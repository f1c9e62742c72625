"""What the sidecar does not split passes as if it were not there."""

import asyncio
import gzip
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from igw_api.wire import PREFILL_OUTCOME_HEADER
from igw_testing.sidecars import running_sidecar


@dataclass
class Engine:
    """An engine that keeps what it was sent, and answers as told."""

    answer: Callable[[web.Request], Awaitable[web.StreamResponse]]
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((request.method, request.raw_path, headers, await request.read()))
        return await self.answer(request)


async def says_ok(request: web.Request) -> web.StreamResponse:
    return web.Response(text="ok", headers={"x-engine": "yes", "set-cookie": "a=b"})


@asynccontextmanager
async def behind(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = says_ok,
) -> AsyncIterator[tuple[Engine, str, aiohttp.ClientSession]]:
    """An engine, the URL of the sidecar before it, a client that shows bodies as they are sent."""
    engine = Engine(answer)
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", engine.handle)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with (
            running_sidecar(f"http://127.0.0.1:{runner.addresses[0][1]}") as sidecar,
            aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(20)) as session,
        ):
            yield engine, f"http://127.0.0.1:{sidecar.address[1]}", session
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    "path", ["/health", "/metrics", "/v1/models", "/v1/completions", "/any/%2Fpath?a=b&c=%20d", "//x/y"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_method_path_headers_and_body_reach_the_engine_as_sent(method: str, path: str) -> None:
    async with behind() as (engine, url, session):
        body = b'{"prompt":  "spaces and \xc3\xa9 stay"}' if method in ("POST", "PUT") else None
        headers = {"authorization": "Bearer key", "host": "gateway.example", "x-thing": "1", "accept": "*/*"}
        target = URL(url + path, encoded=True)
        async with session.request(method, target, data=body, headers=headers) as response:
            assert (response.status, await response.read()) == (200, b"ok")
            assert (response.headers["x-engine"], response.headers["set-cookie"]) == ("yes", "a=b")
    ((seen_method, seen_path, seen, seen_body),) = engine.seen
    assert (seen_method, seen_path, seen_body) == (method, path, body or b"")
    assert headers.items() <= seen.items()


async def test_the_picker_hears_that_nobody_else_computed_the_prompt() -> None:
    async with behind() as (_, url, session):
        async with session.post(f"{url}/v1/chat/completions", json={}) as response:
            assert response.headers[PREFILL_OUTCOME_HEADER] == "local"
        async with session.post(f"{url}/v1/embeddings", json={}) as response:
            assert PREFILL_OUTCOME_HEADER not in response.headers


async def test_a_stream_arrives_chunk_by_chunk_as_the_engine_sends_it() -> None:
    """The engine sends the next chunk only when the client has the one before."""
    arrived = asyncio.Queue[bytes]()
    chunks = [b"data: one\n\n", b"data: two\n\n", b"\x00\xff not even text", b"data: [DONE]\n\n"]

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            assert await arrived.get() == chunk
        return response

    async with behind(stream) as (_, url, session), session.post(f"{url}/v1/completions", json={}) as response:
        async with asyncio.timeout(10):
            for chunk in chunks:
                assert await response.content.readany() == chunk
                arrived.put_nowait(chunk)
            assert await response.content.readany() == b""


async def test_a_compressed_answer_stays_compressed() -> None:
    packed = gzip.compress(b"hello")

    async def compressed(request: web.Request) -> web.StreamResponse:
        return web.Response(body=packed, headers={"content-encoding": "gzip"})

    async with behind(compressed) as (_, url, session), session.get(f"{url}/v1/models") as response:
        assert (await response.read(), response.headers["content-encoding"]) == (packed, "gzip")


@pytest.mark.parametrize("status", [204, 304, 400, 404, 429, 500])
async def test_an_answers_status_stays(status: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=None if status in (204, 304) else b"why")

    async with behind(answer) as (_, url, session), session.post(f"{url}/v1/completions", json={}) as response:
        assert (response.status, await response.read()) == (status, b"" if status in (204, 304) else b"why")


@pytest.mark.parametrize("length_known", [True, False])
async def test_a_large_body_is_passed_on_without_being_held(length_known: bool) -> None:
    """Larger than what may be held for a split."""
    part = b"x" * 2**20

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield part

    async with behind() as (engine, url, session):
        body = io.BytesIO(part * 40) if length_known else parts()
        async with session.post(f"{url}/v1/completions", data=body) as response:
            assert response.status == 200
    assert len(engine.seen[0][3]) == 40 * len(part)
    assert ("content-length" in engine.seen[0][2]) == length_known


@pytest.mark.parametrize("announced", [True, False], ids=["length", "chunked"])
async def test_an_answer_that_breaks_off_breaks_off_for_the_client_too(announced: bool) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "100"} if announced else {})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        assert request.transport is not None
        request.transport.close()
        return response

    async with behind(break_off) as (_, url, session), session.post(f"{url}/v1/completions", json={}) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_a_client_that_leaves_closes_the_engines_connection() -> None:
    left, reached = asyncio.Event(), asyncio.Event()

    async def wait_for_ever(request: web.Request) -> web.StreamResponse:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        raise AssertionError

    async with behind(wait_for_ever) as (_, url, session), asyncio.TaskGroup() as group:

        async def ask() -> None:
            async with session.post(f"{url}/v1/completions", json={}):
                raise AssertionError

        asking = group.create_task(ask())
        async with asyncio.timeout(10):
            await reached.wait()
            asking.cancel()
            await left.wait()
