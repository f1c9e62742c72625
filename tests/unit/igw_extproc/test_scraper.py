"""How the scraper learns of engines: over real sockets, against small servers that the tests drive."""

import asyncio
import errno
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_api import wire
from igw_extproc.domain import Endpoint, EngineKind, EngineLoad
from igw_extproc.http1 import Lost, failure, page_requests
from igw_extproc.pacing import BUSY, HOT, IDLE, LAST_BACKOFF, is_new_process, next_backoff, next_interval
from igw_extproc.scraper import CHECK_GAP, Limits, Scraper

# Far beyond what any step takes; a test that waits this long has failed.
PATIENCE = 20.0
# An idle engine is scraped every 2 s +- 10 %. What is noticed within this was not noticed by a regular scrape.
AT_ONCE = 1.0


def page(running: int = 0, waiting: int = 0, tokens: int = 0, started: float | None = 1000.0) -> bytes:
    start = "" if started is None else f"process_start_time_seconds {started}\n"
    return (
        f"{start}vllm:num_requests_running {running}\nvllm:num_requests_waiting {waiting}\n"
        f"vllm:generation_tokens_total {tokens}\n"
    ).encode()


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def status(code: int) -> bytes:
    return b"HTTP/1.1 %d Whatever\r\ncontent-length: 2\r\n\r\nno" % code


IDLE_PAGE = page()
HOT_PAGE = page(running=3, waiting=1)


class Served(asyncio.Protocol):
    """One connection to an `Engine`."""

    def __init__(self, engine: "Engine") -> None:
        self.engine = engine
        self.requests = 0
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.engine.accepted.append(self)
        self.engine.open.add(self)

    def data_received(self, data: bytes) -> None:
        *requests, self.received = (self.received + data).split(b"\r\n\r\n")
        for request in requests:
            self.requests += 1
            self.engine.requests.append(request)
            self.engine.answer(self, request.split(b" ")[1].decode())

    def connection_lost(self, exc: Exception | None) -> None:
        self.engine.open.discard(self)
        self.engine.changed.set()


