"""Sends a plan's requests in real time: at their times (open loop), or as clients that wait for answers (closed loop).

In an open loop a request is due at its time whether or not anybody is ready to send it, and its latencies count from
then: a stall of the target, or of this sender, shows in all the requests that it delays. Called by `campaign`. Times
are read from `perf_counter`, because the loop's own clock may count milliseconds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from time import perf_counter

from igw_bench.command.plans import Plan
from igw_bench.command.samples import ANSWERED, Sample
from igw_bench.offline import AFTER_FAILURE
from igw_bench.workloads import Change, Job

Ask = Callable[[Job, float], Awaitable[Sample]]
Clock = Callable[[], float]


@dataclass(slots=True)
class Tally:
    """How far a load is. `total`: requests if only their number ends it; times are those of `clock`."""

    total: int
    until: float
    clock: Clock = perf_counter
    began: float = 0.0
    in_flight: int = 0
    failed: int = 0
    samples: list[Sample] = field(default_factory=list)

    @property
    def elapsed(self) -> float:
        """Real seconds since it began; 0 before."""
        return self.clock() - self.began if self.began else 0.0

    @property
    def done(self) -> int:
        """Requests that are over, well or badly."""
        return len(self.samples)


class Load:
    """One load. `ask` sends a request and returns its sample; `speed`: workload seconds a real second."""

    def __init__(self, plan: Plan, ask: Ask, speed: float = 1.0, clock: Clock = perf_counter) -> None:
        self._clock = clock
        self._workload = plan.workload
        self._ask = ask
        self._speed = speed
        self.tally = Tally(plan.total, plan.workload.until / speed, clock)

    async def run(self, change: Callable[[Change], Awaitable[None]] | None = None) -> None:
        """Until all are answered, or the time is over and those under way are. `change` carries out what happens."""
        self.tally.began = self._clock()
        async with asyncio.TaskGroup() as group:
            changing = [
                group.create_task(self._change(one, change)) for one in self._workload.changes if change is not None
            ]
            await (self._closed() if self._workload.clients else self._open())
            for task in changing:
                task.cancel()

    def samples(self) -> list[Sample]:
        """On the workload's clock, in the order of their being due."""
        made = [one.on_clock(self.tally.began, self._speed) for one in self.tally.samples]
        return sorted(made, key=lambda one: (one.due_at, one.number))

    async def _change(self, one: Change, change: Callable[[Change], Awaitable[None]]) -> None:
        await self._sleep_until(self.tally.began + one.at / self._speed)
        await change(one)

    # Open loop.

    async def _open(self) -> None:
        began = self.tally.began
        async with asyncio.TaskGroup() as group:
            for job, at in zip(self._workload.jobs, chain(self._workload.arrivals, repeat(0.0)), strict=False):
                due = began + at / self._speed
                if at >= self._workload.until:
                    break
                await self._sleep_until(due)
                group.create_task(self._talk(job, due))

    # Closed loop.

    async def _closed(self) -> None:
        unsent = iter(self._workload.jobs)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._workload.clients, len(self._workload.jobs))):
                group.create_task(self._client(unsent))

    async def _client(self, unsent: Iterator[Job]) -> None:
        for job in unsent:
            if self._over():
                return
            if not await self._talk(job, self._clock()):
                await asyncio.sleep(AFTER_FAILURE / self._speed)

    # Both.

    async def _talk(self, job: Job, due: float) -> bool:
        """A request and those that follow it. Whether all were answered."""
        while True:
            answered = await self._one(job, due)
            following = self._workload.follow.get(job.number)
            if not answered or following is None:
                return answered
            due, job = self._clock() + following.think / self._speed, following.job
            await self._sleep_until(due)
            if self._over():
                return True

    async def _one(self, job: Job, due: float) -> bool:
        self.tally.in_flight += 1
        try:
            sample = await self._ask(job, due)
        finally:
            self.tally.in_flight -= 1
        self.tally.samples.append(sample)
        self.tally.failed += sample.outcome != ANSWERED
        return sample.outcome == ANSWERED

    def _over(self) -> bool:
        return self._clock() - self.tally.began >= self.tally.until

    async def _sleep_until(self, when: float) -> None:
        wait = when - self._clock()
        if wait > 0:
            await asyncio.sleep(wait)
