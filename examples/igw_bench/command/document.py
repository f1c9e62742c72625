"""The report as one JSON document: what was asked for, each run, each policy's medians and ratios.

Pure. Called by `campaign`; `table` and `page` show the document, so that a saved one tells the same. docs/bench.md has
the schema; a change of meaning there needs another SCHEMA.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from igw_bench.command import figures
from igw_bench.command.figures import Slo
from igw_bench.command.samples import Run

SCHEMA = "igw-bench/1"
BASELINE = "round-robin"
# A sender that takes more of its core than this, or is later than that, measures itself.
_BUSY, _LATE_S = 0.85, 0.1


@dataclass(frozen=True, slots=True)
class Facts:
    """What the report says of its circumstances: option names to values, and a line about the target."""

    target: str
    about: str
    load: Mapping[str, Any]
    began: str
    left_out: int = 0


def document(facts: Facts, runs: Sequence[Run], slo: Slo) -> dict[str, Any]:
    """All of it. `runs` has every policy with the same seeds."""
    told = [_run(run, slo) for run in runs]
    names = list(dict.fromkeys(run.policy for run in runs))
    baseline = BASELINE if BASELINE in names else names[0]
    return {
        "schema": SCHEMA,
        "began": facts.began,
        "target": facts.target,
        "about": facts.about,
        "load": dict(facts.load),
        "left_out": facts.left_out,
        "slo": {"ttft_s": slo.ttft, "tpot_s": slo.tpot},
        "baseline": baseline,
        "policies": {name: _policy(name, baseline, told) for name in names},
        "runs": told,
        "warnings": list(dict.fromkeys(warning for run in runs for warning in _warnings(run))),
    }


def _run(run: Run, slo: Slo) -> dict[str, Any]:
    head = {"policy": run.policy, "seed": run.seed, "seconds": round(run.seconds, 3), "speed": run.speed}
    return {**head, "busy": run.busy, "outside": run.outside, **figures.of_run(run, slo)}


def _policy(name: str, baseline: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Over the seeds: the median of each figure, its least and most, and the median of its ratios to the baseline."""
    mine = [run["figures"] for run in runs if run["policy"] == name]
    base = {run["seed"]: run["figures"] for run in runs if run["policy"] == baseline}
    seeds = [run["seed"] for run in runs if run["policy"] == name]
    found: dict[str, dict[str, float | None]] = {"median": {}, "least": {}, "most": {}, "ratio": {}}
    for figure in mine[0]:
        values = [one[figure] for one in mine if one[figure] is not None]
        found["median"][figure] = statistics.median(values) if values else None
        found["least"][figure] = min(values, default=None)
        found["most"][figure] = max(values, default=None)
        parts = [
            one[figure] / base[seed][figure]
            for one, seed in zip(mine, seeds, strict=True)
            if one[figure] is not None and base[seed][figure]
        ]
        found["ratio"][figure] = statistics.median(parts) if parts else None
    return found


def _warnings(run: Run) -> list[str]:
    """What makes a run's figures doubtful."""
    found = []
    told = figures.headline(run, Slo())
    late = told["late_p99"]
    if told["answered"] and not told["counted"]:
        found.append(f"no latency counts: every request was due before {run.counted_from:g} s, see --warmup")
    if run.busy is not None and run.busy > _BUSY:
        found.append(
            f"{run.policy}, seed {run.seed}: the sender took {run.busy:.0%} of a core; its own waits count as latency"
        )
    if late is not None and late / run.speed > _LATE_S:
        found.append(
            f"{run.policy}, seed {run.seed}: one request in a hundred was sent {late / run.speed:.2f} s late or more"
        )
    return found