class Engine:
    """An engine's port. `answer(connection, path)` decides what is sent; `page` is what it sends by default."""

    def __init__(self, body: bytes = IDLE_PAGE) -> None:
        self.page = body
        self.requests: list[bytes] = []
        self.accepted: list[Served] = []
        self.open: set[Served] = set()
        self.changed = asyncio.Event()
        self.answer: Callable[[Served, str], None] = lambda served, path: served.transport.write(ok(self.page))
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Served(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def until_closed(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.open:
                self.changed.clear()
                await self.changed.wait()

    async def stop(self) -> None:
        """Die: the kernel closes the port and breaks every connection."""
        if self._server is not None:
            self._server.close()
            for served in tuple(self.open):
                served.transport.abort()
            await self._server.wait_closed()


@asynccontextmanager
async def engine(body: bytes = IDLE_PAGE) -> AsyncIterator[Engine]:
    it = Engine(body)
    await it.start()
    try:
        yield it
    finally:
        await it.stop()


@dataclass(frozen=True)
class Event:
    what: str
    address: str
    detail: object
    at: float


class Recorder:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.loads: list[EngineLoad] = []
        self.changed = asyncio.Event()

    def _add(self, what: str, address: str, detail: object = None) -> None:
        self.events.append(Event(what, address, detail, asyncio.get_running_loop().time()))
        self.changed.set()

    def scrape_started(self, address: str) -> object:
        self._add("started", address)
        return self.events[-1]

    def scraped(self, address: str, mark: object, load: EngineLoad, now: float) -> None:
        self.loads.append(load)
        self._add("scraped", address, mark)

    def unreachable(self, address: str, reason: str, now: float) -> None:
        self._add("unreachable", address, reason)

    def restarted(self, address: str) -> None:
        self._add("restarted", address)

    def all(self, what: str, address: str | None = None) -> list[Event]:
        return [event for event in self.events if event.what == what and address in (None, event.address)]

    async def until(self, what: str, count: int = 1, address: str | None = None) -> Event:
        """The `count`th event of this kind, which may have been already."""
        async with asyncio.timeout(PATIENCE):
            while len(self.all(what, address)) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.all(what, address)[count - 1]


@asynccontextmanager
async def scraping(
    sink: Recorder, *endpoints: Endpoint, limits: Limits | None = None, inflight: Callable[[str], int] = lambda _: 0
) -> AsyncIterator[Scraper]:
    scraper = Scraper(sink, random.Random(7), inflight, limits)
    scraper.sync(endpoints)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(scraper.run())
        try:
            yield scraper
        finally:
            running.cancel()


async def test_a_page_reaches_the_sink_with_the_mark_of_its_own_request() -> None:
    sink = Recorder()
    async with engine(HOT_PAGE) as it, scraping(sink, Endpoint(it.address)):
        await sink.until("scraped", 3)
    assert sink.loads[0] == EngineLoad(
        EngineKind.VLLM, running=3.0, waiting=1.0, generation_tokens_total=0.0, started_at=1000.0
    )
    starts, ends = sink.all("started"), sink.all("scraped")
    assert [end.detail for end in ends] == starts[: len(ends)]


async def test_one_connection_serves_scrape_after_scrape() -> None:
    sink = Recorder()
    async with engine(HOT_PAGE) as it, scraping(sink, Endpoint(it.address)):
        await sink.until("scraped", 4)
        assert len(it.accepted) == 1
        assert b"accept-encoding" not in it.requests[0].lower()
        assert f"Host: {it.address}".encode() in it.requests[0]


async def test_a_killed_process_is_noticed_at_once() -> None:
    """An idle engine is not due for two seconds: only the closed connection can tell."""
    server = (
        "import http.server as h\n"
        "class H(h.BaseHTTPRequestHandler):\n"
        "    protocol_version = 'HTTP/1.1'\n"
        "    def do_GET(self):\n"
        f"        body = {IDLE_PAGE!r}\n"
        "        self.send_response(200); self.send_header('content-length', str(len(body)))\n"
        "        self.end_headers(); self.wfile.write(body)\n"
        "s = h.ThreadingHTTPServer(('127.0.0.1', 0), H)\n"
        "print(s.server_port, flush=True)\n"
        "s.serve_forever()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", server, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            port = int(await process.stdout.readline())
        sink = Recorder()
        async with scraping(sink, Endpoint(f"127.0.0.1:{port}")):
            await sink.until("scraped")
            killed_at = asyncio.get_running_loop().time()
            os.kill(process.pid, signal.SIGKILL)
            event = await sink.until("unreachable")
            assert event.detail == "refused"
            assert event.at - killed_at < AT_ONCE
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_an_engine_that_is_back_is_found_without_being_told() -> None:
    sink = Recorder()
    async with engine() as it, scraping(sink, Endpoint(it.address)) as scraper:
        await sink.until("scraped")
        await it.stop()
        await sink.until("unreachable")
        assert scraper.statistics().available == 0
        it.page = page(started=2000.0)
        await it.start()
        await sink.until("scraped", 2)
        assert scraper.statistics().available == 1
    assert len(sink.all("unreachable")) == 1
    assert [event.what for event in sink.events if event.what != "started"] == [
        "scraped",
        "unreachable",
        "restarted",
        "scraped",
    ]


async def test_an_address_where_nobody_listens_is_unreachable_and_said_so_once() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound but not listening: refuses, and nobody else gets the port
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
        sink = Recorder()
        async with engine(HOT_PAGE) as it, scraping(sink, Endpoint(address), Endpoint(it.address)) as scraper:
            assert (await sink.until("unreachable")).detail == "refused"
            await sink.until("scraped", 6)
            assert scraper.statistics().failed > 1
    assert len(sink.all("unreachable")) == 1
    assert not sink.all("started", address)


async def test_a_hung_engine_is_unreachable_within_the_deadline_after_a_second_try() -> None:
    sink = Recorder()
    async with engine() as it, scraping(sink, Endpoint(it.address), limits=Limits(deadline=1.0)) as scraper:
        await sink.until("scraped")
        it.answer = lambda served, path: None
        scraper.refresh(it.address)
        unanswered = await sink.until("started", 2)
        verdict = await sink.until("unreachable")
        assert verdict.detail == "timeout"
        # Two deadlines would be 2 s.
        assert verdict.at - unanswered.at < 1.9
        assert len(it.accepted) == 2


async def test_an_engine_that_hung_and_then_died_is_known_to_be_dead() -> None:
    """Who hangs may still be chosen where there is no other; who is dead may not."""
    sink = Recorder()
    async with engine() as it, scraping(sink, Endpoint(it.address), limits=Limits(deadline=0.2)):
        await sink.until("scraped")
        it.answer = lambda served, path: None
        assert (await sink.until("unreachable")).detail == "timeout"
        await it.stop()
        assert (await sink.until("unreachable", 2)).detail == "refused"
    assert len(sink.all("unreachable")) == 2


async def test_one_dead_connection_does_not_make_a_dead_engine() -> None:
    """The peer of an old connection may be gone without a word, as behind a NAT; a fresh one gets through."""
    sink = Recorder()
    async with engine() as it, scraping(sink, Endpoint(it.address), limits=Limits(deadline=1.0)) as scraper:
        await sink.until("scraped")
        old = it.accepted[0]
        it.answer = lambda served, path: None if served is old else served.transport.write(ok(it.page))
        scraper.refresh(it.address)
        await sink.until("scraped", 2)
        assert it.accepted[1].requests == 1
    assert not sink.all("unreachable")


async def test_an_answer_after_the_deadline_is_never_reported() -> None:
    sink = Recorder()
    async with engine() as it, scraping(sink, Endpoint(it.address), limits=Limits(deadline=0.2)):
        waiting: list[Served] = []
        it.answer = lambda served, path: waiting.append(served)
        await sink.until("unreachable")
        for served in waiting:
            served.transport.write(ok(page(running=99)))
        it.answer = lambda served, path: served.transport.write(ok(page(running=1)))
        fresh = await sink.until("scraped")
        assert fresh.detail in sink.all("started")[len(waiting) :]
    assert 99.0 not in {load.running for load in sink.loads}


async def test_a_server_that_closes_idle_connections_is_not_dead() -> None:
    """uvicorn does so after five seconds. The check comes at once; a server that always closes is not hammered."""
    sink = Recorder()
    async with engine() as it:

        def answer_and_close(served: Served, path: str) -> None:
            served.transport.write(ok(it.page))
            asyncio.get_running_loop().call_later(0.05, served.transport.close)

        it.answer = answer_and_close
        async with scraping(sink, Endpoint(it.address)):
            first, second, third = [await sink.until("scraped", count) for count in (1, 2, 3)]
    assert second.at - first.at < AT_ONCE
    assert third.at - second.at > CHECK_GAP / 2
    assert not sink.all("unreachable")
    assert not sink.all("restarted")


def _chunked(body: bytes) -> bytes:
    parts = [body[at : at + 7] for at in range(0, len(body), 7)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%s0\r\n\r\n" % chunks


@pytest.mark.parametrize(
    ("response", "closes"),
    [
        (ok(HOT_PAGE), False),
        (_chunked(HOT_PAGE), False),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + ok(HOT_PAGE), False),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(HOT_PAGE), HOT_PAGE), True),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + HOT_PAGE, True),
        (b"HTTP/1.0 200 OK\r\n\r\n" + HOT_PAGE, True),
    ],
    ids=["length", "chunked", "interim", "length-then-close", "until-close", "http-1.0"],
)
@pytest.mark.parametrize("piecewise", [False, True])
async def test_every_framing_of_a_response_is_understood(response: bytes, closes: bool, piecewise: bool) -> None:
    sink = Recorder()
    async with engine() as it:

        def send(served: Served, rest: list[bytes]) -> None:
            if rest and not served.transport.is_closing():
                served.transport.write(rest[0])
                asyncio.get_running_loop().call_soon(send, served, rest[1:])
            elif closes:
                served.transport.close()

        pieces = [response[at : at + 1] for at in range(len(response))] if piecewise else [response]
        it.answer = lambda served, path: send(served, pieces)
        async with scraping(sink, Endpoint(it.address)):
            await sink.until("scraped", 3)
        assert (len(it.accepted) > 1) is closes
    assert {load.waiting for load in sink.loads} == {1.0}
    assert not sink.all("unreachable")


