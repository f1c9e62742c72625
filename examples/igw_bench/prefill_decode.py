"""`make bench-split`: workload E, the same engines mixed and divided, offline, three seeds, under two minutes.

E is what dividing is meant for: documents with long prompts and short answers between chats with short prompts and long
answers, so that one kind of work is in the other's way all the time. Prints a table, and last one line of JSON: by
fleet the ratios to the mixed fleet on the same seed, medians of the seeds.
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from random import Random

from igw_api.split import Role, Split
from igw_bench import policies, split
from igw_bench.numbers import mean, percentile
from igw_bench.offline import Outcome
from igw_bench.workers import workers
from igw_bench.workloads import Job, Workload
from igw_sim.model import Limits, Speed
from igw_sim.presets import Preset
from igw_sim.transfer import Transfer

SEEDS = (1, 2, 3)
MIXED = "mixed"
# The engines of workload B; KV of a quarter of a megabyte a token over two links of 400 Gb/s.
ENGINE = Preset(
    Limits(kv_blocks=4_800, block_tokens=64, max_sequences=256, max_batched_tokens=8192, max_model_tokens=32_768),
    Speed(18_000, decode_step_s=0.012, decode_per_seq_s=3e-5, decode_per_kv_token_s=0.02e-6),
    Transfer(262_144, 100e9, setup_s=0.002),
)
ENGINES = 8
# Of them, those that compute prompts, where roles are fixed.
PREFILLERS = 6
# Requests a second: the fleet computes prompts for half of the time.
RATE, SECONDS, COLD = 18.0, 120.0, 20.0
# Who reads along wants the first word within two seconds, and then 33 tokens a second.
TTFT_S, TPOT_S = 2.0, 0.030
FIGURES = ("ttft_mean", "ttft_p99", "tpot_mean", "tpot_p99", "whole_mean", "whole_p99", "tokens_per_s", "goodput")


def prefill_heavy(rng: Random, rate: float = RATE, chunk: int = ENGINE.limits.max_batched_tokens) -> Workload:
    """E. Half documents (mean prompt 8,000, answer 150 tokens), half chats (300 and 600). `chunk`: tokens in a step."""
    preset = replace(ENGINE, limits=replace(ENGINE.limits, max_batched_tokens=chunk))
    jobs = tuple(_document(number, rng) if rng.random() < 0.5 else _chat(number, rng) for number in range(_count(rate)))
    arrivals = tuple(accumulate(rng.expovariate(rate) for _ in jobs))
    return Workload("E", (preset,) * ENGINES, jobs, arrivals=arrivals, measured_from=COLD)


def _count(rate: float) -> int:
    return round(rate * SECONDS)


def _document(number: int, rng: Random) -> Job:
    prompt = round(8_000 * rng.lognormvariate(-0.08, 0.4))
    return Job(number, min(max(prompt, 1_000), 16_000), max(8, round(150 * rng.lognormvariate(-0.125, 0.5))))


def _chat(number: int, rng: Random) -> Job:
    prompt = max(16, round(300 * rng.lognormvariate(-0.32, 0.8)))
    return Job(number, prompt, max(8, round(600 * rng.lognormvariate(-0.125, 0.5))))


def _mixed(seed: int, chunk: int) -> Outcome:
    return policies.simulate(prefill_heavy(Random(seed), chunk=chunk), "prefix-cache", seed)


def _divided(seed: int, roles: Sequence[Role], dynamic: bool) -> Outcome:
    return split.simulate(prefill_heavy(Random(seed)), Split(dynamic=dynamic), roles, seed)


def _roles(prefillers: int) -> tuple[Role, ...]:
    return (Role.PREFILL,) * prefillers + (Role.DECODE,) * (ENGINES - prefillers)


FLEETS: dict[str, Callable[[int], Outcome]] = {
    MIXED: lambda seed: _mixed(seed, 8192),
    "mixed, chunks of 2048": lambda seed: _mixed(seed, 2048),
    "mixed, chunks of 512": lambda seed: _mixed(seed, 512),
    "pd-split 5+3": lambda seed: _divided(seed, _roles(5), dynamic=False),
    "pd-split 6+2": lambda seed: _divided(seed, _roles(6), dynamic=False),
    "dynamic-pd-split 5+3": lambda seed: _divided(seed, _roles(5), dynamic=True),
    "dynamic-pd-split 6+2": lambda seed: _divided(seed, _roles(6), dynamic=True),
    "dynamic-pd-split, all for both": lambda seed: _divided(seed, (Role.BOTH,) * ENGINES, dynamic=True),
}


def figures(outcome: Outcome) -> dict[str, float]:
    """Those of `policies`, the whole request's time, and the share of requests that keep both promises."""
    found = policies.figures(outcome)
    counted = [one for one in outcome.records if not one.failed and one.sent_at >= outcome.workload.measured_from]
    whole = [one.ended_at - one.sent_at for one in counted]
    kept = sum(
        one.first_at - one.sent_at <= TTFT_S and one.ended_at - one.first_at <= TPOT_S * (one.job.output_tokens - 1)
        for one in counted
    )
    return found | {
        "whole_mean": mean(whole) or 0.0,
        "whole_p99": percentile(whole, 0.99) or 0.0,
        "goodput": kept / len(counted),
    }


def main() -> None:
    """All of it."""
    cells = [(fleet, seed) for fleet in FLEETS for seed in SEEDS]
    found: dict[str, list[dict[str, float]]] = {}
    with workers(len(cells)) as pool:
        for (fleet, seed), row in zip(cells, pool.map(_cell, cells), strict=True):
            found.setdefault(fleet, []).append(row)
            print(f"{fleet}, seed {seed}: goodput {row['goodput']:.3f}", file=sys.stderr, flush=True)
    print(table(found))
    print(json.dumps(ratios(found)))


def _cell(cell: tuple[str, int]) -> dict[str, float]:
    fleet, seed = cell
    return figures(FLEETS[fleet](seed))


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Medians over the seeds, in Markdown."""
    lines = [
        "| fleet | TTFT mean s | P99 | TPOT mean ms | P99 | whole mean s | P99 | tokens/s | goodput |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for fleet, rows in found.items():
        middle = {name: statistics.median(row[name] for row in rows) for name in FIGURES}
        told = (
            f"{middle['ttft_mean']:.3f} | {middle['ttft_p99']:.2f}",
            f"{1e3 * middle['tpot_mean']:.1f} | {1e3 * middle['tpot_p99']:.1f}",
            f"{middle['whole_mean']:.2f} | {middle['whole_p99']:.1f}",
            f"{middle['tokens_per_s']:.0f} | {middle['goodput']:.3f}",
        )
        lines.append(f"| {fleet} | {' | '.join(told)} |")
    return "\n".join(lines)


def ratios(found: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """By fleet: FIGURES to the mixed one on the same seed, medians of the seeds."""
    told: dict[str, dict[str, float]] = {}
    for fleet, rows in found.items():
        pairs = list(zip(rows, found[MIXED], strict=True))
        told[fleet] = {
            name: round(statistics.median(row[name] / base[name] for row, base in pairs), 4) for name in FIGURES
        }
    return told


if __name__ == "__main__":
    main()
