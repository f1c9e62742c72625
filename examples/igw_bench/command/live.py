"""`make bench-live`: workload A over real sockets, policy by policy, beside the same requests simulated offline.

Simulated engines run SPEED times as fast, so that it ends in a quarter of an hour on two cores. Prints a line for each
run, what each policy comes to online and offline and whether these agree, and last one line of JSON: by policy the
ratios to round robin with the same seed, as `make bench-policies` has them, medians of the seeds, and how far offline
is from online. docs/benchmarks/live.md has a run.
"""

import asyncio
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from igw_bench.command import campaign, plans, virtual
from igw_bench.command.campaign import Settings
from igw_bench.command.figures import Slo, headline
from igw_bench.command.plans import Shape
from igw_bench.command.progress import Progress
from igw_bench.command.samples import Run
from igw_bench.offline import HOP
from igw_bench.policies import BASELINE, RATIOS

POLICIES = (BASELINE, "least-request", "llm-metric", "prefix-cache")
SEEDS = 3
REQUESTS, SPEED = 3_000, 5.0
# How far offline may be from online.
AGREED = 0.15
# Title, figure, factor, digits.
_SHOWN = (
    ("TTFT mean ms", "ttft_mean", 1e3, 0),
    ("TTFT P99 ms", "ttft_p99", 1e3, 0),
    ("TPOT mean ms", "tpot_mean", 1e3, 1),
    ("TPOT P99 ms", "tpot_p99", 1e3, 1),
    ("tokens/s", "tokens_per_s", 1, 0),
)
_Figures = Mapping[str, float | None]
_Differences = Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True, slots=True)
class Pair:
    """One run online; the same offline, with engines as far away as online; and with online's placements too."""

    policy: str
    seed: int
    online: _Figures
    offline: _Figures
    replayed: _Figures


def main(
    requests: Annotated[int, typer.Option(min=100, help="Requests of each run.")] = REQUESTS,
    speed: Annotated[float, typer.Option(min=0.1, help="How many times faster the engines run.")] = SPEED,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = SEEDS,
    policies: Annotated[str, typer.Option(help="By commas, the baseline first.")] = ",".join(POLICIES),
) -> None:
    """Workload A online and offline."""
    shape = Shape(workload="A", requests=requests)
    settings = Settings(shape, policies.split(","), range(1, seeds + 1), speed=speed)
    progress = Progress(Console(stderr=True, highlight=False))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runs = runner.run(campaign.online(settings, progress))
    pairs = [_pair(shape, run) for run in runs]
    print(f"\n{table(pairs)}\n\n{outside(runs)}\n\n{agreement(pairs)}\n")
    print(json.dumps({"A": ratios(pairs), "offline_to_online": differences(pairs)}))


def _pair(shape: Shape, run: Run) -> Pair:
    plan = plans.build(shape, run.seed)
    hop = run.outside if run.outside is not None else HOP
    offline = virtual.simulate(plan, run.policy, run.seed, run.speed, hop)
    replayed = virtual.replay(plan, run, hop)
    return Pair(run.policy, run.seed, *(headline(one, Slo()) for one in (run, offline, replayed)))


def ratios(pairs: Sequence[Pair], of: Callable[[Pair], _Figures] = lambda pair: pair.online) -> dict[str, _Figures]:
    """By policy: RATIOS to the baseline with the same seed, medians of the seeds."""
    base = {pair.seed: of(pair) for pair in pairs if pair.policy == BASELINE}
    found: dict[str, _Figures] = {}
    for policy in dict.fromkeys(pair.policy for pair in pairs):
        mine = [pair for pair in pairs if pair.policy == policy]
        found[policy] = {name: _short(_median([_ratio(of(one)[name], base[one.seed][name]) for one in mine]))
                         for name in RATIOS}  # fmt: skip
    return found