@pytest.mark.parametrize("code", [401, 403, 404, 302])
async def test_an_engine_that_refuses_its_page_is_alive_and_tells_nothing(code: int) -> None:
    sink = Recorder()
    async with engine() as it:
        it.answer = lambda served, path: served.transport.write(status(code))
        async with scraping(sink, Endpoint(it.address)) as scraper:
            await sink.until("scraped")
            scraper.refresh(it.address)
            await sink.until("scraped", 2)
    assert set(sink.loads) == {EngineLoad()}
    assert not sink.all("unreachable")


async def test_a_page_without_known_series_is_a_sign_of_life_even_if_the_other_path_fails() -> None:
    sink = Recorder()
    async with engine() as it:
        answers = {"/metrics": ok(b"go_goroutines 1\n"), "/prometheus/metrics": status(500)}
        it.answer = lambda served, path: served.transport.write(answers[path])
        async with scraping(sink, Endpoint(it.address)):
            await sink.until("scraped")
    assert sink.loads[0].engine is EngineKind.UNKNOWN
    assert not sink.all("unreachable")


async def test_a_server_error_is_tried_once_more_and_then_unreachable() -> None:
    sink = Recorder()
    async with engine() as it:
        it.answer = lambda served, path: served.transport.write(status(503))
        async with scraping(sink, Endpoint(it.address)):
            assert (await sink.until("unreachable")).detail == "http-503"
            assert len(sink.all("started")) == 2
            it.answer = lambda served, path: served.transport.write(ok(it.page))
            await sink.until("scraped")


