"""`make bench-policies`: placement policies and the rules of other routers, on every workload, without a socket.

Three seeds of each, on as many processes as there are cores; under five minutes. Prints a line for each run, a table,
what happened to the slowed and the dead endpoint, and last one line of JSON: for each workload and policy the ratios
to round robin on the same seed, medians of the seeds. Told so, it runs fewer workloads on more seeds: where policies
are closer to each other than seeds are, three tell little.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from time import perf_counter

from igw_bench.numbers import mean, percentile
from igw_bench.offline import HOP, Outcome, Record, Simulation
from igw_bench.peers import PEERS, Theirs
from igw_bench.placers import Holds, Ours, Placer
from igw_bench.queued import Queued
from igw_bench.workers import workers
from igw_bench.workloads import SLOW, SLOW_AT, SLOW_UNTIL, WORKLOADS, Workload
from igw_extproc.flowcontrol.waiters import Limits
from igw_extproc.scheduling.policies import POLICIES

SEEDS = 3
BASELINE = "round-robin"
NAMES = (BASELINE, "least-request", "llm-metric", "prefix-cache", *PEERS)
RATIOS = ("ttft_mean", "ttft_p99", "tpot_p99", "tokens_per_s")
# A router has noticed a slow endpoint, or not, by this many seconds after it became slow.
NOTICED = 5.0


@dataclass(frozen=True, slots=True)
class Run:
    """One cell of the table, and how long it took to simulate, in seconds."""

    workload: str
    policy: str
    seed: int
    figures: Mapping[str, float]
    took: float


def main() -> None:
    """All of it, or what is asked for, told as it comes."""
    asked = _asked(sys.argv[1:])
    began = perf_counter()
    cells = [(one, policy, seed) for one in asked.workload for seed in range(1, asked.seeds + 1) for policy in NAMES]
    runs: list[Run] = []
    with workers(len(cells)) as pool:
        for run in pool.map(_cell, cells):
            runs.append(run)
            print(f"{len(runs):3}/{len(cells)} {_told(run)}", file=sys.stderr, flush=True)
    print(f"\n{table(runs)}\n")
    if "A" in asked.workload:
        print(f"{calibration(runs)}\n")
    print(f"{len(runs)} runs in {perf_counter() - began:.0f} s\n\n{json.dumps(ratios(runs))}")


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-policies", description="Placement policies, offline.")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="only this; may be repeated")
    parser.add_argument("--seeds", type=_seeds, default=SEEDS, help="how many, 1 to 100; default: 3")
    asked = parser.parse_args(arguments)
    asked.workload = asked.workload or list(WORKLOADS)
    return asked


def _seeds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100")
    return int(text)


def _cell(cell: tuple[str, str, int]) -> Run:
    workload, policy, seed = cell
    began = perf_counter()
    found = figures(simulate(WORKLOADS[workload](Random(seed)), policy, seed))
    return Run(workload, policy, seed, found, perf_counter() - began)


def simulate(workload: Workload, policy: str, seed: int, hop: float = HOP, limits: Limits | None = None) -> Outcome:
    """One workload under one of NAMES, or any other policy of the product. `hop`: seconds to an engine's queue.

    `limits`: with the picker's queue, which only the product's policies have.
    """
    if limits is not None:
        queued = Queued(Ours(POLICIES[policy], workload, Random(seed)), limits)
        return queued.run(Simulation(workload, lambda _: queued, Random(seed), hop))
    return Simulation(workload, partial(_placer, policy, workload, seed), Random(seed), hop).run()


def _placer(policy: str, workload: Workload, seed: int, holds: Holds) -> Placer:
    if policy in PEERS:
        return Theirs(PEERS[policy], workload, Random(seed), holds)
    return Ours(POLICIES[policy], workload, Random(seed))


# ------------------------------------------------------------------------------------------------ figures


def figures(outcome: Outcome) -> dict[str, float]:
    """What one run comes to. Times are seconds; latencies of answered requests sent from `measured_from` on."""
    complete = [record for record in outcome.records if not record.failed]
    counted = [record for record in complete if record.sent_at >= outcome.workload.measured_from]
    ttft = [record.first_at - record.sent_at for record in counted]
    tpot = [
        (record.ended_at - record.first_at) / (record.job.output_tokens - 1)
        for record in counted
        if record.job.output_tokens > 1
    ]
    duration = max(record.ended_at for record in outcome.records) - outcome.records[0].sent_at
    found = {
        "duration": duration,
        "ttft_mean": mean(ttft) or 0.0,
        "ttft_p50": percentile(ttft, 0.5) or 0.0,
        "ttft_p99": percentile(ttft, 0.99) or 0.0,
        "tpot_mean": mean(tpot) or 0.0,
        "tpot_p99": percentile(tpot, 0.99) or 0.0,
        "tokens_per_s": sum(record.job.output_tokens for record in complete) / duration,
        "cached": sum(record.cached_tokens for record in counted) / sum(one.job.prompt_tokens for one in counted),
        "preemptions": float(sum(record.preemptions for record in complete)),
        "cut": float(sum(record.failed and record.first_at >= 0.0 for record in outcome.records)),
        "refused": float(sum(record.failed and record.first_at < 0.0 for record in outcome.records)),
    }
    if outcome.workload.changes:
        found["slowed_share"] = slowed_share(outcome.records)
    return found


def slowed_share(records: Sequence[Record]) -> float:
    """New requests to the endpoint that slows, from NOTICED seconds after that, as a share of what it got before."""
    before = _share(records, 0.0, SLOW_AT)
    return _share(records, SLOW_AT + NOTICED, SLOW_UNTIL) / before if before else 0.0


def _share(records: Iterable[Record], begin: float, end: float) -> float:
    sent = [record for record in records if begin <= record.sent_at < end and record.order]
    return sum(record.order[0] == SLOW for record in sent) / len(sent) if sent else 0.0


def medians(runs: Iterable[Run], workload: str, policy: str) -> dict[str, float]:
    """Each figure's median over the seeds."""
    found = [run.figures for run in runs if (run.workload, run.policy) == (workload, policy)]
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def ratios(runs: Sequence[Run]) -> dict[str, dict[str, dict[str, float]]]:
    """By workload and policy: RATIOS to the baseline on the same seed, medians of the seeds."""
    base = {(run.workload, run.seed): run.figures for run in runs if run.policy == BASELINE}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for run in runs:
        found.setdefault(run.workload, {}).setdefault(run.policy, {})
    for workload, policies in found.items():
        for policy, cell in policies.items():
            mine = [run for run in runs if (run.workload, run.policy) == (workload, policy)]
            for name in RATIOS:
                parts = [run.figures[name] / base[workload, run.seed][name] for run in mine]
                cell[name] = float(f"{statistics.median(parts):.4g}")
    return found


