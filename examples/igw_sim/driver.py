"""Runs one `Engine` in real time: steps it, waits as long as each step takes, and wakes those whose tokens came.

One task per engine. When steps are shorter than the loop's timers, several are run before a pause and delivered
together; when the loop cannot keep up at all the engine becomes slower than asked for, but never blocks the loop.
"""

import asyncio
from collections import Counter
from random import Random

from igw_sim.engine import Engine
from igw_sim.model import Finished, Limits, Request, Speed, StepResult

# Steps run in one go when behind; bounds how long the loop is held, at some 20 microseconds a step.
_MOST_STEPS = 50
# How far the engine may run behind the clock before it gives up catching up, in seconds.
_MOST_LAG_S = 0.25


class Ticket:
    """One submitted request, as its handler sees it."""

    __slots__ = ("_waiter", "_wanted", "finished", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.finished: Finished | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._wanted = 0

    async def changed(self, wanted: int = 0) -> None:
        """Wait until more tokens came, and there are `wanted` in all. There must be so many to come."""
        self._wanted = wanted
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    async def done(self) -> Finished:
        """Wait for the end."""
        while self.finished is None:
            await self.changed()
        return self.finished

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

    def cancel(self, request_id: str) -> None:
        """Drop a request if it is still there."""
        self._tickets.pop(request_id, None)
        self.engine.cancel(request_id)

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
                due += results[-1].duration
                if due > now or not self.engine.busy:
                    break
            await asyncio.sleep(max(0.0, due - loop.time()))
            self._deliver(results)

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
