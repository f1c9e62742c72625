"""`make bench-queue`: what waiting in the picker costs and gains, on simulated engines and a virtual clock.

Each load runs without a queue, with one that never refuses, and with the queue as shipped, for eight seeds, in three
to five minutes. Prints a table of means, and last one line of JSON.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random

from igw_bench import policies
from igw_bench.numbers import mean, percentile
from igw_bench.offline import Outcome
from igw_bench.policies import figures
from igw_bench.workers import workers
from igw_bench.workloads import Job, Workload, decode_bound, decode_heavy, shared_prefixes, tenant_job
from igw_extproc.flowcontrol.waiters import Limits
from igw_extproc.scheduling.policies import DEFAULT

SEEDS = tuple(range(1, 9))
URGENT = 1
# The tenant that floods.
FLOOD = 1_000_000
# Nobody is refused: what is compared is the same work.
PATIENT = Limits(max_size=1_000_000, wait_timeout=1e9, max_bytes=1 << 60)
QUEUES: Mapping[str, Limits | None] = {"none": None, "patient": PATIENT, "shipped": Limits()}


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


def few_seats(rng: Random, seats: int, workload: Workload) -> Workload:
    """Engines with much room in their caches, of which each runs only so many requests at once, and does not say so."""
    fleet = tuple(replace(one, limits=replace(one.limits, max_sequences=seats)) for one in workload.fleet)
    return _urgent(replace(workload, fleet=fleet), rng)


def _brief(rng: Random) -> Workload:
    """Short prompts and answers, of which several end in each step."""
    workload = decode_bound(rng, 20_000, 600)
    jobs = tuple(replace(job, output_tokens=rng.randint(10, 60)) for job in workload.jobs)
    return replace(workload, jobs=jobs)


LOADS: Mapping[str, Callable[[Random], Workload]] = {
    "A, 160 clients": lambda rng: _urgent(decode_heavy(rng, 4000, 160), rng),
    "A, 250 clients": lambda rng: _urgent(decode_heavy(rng, 4000, 250), rng),
    "B, 36 a second": lambda rng: _urgent(shared_prefixes("B", 36.0, 0.0, rng), rng),
    "B, 42 a second": lambda rng: _urgent(shared_prefixes("B", 42.0, 0.0, rng), rng),
    "B, 42, hot tenant": lambda rng: _urgent(shared_prefixes("B", 42.0, 0.4, rng), rng),
    "B, 25, a tenant floods": lambda rng: flooded(rng, 25.0, 40.0, 40.0, 80.0),
    "few seats": lambda rng: few_seats(rng, 16, decode_bound(rng, 2000)),
    "few seats, short": lambda rng: few_seats(rng, 64, _brief(rng)),
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
    with workers(len(cells)) as pool:
        runs = list(pool.map(_cell, cells))
    found = {(load, queue): _means(runs, load, queue) for load in LOADS for queue in QUEUES}
    print(table(found))
    print(json.dumps({f"{load}; {queue}": cell for (load, queue), cell in found.items()}))


def _cell(cell: tuple[str, str, int]) -> Run:
    load, queue, seed = cell
    return Run(load, queue, seed, measured(simulate(LOADS[load](Random(seed)), QUEUES[queue], seed)))


def simulate(workload: Workload, limits: Limits | None, seed: int) -> Outcome:
    """The default policy, with the queue or without."""
    return policies.simulate(workload, DEFAULT, seed, limits=limits)


def measured(outcome: Outcome) -> dict[str, float]:
    """What one run comes to: `policies.figures`, and the times to the first token of those who ask apart."""
    found = figures(outcome) | {"engine_queue": outcome.engine_queue}
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
