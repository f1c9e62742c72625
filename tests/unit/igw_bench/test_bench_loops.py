"""Open and closed loops on a clock of their own: who is sent when, and what ends a load."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from igw_bench.command.loops import Load
from igw_bench.command.plans import Plan
from igw_bench.command.samples import ANSWERED, FAILED, Sample
from igw_bench.workloads import Change, Job, Next, Workload
from igw_sim.presets import PRESETS
from igw_testing.virtual_clock import run

TINY = PRESETS["tiny"]


def jobs(count: int) -> tuple[Job, ...]:
    return tuple(Job(number, 10, 5) for number in range(count))


def now() -> float:
    """The virtual clock."""
    return asyncio.get_running_loop().time()


class Slow:
    """A target that takes `takes` seconds for each request, or for those that are named; `broken` ones fail."""

    def __init__(self, takes: float, named: dict[int, float] | None = None, broken: tuple[int, ...] = ()) -> None:
        self.takes = takes
        self.named = named or {}
        self.broken = broken
        self.most = self.now = 0

    async def __call__(self, job: Job, due: float) -> Sample:
        clock = asyncio.get_running_loop().time
        sent = clock()
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.named.get(job.number, self.takes))
        self.now -= 1
        outcome = FAILED if job.number in self.broken else ANSWERED
        return Sample(job.number, due, sent, clock(), outcome, first_at=clock(), last_at=clock(), output_tokens=5)


def samples(workload: Workload, target: Slow, speed: float = 1.0) -> list[Sample]:
    load = Load(Plan(workload), target, speed, now)
    run(load.run())
    return load.samples()


def close(*values: float) -> object:
    return pytest.approx(values, abs=1e-6)


def test_an_open_loop_sends_at_its_times_however_slow_the_answers_are() -> None:
    found = samples(Workload("t", (TINY,), jobs(3), arrivals=(0.0, 1.0, 1.5)), Slow(10.0))
    assert [one.due_at for one in found] == close(0.0, 1.0, 1.5)
    assert [one.sent_at for one in found] == close(0.0, 1.0, 1.5)


def test_a_request_that_is_sent_late_counts_from_when_it_was_due() -> None:
    class Stalling(Slow):
        """Holds up the whole sender, as a busy machine does."""

        async def __call__(self, job: Job, due: float) -> Sample:
            if job.number == 0:
                asyncio.get_running_loop()._jumping.passed += 3.0  # type: ignore[attr-defined]
            return await super().__call__(job, due)

    first, second = samples(Workload("t", (TINY,), jobs(2), arrivals=(0.0, 1.0)), Stalling(1.0))
    assert (second.due_at, second.sent_at, second.ttft) == close(1.0, 3.0, 3.0)
    assert first.ttft == pytest.approx(4.0)


def test_a_closed_loop_keeps_as_many_under_way_as_it_has_clients() -> None:
    target = Slow(1.0)
    found = samples(Workload("t", (TINY,), jobs(10), clients=3), target)
    assert target.most == 3
    assert [one.due_at for one in found] == close(*[at // 3 for at in range(10)])


def test_nothing_is_sent_after_the_end_and_what_is_under_way_is_awaited() -> None:
    opened = samples(Workload("t", (TINY,), jobs(9), arrivals=tuple(range(9)), until=3.0), Slow(10.0))
    assert [one.due_at for one in opened] == close(0, 1, 2)
    closed = samples(Workload("t", (TINY,), jobs(99), clients=2, until=3.0), Slow(2.0))
    assert [one.ended_at for one in closed] == close(2, 2, 4, 4)


def test_the_next_turn_follows_its_answer_after_a_pause_and_a_client_finishes_its_talk_first() -> None:
    follow = {0: Next(Job(7, 10, 5), 2.0), 7: Next(Job(8, 10, 5), 0.5)}
    found = samples(Workload("t", (TINY,), jobs(2), clients=1, follow=follow), Slow(1.0))
    assert [one.number for one in found] == [0, 7, 8, 1]
    assert [one.due_at for one in found] == close(0.0, 3.0, 4.5, 5.5)


def test_a_talk_ends_with_a_turn_that_fails() -> None:
    follow = {0: Next(Job(7, 10, 5))}
    found = samples(Workload("t", (TINY,), jobs(1), arrivals=(0.0,), follow=follow), Slow(1.0, broken=(0,)))
    assert [one.number for one in found] == [0]


def test_a_faster_clock_divides_times_and_gives_them_back_as_they_were_meant() -> None:
    load = Load(Plan(Workload("t", (TINY,), jobs(3), arrivals=(0.0, 10.0, 20.0))), Slow(1.0), 10.0, now)
    assert run(timed(load.run())) == pytest.approx(3.0, abs=1e-6)
    assert [one.due_at for one in load.samples()] == close(0, 10, 20)
    assert [one.ttft for one in load.samples()] == close(10, 10, 10)


async def timed(work: Coroutine[Any, Any, None]) -> float:
    began = asyncio.get_running_loop().time()
    await work
    return asyncio.get_running_loop().time() - began


def test_what_happens_to_engines_happens_at_its_time() -> None:
    happened: list[tuple[float, Change]] = []

    async def change(one: Change) -> None:
        happened.append((asyncio.get_running_loop().time(), one))

    changes = (Change(4.0, 1, 3.0), Change(40.0, 1, 1.0))
    workload = Workload("t", (TINY,), jobs(1), arrivals=(0.0,), changes=changes)
    run(Load(Plan(workload), Slow(5.0), 2.0, now).run(change))
    ((when, what),) = happened
    assert (when, what) == (2.0, changes[0])