def table(pairs: Sequence[Pair]) -> str:
    """Markdown: medians of the seeds online, offline, and offline with online's placements; then ratios."""
    lines = [f"| policy | | {' | '.join(title for title, *_ in _SHOWN)} |", "|---|---" + "|---" * len(_SHOWN) + "|"]
    for policy in dict.fromkeys(pair.policy for pair in pairs):
        mine = [pair for pair in pairs if pair.policy == policy]
        online = _medians([one.online for one in mine])
        lines.append(_row(policy, "online", _numbers(online)))
        for kind, found in (
            ("offline", _medians([one.offline for one in mine])),
            ("offline, online's placements", _medians([one.replayed for one in mine])),
        ):
            lines.append(_row("", kind, _numbers(found)))
            changes = [_change(a, b) for a, b in zip(found, online, strict=True)]
            lines.append(_row("", "difference", changes))
    return "\n".join([*lines, "", *_ratio_table(pairs)])


def _medians(found: Sequence[_Figures]) -> list[float | None]:
    return [_median([one[name] for one in found]) for _, name, _, _ in _SHOWN]


def _ratio_table(pairs: Sequence[Pair]) -> list[str]:
    online, offline = ratios(pairs), ratios(pairs, lambda pair: pair.offline)
    lines = [f"| ratio to {BASELINE} | | {' | '.join(RATIOS)} |", "|---|---" + "|---" * len(RATIOS) + "|"]
    for policy, found in online.items():
        lines.append(_row(policy, "online", [f"{found[name] or 0:.3g}" for name in RATIOS]))
        lines.append(_row("", "offline", [f"{offline[policy][name] or 0:.3g}" for name in RATIOS]))
    return lines


def differences(pairs: Sequence[Pair], of: Callable[[Pair], _Figures] = lambda pair: pair.offline) -> _Differences:
    """By policy and figure: how much higher offline's median over the seeds is than online's, as a share."""
    found: dict[str, dict[str, float | None]] = {}
    for policy in dict.fromkeys(pair.policy for pair in pairs):
        mine = [pair for pair in pairs if pair.policy == policy]
        medians = zip(_medians([of(one) for one in mine]), _medians([one.online for one in mine]), strict=True)
        parts = [_ratio(*both) for both in medians]
        found[policy] = {
            name: None if part is None else round(part - 1, 4)
            for (_, name, _, _), part in zip(_SHOWN, parts, strict=True)
        }
    return found


def agreement(pairs: Sequence[Pair]) -> str:
    """Whether both tell the same, and where not, whether placement is the reason."""
    replayed = differences(pairs, lambda pair: pair.replayed)
    apart = [
        f"{policy} {name} {part:+.1%} (with online's placements {replayed[policy][name] or 0:+.1%})"
        for policy, found in differences(pairs).items()
        for name, part in found.items()
        if part is not None and abs(part) > AGREED
    ]
    return f"Online and offline agree within {AGREED:.0%}" + (f", but for {'; '.join(apart)}." if apart else ".")


def outside(runs: Sequence[Run]) -> str:
    """How long requests were outside the engines: what a hop is offline."""
    told = {
        policy: statistics.median(1e3 * (run.outside or 0.0) for run in runs if run.policy == policy)
        for policy in dict.fromkeys(run.policy for run in runs)
    }
    times = ", ".join(f"{policy} {value:.1f} ms" for policy, value in told.items())
    return f"Outside the engines until the first token, in real time: {times}."


def _numbers(values: Sequence[float | None]) -> list[str]:
    return [
        "-" if value is None else f"{value * factor:,.{digits}f}"
        for value, (_, _, factor, digits) in zip(values, _SHOWN, strict=True)
    ]


def _row(policy: str, kind: str, cells: Sequence[str]) -> str:
    return f"| {policy} | {kind} | {' | '.join(cells)} |"


def _change(value: float | None, base: float | None) -> str:
    found = _ratio(value, base)
    return "-" if found is None else f"{found - 1:+.0%}"


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


if __name__ == "__main__":
    typer.run(main)
