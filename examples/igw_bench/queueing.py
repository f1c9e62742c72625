"""`make bench-queue`: what waiting in the picker costs and gains, on simulated engines and a virtual clock.

Each load runs without a queue, with one that never refuses, and with the queue as shipped, for eight seeds, in two
or three minutes. Prints a table of means, and last one line of JSON. `Queued` is the product's queue behind `offline`.
"""

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from random import Random

from igw_bench.numbers import mean, percentile
from igw_bench.offline import Outcome, Simulation
from igw_bench.placers import Ours
from igw_bench.policies import figures
from igw_bench.workloads import Job, Workload, decode_bound, decode_heavy, shared_prefixes, tenant_job
from igw_extproc.domain import EngineLoad
from igw_extproc.flowcontrol.queue import FlowQueue
from igw_extproc.flowcontrol.room import is_open
from igw_extproc.flowcontrol.turns import serve
from igw_extproc.flowcontrol.waiters import Limits, Refused, Waiter
from igw_extproc.inflight import Ledger
from igw_extproc.scheduling.filters import candidates
from igw_extproc.scheduling.framework import Policy
from igw_extproc.scheduling.policies import DEFAULT, POLICIES

SEEDS = tuple(range(1, 9))
URGENT = 1
# The tenant that floods.
FLOOD = 1_000_000
# Nobody is refused: what is compared is the same work.
PATIENT = Limits(max_size=1_000_000, wait_timeout=1e9, max_bytes=1 << 60)
QUEUES: Mapping[str, Limits | None] = {"none": None, "patient": PATIENT, "shipped": Limits()}


class Queued(Ours):
    """One policy of the product with its queue. `answer` is told where one that has waited goes; nowhere: refused."""

    answer: Callable[[Job, Sequence[int]], None]
    alarm: Callable[[float, Callable[[], None]], None]

    def __init__(self, policy: Policy, workload: Workload, rng: Random, limits: Limits) -> None:
        super().__init__(policy, workload, rng)
        self._queue: FlowQueue[Job] = FlowQueue(limits)

    def place(self, job: Job, now: float) -> Sequence[int] | None:
        """As `Admission.admit`. None: it waits."""
        order = self.choose(job, candidates(self._all), now)
        if not order:
            return order
        lease = self._leases[job.number]
        lease.hold()
        highest = self._queue.highest(lease.ledger)
        if (highest is None or highest < job.priority) and is_open(lease.ledger, lease.ask, now):
            lease.send(now)
            return order
        waiter, refused = self._queue.offer(job, lease.ask, str(job.tenant), 0, now, True, lease.ledger)
        if waiter is None:
            self._withdraw(job, now)
            return ()
        self._refuse(refused, now)
        self.alarm(waiter.expires_at, partial(self._expire, waiter.expires_at))
        return None

    def first_byte(self, job: Job, now: float) -> None:
        """There may be room."""
        super().first_byte(job, now)
        serve(self._queue, self._leases[job.number].ledger, self, now)

    def ended(self, job: Job, now: float, succeeded: bool) -> None:
        """There may be room."""
        lease = self._leases.get(job.number)
        if lease is not None:
            super().ended(job, now, succeeded)
            serve(self._queue, lease.ledger, self, now)

    def scraped(self, endpoint: int, mark: object, load: EngineLoad, now: float) -> float:
        """There may be room."""
        wait = super().scraped(endpoint, mark, load, now)
        serve(self._queue, self._all[endpoint], self, now)
        return wait

    # What `serve` asks (`turns.Host`).

    def extra(self, payload: Job, ledger: Ledger) -> int | None:
        """As `Director.extra`."""
        lease = self._leases[payload.number]
        cached = self.index.match(lease.ask.prefix)
        return cached.get(lease.ledger.slot, 0) - cached.get(ledger.slot, 0)

    def chooses(self, payload: Job, ledger: Ledger, now: float) -> bool:
        """As `Admission.chooses`."""
        place = self._withdraw(payload, now)
        self.choose(payload, [ledger, place], now)
        lease = self._leases[payload.number]
        lease.hold()
        return lease.ledger is ledger

    def goes(self, waiter: Waiter[Job], now: float) -> None:
        """Over to its engine."""
        job = self._queue.dispatched(waiter, now)
        lease = self._leases[job.number]
        lease.send(now)
        self.answer(job, [lease.ledger.slot])

    def _expire(self, now: float) -> None:
        self._refuse(self._queue.expire(now, capacity=True), now)

    def _withdraw(self, job: Job, now: float) -> Ledger:
        lease = self._leases.pop(job.number)
        lease.close(now, succeeded=False)
        return lease.ledger

    def _refuse(self, refused: Sequence[Refused[Job]], now: float) -> None:
        for one in refused:
            self._withdraw(one.payload, now)
            self.answer(one.payload, ())


# ------------------------------------------------------------------------------------------------ loads


def _urgent(workload: Workload, rng: Random) -> Workload:
    """One request in ten goes first."""
    jobs = (replace(job, priority=URGENT if rng.random() < 0.1 else 0) for job in workload.jobs)
    return replace(workload, jobs=tuple(jobs))