@pytest.mark.parametrize("how", ["503", "reset", "garbage", "cut short"])
async def test_a_single_fault_does_not_make_an_engine_unreachable(how: str) -> None:
    sink = Recorder()
    async with engine(HOT_PAGE) as it:

        def first_fails(served: Served, path: str) -> None:
            if len(it.requests) == 2 and how == "reset":
                served.transport.abort()
            elif len(it.requests) == 2 and how == "cut short":
                served.transport.write(ok(it.page)[:-5])
                served.transport.close()
            elif len(it.requests) == 2:
                served.transport.write(status(503) if how == "503" else b"\0\0\0\0 garbage\r\n\r\n")
            else:
                served.transport.write(ok(it.page))

        it.answer = first_fails
        async with scraping(sink, Endpoint(it.address)):
            await sink.until("scraped", 3)
    assert {load.waiting for load in sink.loads} == {1.0}
    assert not sink.all("unreachable")


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "malformed"),
        (ok(b"#" * 5000), "too-large"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000, "too-large"),
        (b"", "closed"),
    ],
    ids=["another protocol", "large body", "endless headers", "hung up"],
)
async def test_what_is_no_answer_makes_it_unreachable(response: bytes, reason: str) -> None:
    sink = Recorder()
    async with engine() as it:

        def answer(served: Served, path: str) -> None:
            served.transport.write(response) if response else served.transport.abort()

        it.answer = answer
        async with scraping(sink, Endpoint(it.address), limits=Limits(page_bytes=4096)):
            event = await sink.until("unreachable")
    assert event.detail == reason
    assert not sink.loads


@pytest.mark.parametrize("other", [status(404), ok(b'[{"iter": 1}]')], ids=["no page", "statistics in JSON"])
async def test_the_path_of_trtllm_serve_is_found_and_then_kept(other: bytes) -> None:
    body = b"trtllm_num_requests_running 2\ntrtllm_num_requests_waiting 1\n"
    sink = Recorder()
    async with engine() as it:
        it.answer = lambda served, path: served.transport.write(ok(body) if path == "/prometheus/metrics" else other)
        async with scraping(sink, Endpoint(it.address)):
            await sink.until("scraped", 3)
        assert sum(request.startswith(b"GET /metrics ") for request in it.requests) == 1
    assert {load.engine for load in sink.loads} == {EngineKind.TENSORRT_LLM}


async def test_labels_choose_engine_port_and_path() -> None:
    sink = Recorder()
    async with engine(b"decode_batch_size_mean 4\nvllm:num_requests_running 1\n") as it:
        labels = {
            wire.METRICS_PORT_LABEL: str(it.port),
            wire.METRICS_PATH_LABEL: "stats/now",
            wire.ENGINE_LABELS[0]: "bladellm",
        }
        async with scraping(sink, Endpoint("127.0.0.1:1", labels)):
            event = await sink.until("scraped")
        assert it.requests[0].startswith(b"GET /stats/now HTTP/1.1\r\n")
    assert event.address == "127.0.0.1:1"
    assert (sink.loads[0].engine, sink.loads[0].running) == (EngineKind.BLADELLM, 4.0)


def test_a_path_cannot_smuggle_a_second_request() -> None:
    labels = {wire.METRICS_PATH_LABEL: "/a b\r\nX: y?z=1&q=%20"}
    _, _, (request,) = page_requests(Endpoint("[::1]:8000", labels), None)
    assert request.startswith(b"GET /a%20b%0D%0AX%3A%20y?z=1&q=%20 HTTP/1.1\r\nHost: [::1]:8000\r\n")