# ------------------------------------------------------------------------------------------------ text

# Workload A behind plain load balancing, as published: vLLM 0.3.3 on five A10.
PUBLISHED = {
    "duration": 1138.0,
    "tokens_per_s": 2466.79,
    "ttft_mean": 1.98186,
    "ttft_p50": 0.16169,
    "ttft_p99": 19.39684,
    "tpot_mean": 0.12033,
    "tpot_p99": 0.85249,
}


def calibration(runs: Iterable[Run]) -> str:
    """How far the engine model is from the published run, figure by figure."""
    found = medians(runs, "A", BASELINE)
    lines = ["| A, round robin | simulated | published | difference |", "|---|---|---|---|"]
    for name, value in PUBLISHED.items():
        lines.append(f"| {name} | {found[name]:.4g} | {value:.4g} | {found[name] / value - 1:+.0%} |")
    return "\n".join(lines)


_HEAD = (
    "| workload | policy | TTFT mean s | P50 | P99 | ratio mean | ratio P99 | TPOT mean ms | P99 | ratio P99 "
    "| tokens/s | ratio | cached | preempted | cut | refused | slowed |"
)


def table(runs: Sequence[Run]) -> str:
    """Markdown: medians of the seeds, and ratios to the baseline."""
    parts = ratios(runs)
    rows = [
        _row(workload, policy, medians(runs, workload, policy), parts[workload][policy])
        for workload in parts
        for policy in parts[workload]
    ]
    return "\n".join([_HEAD, "|---" * (_HEAD.count("|") - 1) + "|", *rows])


def _row(workload: str, policy: str, found: Mapping[str, float], parts: Mapping[str, float]) -> str:
    slowed = f"{found['slowed_share']:.2f}" if "slowed_share" in found else ""
    cells = (
        workload,
        policy,
        f"{found['ttft_mean']:.3f}",
        f"{found['ttft_p50']:.3f}",
        f"{found['ttft_p99']:.2f}",
        f"{parts['ttft_mean']:.3f}",
        f"{parts['ttft_p99']:.3f}",
        f"{found['tpot_mean'] * 1e3:.1f}",
        f"{found['tpot_p99'] * 1e3:.1f}",
        f"{parts['tpot_p99']:.2f}",
        f"{found['tokens_per_s']:.0f}",
        f"{parts['tokens_per_s']:.3f}",
        f"{found['cached']:.2f}",
        f"{found['preemptions']:.0f}",
        f"{found['cut']:.0f}",
        f"{found['refused']:.0f}",
        slowed,
    )
    return f"| {' | '.join(cells)} |"


def _told(run: Run) -> str:
    found = run.figures
    return (
        f"{run.workload:7} {run.policy:13} seed {run.seed}  TTFT mean {found['ttft_mean']:7.3f} s, "
        f"P99 {found['ttft_p99']:7.2f} s, {found['tokens_per_s']:6.0f} tokens/s  (took {run.took:.1f} s)"
    )


if __name__ == "__main__":
    main()
