"""Keeps every endpoint's `EngineLoad` fresh, and notices at once when an engine dies or returns.

The path of one scrape: a timer is due -> `Connection.get` -> an `Answer` -> `engines.read` -> the sink. One task runs
all endpoints: connections only queue news for it, so errors surface there, and a turn handles whatever has come. It
must not keep accounts: the sink (`inflight.Ledgers`) does. `server` runs it and passes it the endpoints.

Verdicts: an answered scrape makes an endpoint available, even if its page tells nothing (401, 403, 404, or series of
no known engine). Refused: unreachable at once. Broken off, hung or 5xx: tried once more on a fresh connection, within
the same deadline, then unreachable. A connection that closes while idle is checked by a scrape at once.
"""

import asyncio
import heapq
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final, Protocol

from igw_extproc import engines
from igw_extproc.domain import Endpoint, EngineKind, EngineLoad
from igw_extproc.http1 import Answer, Connection, Lost, News, Opened, failure, page_requests
from igw_extproc.pacing import FIRST_BACKOFF, is_new_process, next_backoff, next_interval

log = logging.getLogger(__name__)

# Least seconds between forced scrapes of one endpoint, and between checks after its idle connection closed: a server
# that closes after each response must not make us spin.
REFRESH_GAP: Final = 0.1
CHECK_GAP: Final = 1.0
# Some loops round timers to a millisecond, and ring early.
TICK: Final = 0.002


class Sink(Protocol):
    """Who keeps the accounts. Called from the event loop, never concurrently; must not block."""

    def scrape_started(self, address: str) -> object:
        """A request for the page goes out now. The mark returned comes back with the page."""

    def scraped(self, address: str, mark: object, load: EngineLoad, now: float) -> None:
        """The engine said `load`, at some moment between the mark and `now`."""

    def unreachable(self, address: str, reason: str, now: float) -> None:
        """The engine gives no answer. Said once for a reason, until it answers again: one that hung may die."""

    def restarted(self, address: str) -> None:
        """The engine is a new process: its cache is empty. Said before its first `scraped`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, scrapes a second over all endpoints, bytes of one response, bytes a second of one endpoint's pages.

    Real pages have 20 to 300 KB, a few megabytes where one port stands for many engines. To read them is what costs,
    up to 20 ms a megabyte, during which nothing else is done: so the larger, the rarer.
    """

    deadline: float = 1.0
    scrapes_per_second: float = 400.0
    page_bytes: int = 16 * 1024 * 1024
    bytes_per_second: float = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ScraperStatistics:
    """Since the start; `durations` holds the seconds of each endpoint's last good scrape."""

    endpoints: int
    available: int
    ok: int
    failed: int
    seconds: float
    durations: Mapping[str, float]