@pytest.mark.parametrize("port", ["", "x", "0", "70000", "-1"])
def test_a_label_that_is_no_port_is_passed_over(port: str) -> None:
    assert page_requests(Endpoint("10.0.0.1:8000", {wire.METRICS_PORT_LABEL: port}), None)[:2] == ("10.0.0.1", 8000)


async def test_changed_labels_take_effect_at_once() -> None:
    sink = Recorder()
    async with engine() as it, scraping(sink, Endpoint(it.address)) as scraper:
        await sink.until("scraped")
        scraper.sync([Endpoint(it.address, {wire.METRICS_PATH_LABEL: "/elsewhere"})])
        event = await sink.until("scraped", 2)
        assert it.requests[-1].startswith(b"GET /elsewhere ")
    assert event.at - sink.all("scraped")[0].at < AT_ONCE


@pytest.mark.parametrize(
    ("before", "after", "restarts"),
    [
        (page(started=1000.0, tokens=5, waiting=1), page(started=2000.0, tokens=9, waiting=1), 1),
        (page(started=None, tokens=5, waiting=1), page(started=None, tokens=4, waiting=1), 1),
        (page(started=None, tokens=5, waiting=1), page(started=None, tokens=6, waiting=1), 0),
        (page(started=1000.0, tokens=5, waiting=1), page(started=1000.0, tokens=5, waiting=1), 0),
    ],
    ids=["another start", "counters back", "counters on", "same start"],
)
async def test_a_new_process_behind_the_same_port_is_told(before: bytes, after: bytes, restarts: int) -> None:
    sink = Recorder()
    async with engine(before) as it, scraping(sink, Endpoint(it.address)):
        await sink.until("scraped")
        it.page = after
        await sink.until("scraped", 3)
    assert len(sink.all("restarted")) == restarts


async def test_an_engine_that_does_not_say_when_it_started_is_new_after_its_port_was_closed() -> None:
    sink = Recorder()
    async with engine(page(started=None, tokens=5)) as it, scraping(sink, Endpoint(it.address)):
        await sink.until("scraped")
        await it.stop()
        await sink.until("unreachable")
        await it.start()
        await sink.until("scraped", 2)
    assert len(sink.all("restarted")) == 1


async def test_an_endpoint_that_left_is_not_mentioned_again() -> None:
    sink = Recorder()
    async with (
        engine() as it,
        engine(HOT_PAGE) as other,
        scraping(sink, Endpoint(it.address), Endpoint(other.address)) as scraper,
    ):
        await sink.until("scraped", 1, it.address)
        it.answer = lambda served, path: None
        scraper.refresh(it.address)
        await sink.until("started", 2, it.address)
        scraper.sync([Endpoint(other.address)])
        await it.until_closed()
        await sink.until("scraped", len(sink.all("scraped", other.address)) + 3, other.address)
        assert scraper.statistics().endpoints == 1
    assert [event.what for event in sink.events if event.address == it.address] == ["started", "scraped", "started"]


async def test_a_refresh_scrapes_at_once_but_not_without_end() -> None:
    sink = Recorder()
    async with engine() as it, scraping(sink, Endpoint(it.address)) as scraper:
        first = await sink.until("scraped")
        for count in range(2, 6):
            for _ in range(100):
                scraper.refresh(it.address)
            await sink.until("scraped", count)
        last = sink.all("scraped")[-1]
        scraper.refresh("127.0.0.1:9")
    assert len(sink.all("started")) == 5
    assert 0.3 < last.at - first.at < 4 * AT_ONCE


async def test_many_endpoints_together_stay_within_the_allowed_rate() -> None:
    """Twenty hot endpoints on one server would ask a hundred times a second."""
    sink = Recorder()
    async with engine(HOT_PAGE) as it:
        labels = {wire.METRICS_PORT_LABEL: str(it.port)}
        endpoints = [Endpoint(f"127.0.0.1:{port}", labels) for port in range(1, 21)]
        async with scraping(sink, *endpoints, limits=Limits(scrapes_per_second=40.0)) as scraper:
            await sink.until("scraped", 100)
            assert scraper.statistics().ok >= 100
    starts = sink.all("started")
    rate = 60 / (starts[99].at - starts[39].at)
    assert rate < 40 * 1.25
    order = [event.address for event in starts]
    for turn in (order[:40], order[60:]):
        assert set(turn) == {endpoint.address for endpoint in endpoints}
    assert order[40:60] != order[80:]


