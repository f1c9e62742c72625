"""A pool of simulated engines on a virtual clock, placed by the real ledgers and policy, with the queue or without it.

Clients in a closed loop: each sends its next request when the last one has ended. Engines are scraped every half
second. Times in seconds.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Sequence

from igw_extproc.domain import Ask, Endpoint, EngineKind, EngineLoad
from igw_extproc.flowcontrol.queue import FlowQueue
from igw_extproc.flowcontrol.room import is_open
from igw_extproc.flowcontrol.turns import serve
from igw_extproc.flowcontrol.waiters import Limits, Waiter
from igw_extproc.inflight import Ledger
from igw_extproc.ledgers import Ledgers
from igw_extproc.scheduling.framework import Reservation, Scheduler
from igw_extproc.scheduling.policies import POLICIES
from igw_extproc.scheduling.prefix import PrefixIndex
from igw_sim.engine import Engine
from igw_sim.model import Request, StepResult
from igw_sim.presets import PRESETS

SCRAPE = 0.5
# From the picker to the engine, and from an answer's end to the picker.
DELAY = 0.002
# What a policy expects of an answer whose length it is not told.
OUTPUT = 256


class BatchingPool:
    """`queued`: requests wait in the picker. `waiting` collects what engines said of their own queues."""

    def __init__(self, preset: str, engines: int, queued: bool) -> None:
        size = PRESETS[preset]
        self.now = 0.0
        self.ended = 0
        self.waiting: list[int] = []
        self._queued = queued
        self._rng = random.Random(1)
        self._engines = [Engine(size.limits, size.speed, random.Random(at)) for at in range(engines)]
        table = Ledgers()
        table.sync([Endpoint(f"10.0.0.{at}:8000") for at in range(engines)])
        self._ledgers = list(table)
        self._scheduler = Scheduler(POLICIES["llm-metric"], PrefixIndex())
        self._queue: FlowQueue[Request] = FlowQueue(Limits(max_size=10_000, wait_timeout=1e6))
        self._leases: dict[str, Reservation] = {}
        self._idle = set(range(engines))
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._next: Callable[[], None] = lambda: None

    def run(self, clients: int, requests: Sequence[Request]) -> float:
        """Serve them all: tokens produced a second."""
        left = iter(requests)

        def send() -> None:
            request = next(left, None)
            if request is not None:
                self._arrive(request)

        self._next = send
        for at in range(len(self._engines)):
            self._scrape(at)
        for at in range(clients):
            self._in(at / clients, send)
        while self.ended < len(requests):
            self.now, _, happens = heapq.heappop(self._events)
            happens()
        return sum(request.output_tokens for request in requests) / self.now

    def _in(self, seconds: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), happens))

    def _scrape(self, at: int) -> None:
        said, ledger = self._engines[at].statistics(), self._ledgers[at]
        capacity = self._engines[at].limits.kv_tokens
        load = EngineLoad(EngineKind.VLLM, said.running, said.waiting, said.kv_usage, capacity)
        ledger.scraped(ledger.scrape_started(), load, self.now)
        self.waiting.append(said.waiting)
        self._in(SCRAPE, lambda: self._scrape(at))
        self._serve(ledger)

    def _arrive(self, request: Request) -> None:
        ask = Ask("m", request.prompt_tokens, OUTPUT)
        lease = self._reserve(request, ask, self._ledgers)
        place = lease.ledger
        if not self._queued or (self._queue.highest(place) is None and is_open(place, ask, self.now)):
            self._send(request)
            return
        waiter, _ = self._queue.offer(request, ask, "", 1, self.now, capacity=True, place=place)
        assert waiter is not None

    def _reserve(self, request: Request, ask: Ask, among: Sequence[Ledger]) -> Reservation:
        decision = self._scheduler.pick(among, ask, self.now, self._rng)
        assert decision is not None
        self._leases[request.id] = decision.lease
        decision.lease.hold()
        return decision.lease

    def _send(self, request: Request) -> None:
        lease = self._leases[request.id]
        lease.send(self.now)
        self._in(DELAY, lambda: self._submit(lease.ledger.slot, request))

    def _serve(self, ledger: Ledger) -> None:
        serve(self._queue, ledger, self, self.now)

    # What `serve` asks (`turns.Host`).

    def extra(self, payload: Request, ledger: Ledger) -> int | None:
        """Nothing is shared."""
        return 0

    def chooses(self, payload: Request, ledger: Ledger, now: float) -> bool:
        """By the policy, between two."""
        before = self._leases[payload.id]
        before.close(now)
        return self._reserve(payload, before.ask, [before.ledger, ledger]).ledger is ledger

    def goes(self, waiter: Waiter[Request], now: float) -> None:
        """Over to its engine."""
        self._send(self._queue.dispatched(waiter, now))

    def _submit(self, at: int, request: Request) -> None:
        self._engines[at].submit(request, self.now)
        if at in self._idle:
            self._idle.discard(at)
            self._step(at)

    def _step(self, at: int) -> None:
        result = self._engines[at].step(self.now)
        if result.duration:
            self._in(result.duration, lambda: self._stepped(at, result))
        else:
            self._idle.add(at)

    def _stepped(self, at: int, result: StepResult) -> None:
        for name, _ in result.emitted:
            self._leases[name].first_byte(self.now)
        for finished in result.finished:
            self._in(DELAY, lambda name=finished.id: self._end(name))  # type: ignore[misc]
        self._step(at)
        self._serve(self._ledgers[at])

    def _end(self, name: str) -> None:
        lease = self._leases.pop(name)
        lease.close(self.now)
        self.ended += 1
        self._serve(lease.ledger)
        self._next()
