"""Metrics pages of an engine that means harm: they cost little, keep nothing, and lead nowhere."""

import asyncio
import math
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Final

import pytest

from igw_extproc import exposition
from igw_extproc.domain import Endpoint, EngineKind, EngineLoad
from igw_extproc.engines import read
from igw_extproc.exposition import MOST_LABELS, MOST_SAMPLES
from igw_extproc.scraper import Limits, Scraper

PATIENCE: Final = 20.0
MIB: Final = 2**20
RUNNING: Final = b"vllm:num_requests_running"


def test_a_number_of_adapters_may_have_any_digits() -> None:
    for digits in ("9" * 5000, "9" * 10, "٣" * 5000):
        page = RUNNING + f' 1\nvllm:lora_requests_info{{max_lora="{digits}"}} 1\n'.encode()
        assert read(page).max_adapters is None


HARMLESS: Final = {
    "a name without an end": RUNNING + b"{" + b"a" * 4 * MIB + b"} 1\n",
    "a quoted text without an end": RUNNING + b'{a="' + b"a" * 4 * MIB + b"\n",
    "names without values": RUNNING + b"{" + b"a ," * MIB + b"} 1\n",
    "digits": RUNNING + b" " + b"9" * 4 * MIB + b"\n",
    "zeros": RUNNING + b" 0." + b"0" * 4 * MIB + b"1\n",
    "blanks": RUNNING + b" " * 4 * MIB + b"1\n",
    "lines of one metric": (RUNNING + b" 1\n") * 100_000,
    "lines that say nothing": (RUNNING + b" NaN\n") * 100_000,
    "longer names": (RUNNING + b"x 1\n") * 100_000,
    "one line": b"#" * 8 * MIB,
    "nulls": b"\0" * 8 * MIB,
    "empty lines": b"\n" * 8 * MIB,
}


@pytest.mark.parametrize("page", HARMLESS.values(), ids=HARMLESS)
def test_a_page_is_read_in_time_that_grows_with_its_size_alone(page: bytes) -> None:
    """Anything else would take minutes here; the test's own limit tells."""
    load = read(page)
    assert 0.0 <= load.running < math.inf


def test_of_endless_samples_the_first_count() -> None:
    assert read((RUNNING + b" 1\n") * 3 * MOST_SAMPLES).running == MOST_SAMPLES


def test_labels_that_no_engine_has_are_not_read() -> None:
    assert read(RUNNING + b'{a="%s"} 7\n' % (b"x" * MOST_LABELS)).engine is EngineKind.UNKNOWN


def test_long_labels_are_not_remembered() -> None:
    """Each scrape may bring others."""
    tracemalloc.start()
    try:
        for number in range(200):
            read(RUNNING + b'{a="%d%s"} 7\n' % (number, b"x" * (MOST_LABELS - 100)))
        assert tracemalloc.get_traced_memory()[0] < MIB
    finally:
        tracemalloc.stop()
    assert exposition._remembered.cache_info().maxsize == 4096


# ------------------------------------------------------------------------------------------------ over sockets


class Sink:
    """What the scraper says."""

    def __init__(self) -> None:
        self.loads: dict[str, list[EngineLoad]] = {}
        self.reasons: dict[str, str] = {}
        self.changed = asyncio.Event()

    def scrape_started(self, address: str) -> object:
        return None

    def scraped(self, address: str, mark: object, load: EngineLoad, now: float) -> None:
        self.loads.setdefault(address, []).append(load)
        self.changed.set()

    def unreachable(self, address: str, reason: str, now: float) -> None:
        self.reasons[address] = reason
        self.changed.set()

    def restarted(self, address: str) -> None:
        pass

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def server(pieces: Callable[[], Iterator[bytes]], asked: list[bytes]) -> AsyncIterator[str]:
    """Answers each request with these pieces, as fast as they are taken; an empty one is a pause."""

    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while True:
                asked.append(await reader.readuntil(b"\r\n\r\n"))
                for piece in pieces():
                    writer.write(piece)
                    await writer.drain()
                    if not piece:
                        await asyncio.sleep(0.05)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        for writer in writers:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def scraped(*addresses: str) -> AsyncIterator[Sink]:
    sink = Sink()
    scraper = Scraper(sink, random.Random(7), limits=Limits(page_bytes=MIB))
    scraper.sync([Endpoint(address) for address in addresses])
    async with asyncio.TaskGroup() as group:
        running = group.create_task(scraper.run())
        try:
            yield sink
        finally:
            running.cancel()


