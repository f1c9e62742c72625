"""The report on a terminal: a table of policies, what went wrong, and how even it was. Pure. Called by `cli`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

NOTHING = "-"
# Title, figure, factor, digits, whether it is worth a place on 80 columns.
_COLUMNS = (
    ("TTFT ms\nmean", "ttft_mean", 1e3, 0, True),
    ("\nP50", "ttft_p50", 1e3, 0, False),
    ("\nP90", "ttft_p90", 1e3, 0, False),
    ("\nP99", "ttft_p99", 1e3, 0, True),
    ("TPOT ms\nmean", "tpot_mean", 1e3, 1, True),
    ("\nP99", "tpot_p99", 1e3, 1, True),
    ("E2E\ns", "e2e_mean", 1, 2, True),
    ("\nP99", "e2e_p99", 1, 2, False),
    ("req/s\n", "requests_per_s", 1, 2, False),
    ("tokens\n/s", "tokens_per_s", 1, 0, True),
    ("good\n/s", "goodput", 1, 2, True),
    ("cache\n%", "cached_share", 100, 0, True),
    ("max /\nmean", "imbalance", 1, 2, False),
)
_WIDE = 110
_RATIOS = ("ttft_mean", "ttft_p99", "tpot_p99", "tokens_per_s", "goodput")


def table(report: Mapping[str, Any], width: int = 80) -> Table:
    """A line a policy: medians over the seeds; below it the ratios to the baseline."""
    columns = [one[:4] for one in _COLUMNS if one[4] or width >= _WIDE]
    made = Table(box=box.HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    made.add_column("policy", vertical="bottom", no_wrap=True)
    for title, *_ in columns:
        made.add_column(title, justify="right", vertical="bottom", no_wrap=True)
    for name, found in report["policies"].items():
        cells = [number(found["median"][figure], factor, digits) for _, figure, factor, digits in columns]
        made.add_row(name, *cells)
        if name != report["baseline"]:
            parts = [ratio(found["ratio"][figure]) if figure in _RATIOS else "" for _, figure, *_ in columns]
            made.add_row("  ratio", *parts, style="dim")
    return made


def number(value: float | None, factor: float, digits: int) -> str:
    """A figure as text."""
    return NOTHING if value is None else f"{value * factor:,.{digits}f}"


def ratio(value: float | None) -> str:
    """Three digits are enough to compare."""
    return NOTHING if value is None else f"x{value:.3g}"


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader must know beside the table, a line each."""
    seeds = len({run["seed"] for run in report["runs"]})
    slo = report["slo"]
    good = f"Good: first token within {slo['ttft_s']:g} s, then {slo['tpot_s'] * 1e3:g} ms a token."
    medians = f"Medians of {seeds} seeds. " if seeds > 1 else ""
    ratios = f"Ratios are to {report['baseline']}. " if len(report["policies"]) > 1 else ""
    lines = [medians + ratios + good]
    if report["left_out"]:
        lines.append(f"{report['left_out']} requests were left out: too long for an engine.")
    lines += [f"Warning: {warning}" for warning in report["warnings"]]
    return lines + unanswered(report["runs"])


def unanswered(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Refusals by status and failures by kind, for each policy over all seeds."""
    lines = []
    for policy in dict.fromkeys(run["policy"] for run in runs):
        kinds: Counter[str] = Counter()
        for run in runs:
            if run["policy"] == policy:
                kinds.update({f"HTTP {status}": count for status, count in run["refusals"].items()})
                kinds.update(run["errors"])
        if kinds:
            told = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
            lines.append(f"Not answered under {policy}: {told}")
    return lines
