"""Runs one `Engine` in real time: steps it, waits as long as each step takes, and wakes those whose tokens came.

One task per engine. When steps are shorter than the loop's timers, several are run before a pause and delivered
together; when the loop cannot keep up at all the engine becomes slower than asked for, but never blocks the loop.
"""

import asyncio
from collections import Counter
from random import Random

from igw_sim.engine import Engine
from igw_sim.model import Fetch, Finished, Limits, Request, Speed, StepResult

# Steps run in one go when behind; bounds how long the loop is held, at some 20 microseconds a step.
_MOST_STEPS = 50
# How far the engine may run behind the clock before it gives up catching up, in seconds.
_MOST_LAG_S = 0.25


class Ticket:
    """One submitted request, as its handler sees it."""

    __slots__ = ("_failure", "_waiter", "_wanted", "fetch", "finished", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        # Set when the engine has made room for KV that is to come from another one.
        self.fetch: Fetch | None = None
        self._failure: Exception | None = None
        self.finished: Finished | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 0

    async def changed(self, wanted: int = 0) -> None:
        """Wait until something came: more tokens, and `wanted` in all, room for KV, the end. Raises what `fail` got.

        There must be so many tokens to come.
        """
        self._wanted = wanted
        if self._failure is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._failure is not None:
            raise self._failure

    async def done(self) -> Finished:
        """Wait for the end."""
        while self.finished is None:
            await self.changed()
        return self.finished

    def fail(self, failure: Exception) -> None:
        """End the wait, and all later ones, with this."""
        self._failure = failure
        self.wake()

    def wake(self) -> None:
        """End the wait, if any, for so many tokens."""
        if self.tokens >= self._wanted and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Driver:
    """An engine with its clock. `run` must be running for anything to come."""

    def __init__(self, limits: Limits, speed: Speed, rng: Random) -> None:
        self.engine = Engine(limits, speed, rng)
        self._speed = speed
        self._tickets: dict[str, Ticket] = {}
        self._work = asyncio.Event()
        self._moving = asyncio.Event()
        self._moving.set()

    def submit(self, request: Request) -> Ticket:
        """Queue a request; ValueError as `Engine.submit`."""
        self.engine.submit(request, asyncio.get_running_loop().time())
        ticket = self._tickets[request.id] = Ticket()
        self._work.set()
        return ticket

    def drop(self, request_id: str) -> None:
        """Drop a request if it is still there, or else the KV that it left behind."""
        self._tickets.pop(request_id, None)
        if self.engine.cancel(request_id) or self.engine.release(request_id):
            self._work.set()

    def deliver(self, request_id: str) -> None:
        """The KV that this request waits for has come."""
        if self.engine.deliver(request_id, asyncio.get_running_loop().time()):
            self._work.set()

    def slow_down(self, factor: float) -> None:
        """Make every later step take `factor` times as long as at the start."""
        self.engine.speed = self._speed.faster(1 / factor)

    def stall(self, stalled: bool) -> None:
        """Stop stepping, or go on."""
        (self._moving.clear if stalled else self._moving.set)()

    async def run(self) -> None:
        """Step for ever; ends by cancellation."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if not self.engine.busy:
                self._work.clear()
                await self._work.wait()
                due = loop.time()
            await self._moving.wait()
            now = loop.time()
            due = max(due, now - _MOST_LAG_S)
            results = []
            for _ in range(_MOST_STEPS):
                results.append(self.engine.step(due))
                self._tell_of_fetches(results[-1])
                due += results[-1].duration
                if due > now or not self.engine.busy:
                    break
            await asyncio.sleep(max(0.0, due - loop.time()))
            self._deliver(results)

    def _tell_of_fetches(self, result: StepResult) -> None:
        for fetch in result.fetches:
            if ticket := self._tickets.get(fetch.id):
                ticket.fetch = fetch
                ticket.wake()

    def _deliver(self, results: list[StepResult]) -> None:
        tickets = self._tickets
        counts: Counter[str] = Counter()
        for result in results:
            for request_id, count in result.emitted:
                counts[request_id] += count
        for request_id, count in counts.items():
            if ticket := tickets.get(request_id):
                ticket.tokens += count
                ticket.wake()
        for result in results:
            for finished in result.finished:
                if ticket := tickets.pop(finished.id, None):
                    ticket.finished = finished