class _Target:
    """One endpoint: how to ask it, the scrape under way if any, and what it said last."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.address = endpoint.address
        self.connection: Connection | None = None  # open, between scrapes
        self.tries: dict[Connection, object] = {}  # under way, with their marks; two when one hangs
        self.wake = float("inf")
        self.started = self.deadline = self.checked = float("-inf")
        self.retried = False
        self.pages_asked = 0
        self.bytes_read = 0  # of the pages of the last scrape
        self.available: bool | None = None
        self.reason = ""  # why it is not
        self.gone = False  # nobody listened there since the last answer
        self.load: EngineLoad | None = None
        self.duration = 0.0
        self.rate = 0.0  # scrapes a second, before stretching
        self.backoff = FIRST_BACKOFF
        self.configure(endpoint)

    def configure(self, endpoint: Endpoint) -> None:
        """Take the labels: engine, port and path."""
        self.endpoint = endpoint
        self.kind = engines.labelled_kind(endpoint.labels)
        self.host, self.port, self.requests = page_requests(endpoint, self.kind)
        self.page = 0  # where the engine's series were last
        self.drop()

    def request(self) -> bytes:
        return self.requests[(self.page + self.pages_asked) % len(self.requests)]

    def drop(self, kept: Connection | None = None) -> None:
        """End the scrape under way and all connections but `kept`."""
        for connection in (*self.tries, self.connection):
            if connection is not None and connection is not kept:
                connection.abort()
        self.tries.clear()
        self.connection = kept if kept is not None and kept.usable else None


class Scraper:
    """Scrapes a changing set of endpoints for one sink. `run` once; everything else from the same event loop."""

    def __init__(
        self,
        sink: Sink,
        rng: random.Random,
        inflight: Callable[[str], int] = lambda address: 0,
        limits: Limits | None = None,
    ) -> None:
        """`inflight`: our requests at an address now. `rng` keeps endpoints from being scraped in step."""
        self._sink = sink
        self._rng = rng
        self._inflight = inflight
        self._limits = limits if limits is not None else Limits()
        self._targets: dict[str, _Target] = {}
        self._news: deque[tuple[_Target, Connection, News]] = deque()
        self._hurried: dict[_Target, float] = {}  # with the least seconds since the last start
        self._timers: list[tuple[float, int, _Target]] = []  # an entry is void unless it is its target's `wake`
        self._timer_count = 0
        self._alarm: asyncio.Handle | None = None  # uvloop gives no timer for what is due at once
        self._rings_at = math.inf
        self._awake = asyncio.Event()
        self._connecting: asyncio.TaskGroup | None = None
        self._rate = 0.0
        self._ok = self._failed = 0
        self._seconds = 0.0

    def sync(self, endpoints: Iterable[Endpoint]) -> None:
        """Scrape exactly these from now on. A new endpoint is asked at once; one that left is not mentioned again."""
        wanted = {endpoint.address: endpoint for endpoint in endpoints}
        for address in self._targets.keys() - wanted.keys():
            target = self._targets.pop(address)
            self._rate -= target.rate
            self._hurried.pop(target, None)
            target.drop()
        for address, endpoint in wanted.items():
            known = self._targets.get(address)
            if known is None:
                self._targets[address] = _Target(endpoint)
            elif known.endpoint.labels != endpoint.labels:
                known.configure(endpoint)
            else:
                continue
            self._hurry(self._targets[address], 0.0)

    def refresh(self, address: str) -> None:
        """Scrape `address` now, unless a scrape is under way or has just been. Unknown addresses are ignored."""
        target = self._targets.get(address)
        if target is not None:
            self._hurry(target, REFRESH_GAP)

    def statistics(self) -> ScraperStatistics:
        """What has been scraped so far."""
        return ScraperStatistics(
            endpoints=len(self._targets),
            available=sum(target.available is True for target in self._targets.values()),
            ok=self._ok,
            failed=self._failed,
            seconds=self._seconds,
            durations=MappingProxyType({target.address: target.duration for target in self._targets.values()}),
        )

    async def run(self) -> None:
        """Scrape until cancelled. An exception of the sink ends it."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as self._connecting:
                while True:
                    self._turn(loop.time())
                    self._set_alarm(loop)
                    await self._awake.wait()
                    self._awake.clear()
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
            for target in self._targets.values():
                target.drop()

    def _turn(self, now: float) -> None:
        """Handle all that has come, then all that is due."""
        while self._news:
            self._handle(*self._news.popleft(), now)
        for order, (target, gap) in enumerate(self._hurried.items()):
            # Many at once, as at the start, are spread to the allowed rate.
            when = max(now + order / self._limits.scrapes_per_second, target.started + self._rest(target, gap))
            if not target.tries and when < target.wake:
                self._set_timer(target, when)
        self._hurried.clear()
        while self._timers:
            when, _, target = self._timers[0]
            valid = when == target.wake and self._targets.get(target.address) is target
            if valid and when > now + TICK:
                break
            heapq.heappop(self._timers)
            if valid:
                self._due(target, now)

    def _due(self, target: _Target, now: float) -> None:
        if not target.tries:
            self._begin(target, now)
        elif now + TICK >= target.deadline:
            self._give_up(target, Lost.TIMEOUT.value, now)
        else:
            self._retry(target)
            self._set_timer(target, target.deadline)

    def _begin(self, target: _Target, now: float) -> None:
        target.started = now
        target.deadline = now + self._limits.deadline
        target.retried = False
        target.pages_asked = target.bytes_read = 0
        connection, target.connection = target.connection, None
        if connection is not None and connection.usable:
            self._ask(target, connection)
            # An old connection may hang because it is dead, without the engine being so: leave time to try another.
            self._set_timer(target, now + self._limits.deadline / 2)
        else:
            self._connect(target)
            self._set_timer(target, target.deadline)

    def _ask(self, target: _Target, connection: Connection) -> None:
        target.tries[connection] = self._sink.scrape_started(target.address)
        connection.get(target.request())

    def _retry(self, target: _Target) -> None:
        target.retried = True
        self._connect(target)

    def _connect(self, target: _Target) -> None:
        assert self._connecting is not None
        connection = Connection(partial(self._tell, target), self._limits.page_bytes)
        target.tries[connection] = None
        self._connecting.create_task(_open(target, connection), name=f"connect {target.address}")

    def _tell(self, target: _Target, connection: Connection, news: News) -> None:
        self._news.append((target, connection, news))
        self._awake.set()

    def _handle(self, target: _Target, connection: Connection, news: News, now: float) -> None:
        if connection not in target.tries:
            if connection is target.connection and isinstance(news, Lost):
                target.connection = None
                self._check(target, now)
        elif news is Opened.OPENED:
            if connection.usable:
                self._ask(target, connection)
        elif isinstance(news, Answer):
            self._answered(target, connection, news, now)
        elif isinstance(news, Lost):
            self._broken(target, connection, news, now)

    def _check(self, target: _Target, now: float) -> None:
        """An idle connection ended: the process died, or its server tidies up. Whether it still answers will tell."""
        gap = self._rest(target, CHECK_GAP)
        if now - target.checked >= gap:
            target.checked = now
            self._begin(target, now)
        else:
            self._set_timer(target, min(target.wake, target.checked + gap))

    def _answered(self, target: _Target, connection: Connection, answer: Answer, now: float) -> None:
        if answer.status >= 500 and not target.pages_asked:
            connection.abort()
            self._broken(target, connection, f"http-{answer.status}", now)
            return
        target.bytes_read += len(answer.body)
        load = engines.read(answer.body, target.kind) if answer.status == 200 else EngineLoad()
        told = load.engine is not EngineKind.UNKNOWN
        if not told and target.pages_asked + 1 < len(target.requests):
            target.pages_asked += 1
            self._ask_again(target, connection)
            return
        target.page = (target.page + target.pages_asked) % len(target.requests) if told else 0
        mark = target.tries[connection]
        target.drop(kept=connection)
        self._succeeded(target, mark, load, now)

    def _ask_again(self, target: _Target, connection: Connection) -> None:
        if connection.usable:
            self._ask(target, connection)
        else:
            del target.tries[connection]
            self._connect(target)

    def _succeeded(self, target: _Target, mark: object, load: EngineLoad, now: float) -> None:
        previous = target.load
        if previous is not None and (is_new_process(load, previous) or (target.gone and load.started_at is None)):
            log.info("engine restarted address=%s", target.address)
            self._sink.restarted(target.address)
        self._sink.scraped(target.address, mark, load, now)
        if not target.available:
            log.info("engine available address=%s engine=%s", target.address, load.engine.value)
        target.available, target.reason, target.gone, target.load = True, "", False, load
        target.backoff = FIRST_BACKOFF
        target.duration = now - target.started
        self._ok += 1
        self._seconds += target.duration
        interval = next_interval(load, previous, self._inflight(target.address))
        self._schedule(target, self._rest(target, interval), now)

    def _rest(self, target: _Target, seconds: float) -> float:
        """`seconds`, or longer after a page that is long to read."""
        return max(seconds, target.bytes_read / self._limits.bytes_per_second)

    def _broken(self, target: _Target, connection: Connection, why: Lost | str, now: float) -> None:
        """One try failed. The verdict waits for the other one, or for a second one, unless nobody listens."""
        del target.tries[connection]
        if why in (Lost.REFUSED, Lost.UNROUTABLE, Lost.OURS) or (not target.tries and target.retried):
            self._give_up(target, why, now)
        elif not target.tries:
            self._retry(target)
            self._set_timer(target, target.deadline)

    def _give_up(self, target: _Target, why: Lost | str, now: float) -> None:
        target.drop()
        self._failed += 1
        self._seconds += now - target.started
        if why is Lost.OURS:
            log.error("cannot connect address=%s", target.address)
        elif (reason := why.value if isinstance(why, Lost) else why) != target.reason:
            log.warning("engine unreachable address=%s reason=%s", target.address, reason)
            target.available, target.reason = False, reason
            self._sink.unreachable(target.address, reason, now)
        target.gone = target.gone or why is Lost.REFUSED
        self._schedule(target, target.backoff, now)
        target.backoff = next_backoff(target.backoff)

    def _schedule(self, target: _Target, interval: float, now: float) -> None:
        """Set the next scrape; all are stretched alike when they would exceed the allowed rate together."""
        self._rate += 1.0 / interval - target.rate
        target.rate = 1.0 / interval
        stretch = max(1.0, self._rate / self._limits.scrapes_per_second)
        self._set_timer(target, now + interval * stretch * self._rng.uniform(0.9, 1.1))

    def _hurry(self, target: _Target, gap: float) -> None:
        self._hurried[target] = min(gap, self._hurried.get(target, gap))
        self._awake.set()

    def _set_timer(self, target: _Target, when: float) -> None:
        target.wake = when
        self._timer_count += 1  # a tie must not compare targets
        heapq.heappush(self._timers, (when, self._timer_count, target))

    def _set_alarm(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer of the loop, for the first of ours. An alarm that rings early does no harm."""
        if not self._timers or self._rings_at <= self._timers[0][0]:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._rings_at = self._timers[0][0]
        self._alarm = loop.call_at(self._rings_at, self._ring)

    def _ring(self) -> None:
        self._alarm, self._rings_at = None, math.inf
        self._awake.set()


async def _open(target: _Target, connection: Connection) -> None:
    """Connect within the scrape's deadline. What comes of it, `connection` reports."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(target.deadline):
            await loop.create_connection(lambda: connection, target.host, target.port)
    except OSError as error:
        connection.lose(failure(error))