async def test_statistics_tell_what_was_done() -> None:
    sink = Recorder()
    async with engine(HOT_PAGE) as it, scraping(sink, Endpoint(it.address)) as scraper:
        await sink.until("scraped", 2)
        told = scraper.statistics()
        assert (told.endpoints, told.available, told.ok, told.failed) == (1, 1, 2, 0)
        assert 0.0 <= told.durations[it.address] <= told.seconds < PATIENCE


async def test_our_requests_in_flight_make_an_endpoint_busy() -> None:
    sink = Recorder()
    async with engine() as it, scraping(sink, Endpoint(it.address), inflight=lambda _: 1000):
        first, third = await sink.until("scraped"), await sink.until("scraped", 3)
    assert third.at - first.at < 2 * HOT + AT_ONCE


async def test_a_fault_of_the_sink_ends_the_run() -> None:
    class Broken(Recorder):
        def scraped(self, address: str, mark: object, load: EngineLoad, now: float) -> None:
            raise RuntimeError("broken")

    async with engine() as it:
        with pytest.RaisesGroup(pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="broken"))):
            async with asyncio.timeout(PATIENCE), scraping(Broken(), Endpoint(it.address)):
                await asyncio.Event().wait()


async def test_the_end_of_the_run_closes_every_connection() -> None:
    sink = Recorder()
    async with engine() as it:
        async with scraping(sink, Endpoint(it.address)):
            await sink.until("scraped")
        await it.until_closed()


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), Lost.REFUSED),
        (ConnectionResetError(errno.ECONNRESET, ""), Lost.RESET),
        (TimeoutError(), Lost.TIMEOUT),
        (OSError(errno.EHOSTUNREACH, ""), Lost.UNROUTABLE),
        (OSError(errno.EMFILE, ""), Lost.OURS),
        (socket.gaierror(-2, ""), Lost.UNROUTABLE),
    ],
)
def test_errors_of_connecting_tell_the_peers_faults_from_ours(error: OSError, meaning: Lost) -> None:
    assert failure(error) is meaning


LOADS = st.builds(
    EngineLoad,
    running=st.floats(0, 1e4),
    waiting=st.floats(0, 1e4),
    kv_usage=st.none() | st.floats(0, 1),
)


@given(LOADS, st.none() | LOADS, st.integers(0, 10_000))
def test_the_interval_stays_between_hot_and_idle(load: EngineLoad, previous: EngineLoad | None, inflight: int) -> None:
    assert HOT <= next_interval(load, previous, inflight) <= IDLE


@pytest.mark.parametrize(
    ("load", "previous", "inflight", "interval"),
    [
        (EngineLoad(), None, 0, IDLE),
        (EngineLoad(), None, 1, BUSY),
        (EngineLoad(running=5), EngineLoad(running=4), 0, BUSY),
        (EngineLoad(running=5, waiting=1), None, 0, HOT),
        (EngineLoad(running=5, kv_usage=0.71), None, 0, HOT),
        (EngineLoad(running=5), None, 64, HOT),
        (EngineLoad(running=30), EngineLoad(running=5), 0, HOT),
        (EngineLoad(running=5, kv_usage=0.4), EngineLoad(running=5, kv_usage=0.2), 0, HOT),
        (EngineLoad(running=110), EngineLoad(running=100), 0, BUSY),
    ],
)
def test_what_changes_is_asked_more_often(
    load: EngineLoad, previous: EngineLoad | None, inflight: int, interval: float
) -> None:
    assert next_interval(load, previous, inflight) == interval


def test_backoff_grows_to_a_second_and_no_further() -> None:
    seconds = 0.2
    for _ in range(10):
        following = next_backoff(seconds)
        assert seconds < following <= LAST_BACKOFF or following == seconds == LAST_BACKOFF
        seconds = following
    assert seconds == LAST_BACKOFF


@given(st.floats(1e9, 2e9))
def test_a_start_time_printed_with_less_precision_is_the_same_start(start: float) -> None:
    assert not is_new_process(EngineLoad(started_at=float(f"{start:.10g}")), EngineLoad(started_at=start))