def flooded(rng: Random, rate: float, flood: float, begin: float, end: float) -> Workload:
    """Workload B below the knee, and one more tenant that sends `flood` requests a second for a while."""
    workload = shared_prefixes("flood", rate, 0.0, rng)
    count = round(flood * (end - begin))
    times = accumulate((rng.expovariate(flood) for _ in range(count)), initial=begin)
    ours = zip(workload.arrivals, workload.jobs, strict=True)
    sent = (replace(tenant_job(FLOOD + number, 1.0, rng), tenant=FLOOD) for number in range(count))
    theirs = zip(times, sent, strict=False)
    order = sorted([*ours, *theirs], key=lambda one: one[0])
    jobs = tuple(replace(job, number=number) for number, (_, job) in enumerate(order))
    return replace(workload, jobs=jobs, arrivals=tuple(at for at, _ in order))


LOADS: Mapping[str, Callable[[Random], Workload]] = {
    "A, 160 clients": lambda rng: _urgent(decode_heavy(rng, 4000, 160), rng),
    "A, 250 clients": lambda rng: _urgent(decode_heavy(rng, 4000, 250), rng),
    "B, 36 a second": lambda rng: _urgent(shared_prefixes("B", 36.0, 0.0, rng), rng),
    "B, 42 a second": lambda rng: _urgent(shared_prefixes("B", 42.0, 0.0, rng), rng),
    "B, 42, hot tenant": lambda rng: _urgent(shared_prefixes("B", 42.0, 0.4, rng), rng),
    "B, 25, a tenant floods": lambda rng: flooded(rng, 25.0, 40.0, 40.0, 80.0),
    "D, 200 clients": lambda rng: _urgent(decode_bound(rng), rng),
}


# ------------------------------------------------------------------------------------------------ runs


@dataclass(frozen=True, slots=True)
class Run:
    """One cell of the table."""

    load: str
    queue: str
    seed: int
    figures: Mapping[str, float]


def main() -> None:
    """All of it."""
    cells = [(load, queue, seed) for load in LOADS for queue in QUEUES for seed in SEEDS]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(_cell, cells))
    found = {(load, queue): _means(runs, load, queue) for load in LOADS for queue in QUEUES}
    print(table(found))
    print(json.dumps({f"{load}; {queue}": cell for (load, queue), cell in found.items()}))


def _cell(cell: tuple[str, str, int]) -> Run:
    load, queue, seed = cell
    return Run(load, queue, seed, measured(simulate(LOADS[load](Random(seed)), QUEUES[queue], seed)))


def simulate(workload: Workload, limits: Limits | None, seed: int) -> Outcome:
    """The default policy, with the queue or without."""
    policy, rng = POLICIES[DEFAULT], Random(seed)
    if limits is None:
        return Simulation(workload, lambda holds: Ours(policy, workload, rng), Random(seed)).run()
    placer = Queued(policy, workload, rng, limits)
    simulation = Simulation(workload, lambda holds: placer, Random(seed))
    placer.answer, placer.alarm = simulation.answered, simulation.alarm
    return simulation.run()


def measured(outcome: Outcome) -> dict[str, float]:
    """What one run comes to: `policies.figures`, and the times to the first token of those who ask apart."""
    found = figures(outcome)
    for name, of in (("urgent", _is_urgent), ("flood", _floods), ("others", lambda job: not _apart(job))):
        times = [
            record.first_at - record.sent_at
            for record in outcome.records
            if not record.failed and record.sent_at >= outcome.workload.measured_from and of(record.job)
        ]
        if times:
            found[f"{name}_mean"], found[f"{name}_p99"] = mean(times) or 0.0, percentile(times, 0.99) or 0.0
    return found


def _is_urgent(job: Job) -> bool:
    return job.priority == URGENT


def _floods(job: Job) -> bool:
    return job.tenant == FLOOD


def _apart(job: Job) -> bool:
    return _is_urgent(job) or _floods(job)


def _means(runs: Sequence[Run], load: str, queue: str) -> dict[str, float]:
    found = [run.figures for run in runs if (run.load, run.queue) == (load, queue)]
    return {name: float(f"{statistics.fmean(one[name] for one in found):.4g}") for name in found[0]}


# ------------------------------------------------------------------------------------------------ text

_HEAD = (
    "| load | queue | tokens/s | ratio | cached | preempted | refused | others s | P99 | urgent s | P99 "
    "| flood s | P99 |"
)


def table(found: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    """Markdown. `ratio`: tokens a second to those without a queue."""
    rows = [_row(load, queue, cell, found[load, "none"]) for (load, queue), cell in found.items()]
    return "\n".join([_HEAD, "|---" * (_HEAD.count("|") - 1) + "|", *rows])


def _row(load: str, queue: str, cell: Mapping[str, float], without: Mapping[str, float]) -> str:
    ratio = cell["tokens_per_s"] / without["tokens_per_s"]
    times = [cell.get(f"{who}_{what}") for who in ("others", "urgent", "flood") for what in ("mean", "p99")]
    texts = ["" if time is None else f"{time:.2f}" for time in times]
    numbers = [f"{cell['tokens_per_s']:.0f}", f"{ratio:.3f}", f"{cell['cached']:.3f}", f"{cell['preemptions']:.0f}"]
    return f"| {' | '.join([load, queue, *numbers, format(cell['refused'], '.0f'), *texts])} |"


if __name__ == "__main__":
    main()