def answer(body: bytes, headers: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n%s\r\n%s" % (status, len(body), headers, body)


PAGE: Final = RUNNING + b" 3\n"
HEAD: Final = b"HTTP/1.1 200 OK\r\n\r\n"


def endless(piece: bytes, head: bytes = HEAD) -> Callable[[], Iterator[bytes]]:
    return lambda: (head if number == 0 else piece for number in count())


CHUNKED: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
TWO_LENGTHS: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 9\r\n\r\nabc"
TOO_LARGE, BROKEN, LATE = {"too-large"}, {"malformed", "timeout"}, {"timeout"}

NO_PAGES: Final[dict[str, tuple[Callable[[], Iterator[bytes]], set[str]]]] = {
    "endless page": (endless(b"x 1\n" * 16_384), TOO_LARGE),
    "endless line": (endless(b"x" * 65_536), TOO_LARGE),
    "endless headers": (endless(b"x: y\r\n" * 1000, b"HTTP/1.1 200 OK\r\n"), TOO_LARGE | BROKEN),
    "endless chunks": (endless(b"1\r\nx\r\n" * 1000, CHUNKED), TOO_LARGE),
    "endless interim answers": (endless(b"HTTP/1.1 103 Early\r\n\r\n" * 1000, b"HTTP/1.1 100 Go\r\n\r\n"), TOO_LARGE),
    "a dripping head": (lambda: (piece for _ in range(10_000) for piece in (b"x", b"")), BROKEN),
    "a dripping page": (lambda: (b"x" * (number % 2) if number else HEAD for number in range(10_000)), LATE),
    "a chunk of any size": (lambda: iter([CHUNKED + b"F" * 20 + b"\r\n"]), BROKEN),
    "two lengths": (lambda: iter([TWO_LENGTHS]), BROKEN),
}


@pytest.mark.parametrize("name", NO_PAGES)
async def test_what_never_becomes_a_page_is_given_up_and_delays_no_other_engine(name: str) -> None:
    pieces, reasons = NO_PAGES[name]
    honest = [server(lambda: iter([answer(PAGE)]), []) for _ in range(2)]
    async with server(pieces, []) as hostile, honest[0] as one, honest[1] as two, scraped(hostile, one, two) as sink:
        await sink.until(lambda: hostile in sink.reasons and all(len(sink.loads.get(it, ())) > 1 for it in (one, two)))
        assert sink.reasons[hostile] in reasons
        assert not sink.loads.get(hostile)
        assert not sink.reasons.keys() & {one, two}


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary Redirect", b"308 Permanent Redirect"])
async def test_no_redirect_is_followed(status: bytes) -> None:
    """Not to the addresses of the cloud's own services, nor to any other."""
    lured: list[bytes] = []
    asked: list[bytes] = []
    async with server(lambda: iter([answer(PAGE)]), lured) as trap:
        lure = answer(b"", b"location: http://%s/metrics\r\n" % trap.encode(), status)
        async with server(lambda: iter([lure]), asked) as hostile, scraped(hostile) as sink:
            await sink.until(lambda: bool(sink.loads))
            assert sink.loads[hostile][0].engine is EngineKind.UNKNOWN
    assert asked and not lured


@pytest.mark.parametrize(
    ("page", "running"),
    [
        (answer(PAGE, b"content-type: image/png\r\n"), 3.0),
        (answer(b"\x1f\x8b\x08" + bytes(1000), b"content-encoding: gzip\r\n"), 0.0),
        (answer(PAGE) + answer(RUNNING + b" 99\n"), 3.0),
        (answer(RUNNING + b" -5\n"), 0.0),
        (answer(PAGE + RUNNING + b" Inf\n" + RUNNING + b" 1e300\n"), 3.0),
    ],
    ids=["another type", "packed", "a second answer", "below zero", "infinite"],
)
async def test_a_page_counts_for_what_it_says_in_plain_text(page: bytes, running: float) -> None:
    """Nothing is unpacked, and an answer that nobody asked for is for nobody."""
    async with server(lambda: iter([page]), []) as hostile, scraped(hostile) as sink:
        await sink.until(lambda: bool(sink.loads))
        assert sink.loads[hostile][0].running == running


async def test_long_pages_are_asked_for_rarely() -> None:
    """Reading them stops everything else: 2 MiB a second of one engine's pages, however hot it looks."""
    asked: list[bytes] = []
    page = RUNNING + b" 1\nvllm:num_requests_waiting 9\n" + b"#" * (MIB - 1000)
    async with server(lambda: iter([answer(page)]), asked) as hostile, scraped(hostile) as sink:
        await sink.until(lambda: len(sink.loads.get(hostile, ())) == 1)
        begun = asyncio.get_running_loop().time()
        await sink.until(lambda: len(sink.loads[hostile]) == 3)
        assert asyncio.get_running_loop().time() - begun > 0.8
