"""Keeps the ledgers told of how busy GPUs are, where an exporter beside an engine says it (`gpus`).

One page serves all endpoints that name it: a node's exporter tells of eight. It must not judge what a page means, nor
say anything of an engine's health: an exporter that is silent leaves an endpoint's share unknown. `server` runs it and
passes it the endpoints.
"""

import asyncio
import logging
from collections.abc import Collection
from typing import Final, Protocol

from igw_extproc import gpus
from igw_extproc.domain import Endpoint
from igw_extproc.http1 import Answer, Connection, News, Opened, page_request

log = logging.getLogger(__name__)

# Seconds. NVIDIA's exporter samples every 30 s by default, and roles change in minutes.
INTERVAL: Final = 5.0
DEADLINE: Final = 2.0
PAGE_BYTES: Final = 4 * 1024 * 1024
AT_ONCE: Final = 16


class Sink(Protocol):
    """Who keeps the numbers."""

    def gpu_told(self, address: str, share: float | None) -> None:
        """0..1 for that endpoint; None: nobody tells."""


class GpuWatch:
    """Asks the exporters of a changing set of endpoints. `run` once."""

    def __init__(self, sink: Sink, interval: float = INTERVAL) -> None:
        self._sink = sink
        self._interval = interval
        self._wanted: dict[str, gpus.Source] = {}
        self._changed = asyncio.Event()
        self._silent: set[str] = set()

    def sync(self, endpoints: Collection[Endpoint]) -> None:
        """Ask for exactly these from now on."""
        wanted = {one.address: found for one in endpoints if (found := gpus.source(one)) is not None}
        for address in self._wanted.keys() - wanted.keys():
            self._sink.gpu_told(address, None)
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self) -> None:
        """Ask until cancelled; as long as no endpoint has an exporter, wait for one."""
        while True:
            self._changed.clear()
            await self._ask_all()
            try:
                async with asyncio.timeout(self._interval if self._wanted else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _ask_all(self) -> None:
        pages = {source.address for source in self._wanted.values()}
        self._silent &= pages
        turn = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for page in pages:
                group.create_task(self._ask(page, turn), name=f"gpus {page}")

    async def _ask(self, page: str, turn: asyncio.Semaphore) -> None:
        async with turn:
            body = await _fetch(page)
        self._note(page, body is not None)
        for address, source in list(self._wanted.items()):
            if source.address == page:
                self._sink.gpu_told(address, gpus.share(body, of=source) if body is not None else None)

    def _note(self, page: str, answers: bool) -> None:
        """A line in the log at each change."""
        if answers and page in self._silent:
            self._silent.remove(page)
            log.info("exporter of GPUs answers page=%s", page)
        elif not answers and page not in self._silent:
            self._silent.add(page)
            log.warning("exporter of GPUs is silent page=%s", page)


async def _fetch(page: str) -> bytes | None:
    """The page, as `exposition` wants it. None: there is no such page now."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[News] = loop.create_future()
    host, _, port = page.rpartition(":")

    def report(connection: Connection, news: News) -> None:
        if news is Opened.OPENED:
            connection.get(page_request(page))
        elif not came.done():
            came.set_result(news)

    connection = Connection(report, PAGE_BYTES)
    try:
        async with asyncio.timeout(DEADLINE):
            await loop.create_connection(lambda: connection, host.removeprefix("[").removesuffix("]"), int(port))
            news = await came
    except OSError:  # a timeout is one
        return None
    finally:
        connection.abort()
    return b"\n" + news.body if isinstance(news, Answer) and news.status == 200 else None
