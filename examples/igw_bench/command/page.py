"""The report as one HTML page: no script, nothing to load, light and dark. Pure: the document in, text out.

Called by `cli`. All that comes from outside is escaped. Plots show the first seed; figures are medians over the seeds.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from igw_bench.command import plots
from igw_bench.command.plots import Series
from igw_bench.command.style import STYLE
from igw_bench.command.table import notes, number

_Report = Mapping[str, Any]
# Title, figure, factor, unit, digits, whether less is better (None: neither).
_FIGURES: tuple[tuple[str, str, float, str, int, bool | None], ...] = (
    ("TTFT mean", "ttft_mean", 1e3, "ms", 0, True),
    ("TTFT P50", "ttft_p50", 1e3, "ms", 0, True),
    ("TTFT P90", "ttft_p90", 1e3, "ms", 0, True),
    ("TTFT P99", "ttft_p99", 1e3, "ms", 0, True),
    ("TTFT max", "ttft_max", 1e3, "ms", 0, True),
    ("TPOT mean", "tpot_mean", 1e3, "ms", 1, True),
    ("TPOT P50", "tpot_p50", 1e3, "ms", 1, True),
    ("TPOT P90", "tpot_p90", 1e3, "ms", 1, True),
    ("TPOT P99", "tpot_p99", 1e3, "ms", 1, True),
    ("TPOT max", "tpot_max", 1e3, "ms", 1, True),
    ("End to end mean", "e2e_mean", 1, "s", 2, True),
    ("End to end P50", "e2e_p50", 1, "s", 2, True),
    ("End to end P90", "e2e_p90", 1, "s", 2, True),
    ("End to end P99", "e2e_p99", 1, "s", 2, True),
    ("End to end max", "e2e_max", 1, "s", 2, True),
    ("Requests", "requests_per_s", 1, "/s", 2, False),
    ("Output tokens", "tokens_per_s", 1, "/s", 0, False),
    ("Goodput", "goodput", 1, "requests/s", 2, False),
    ("Good", "good_share", 100, "%", 1, False),
    ("Cached prompt tokens", "cached_share", 100, "%", 1, None),
    ("Busiest endpoint / mean", "imbalance", 1, "", 2, None),
    ("Answered", "answered", 1, "", 0, None),
    ("Refused", "refused", 1, "", 0, None),
    ("Failed", "failed", 1, "", 0, None),
    ("Duration", "duration", 1, "s", 1, None),
)
# A change that deserves a colour.
_NOTABLE = 0.03


def page(report: _Report) -> str:
    """The whole file."""
    title = f"igw bench: {report['load']['workload']}, {report['about']}"
    body = "".join(
        (
            f"<h1>Workload {escape(report['load']['workload'])}</h1><p class='about'>{escape(report['about'])}</p>",
            _notes(report),
            "<h2>Figures</h2>",
            _figures(report),
            _legend(report),
            _plots(report),
            "<h2>Balance</h2>",
            _balance(report),
            _seeds(report),
            _load(report),
        )
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )


def _notes(report: _Report) -> str:
    lines = notes(report)
    return "<ul class='notes'>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""


# ------------------------------------------------------------------------------------------------ tables


def _figures(report: _Report) -> str:
    """A row a figure, a column a policy: the median, its ratio to the baseline, and least to most over the seeds."""
    policies = report["policies"]
    head = "".join(f"<th>{_swatch(at)}{escape(name)}</th>" for at, name in enumerate(policies))
    rows = []
    for title, figure, factor, unit, digits, less in _FIGURES:
        if all(one["median"][figure] is None for one in policies.values()):
            continue
        cells = "".join(
            _cell(one, figure, factor, digits, None if name == report["baseline"] else less, name == report["baseline"])
            for name, one in policies.items()
        )
        new = " class='new'" if title.endswith(("mean", "Requests", "Cached prompt tokens", "Answered")) else ""
        rows.append(f"<tr{new}><th>{title} <small>{unit}</small></th>{cells}</tr>")
    return (
        f"<div class='wide'><table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(found: _Report, figure: str, factor: float, digits: int, less: bool | None, baseline: bool) -> str:
    value, ratio = found["median"][figure], found["ratio"][figure]
    text = number(value, factor, digits)
    if not baseline:
        # An empty place where there is no ratio keeps the numbers of a column under each other.
        kind, told = "", ""
        if ratio is not None and less is not None:
            change = (1 - ratio) if less else (ratio - 1)
            kind, told = "better" if change > _NOTABLE else "worse" if change < -_NOTABLE else "same", f"x{ratio:.3g}"
        text += f" <small class='ratio {kind}'>{told}</small>"
    least, most = found["least"][figure], found["most"][figure]
    if least != most:
        text += f"<br><small>{number(least, factor, digits)} – {number(most, factor, digits)}</small>"
    return f"<td>{text}</td>"


def _seeds(report: _Report) -> str:
    """Every run by itself."""
    picked = [one for one in _FIGURES if one[1] in ("ttft_mean", "ttft_p99", "tpot_p99", "tokens_per_s", "goodput")]
    head = "".join(f"<th>{title} <small>{unit}</small></th>" for title, _, _, unit, _, _ in picked)
    rows = "".join(_run(run, picked) for run in report["runs"])
    return (
        "<h2>Runs</h2><div class='wide'><table><thead><tr><th></th><th>seed</th>"
        f"{head}<th>answered</th><th>refused</th><th>failed</th><th>took <small>s</small></th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _run(run: _Report, picked: Sequence[tuple[str, str, float, str, int, bool | None]]) -> str:
    figures = run["figures"]
    cells = [number(figures[figure], factor, digits) for _, figure, factor, _, digits, _ in picked]
    cells += [str(figures[name]) for name in ("answered", "refused", "failed")]
    row = "".join(f"<td>{cell}</td>" for cell in (str(run["seed"]), *cells, f"{run['seconds']:.1f}"))
    return f"<tr><th>{escape(run['policy'])}</th>{row}</tr>"


def _load(report: _Report) -> str:
    given = {"target": report["target"], "begun": report["began"], **report["load"]}
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td class='words'>{escape(_words(value))}</td></tr>"
        for name, value in given.items()
    )
    return f"<h2>What was asked for</h2><table class='load'><tbody>{rows}</tbody></table>"


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# ------------------------------------------------------------------------------------------------ plots


def _legend(report: _Report) -> str:
    names = report["policies"]
    entries = "".join(f"<span>{_swatch(at)}{escape(name)}</span>" for at, name in enumerate(names))
    return f"<p class='legend'>{entries}</p>" if len(names) > 1 else ""


def _swatch(index: int) -> str:
    return f"<i class='swatch s{index}'></i>"


def _first_runs(report: _Report) -> list[_Report]:
    """One run a policy, of the first seed, in the order of the policies."""
    seed = report["runs"][0]["seed"]
    return [run for run in report["runs"] if run["seed"] == seed]


def _plots(report: _Report) -> str:
    runs = _first_runs(report)
    made = [
        _over_time(runs, "Mean TTFT in ms, by time of sending", "ttft_mean", 1e3, True),
        _over_time(runs, "P99 TTFT in ms, by time of sending", "ttft_p99", 1e3, True),
        (
            "Share of requests in % with a TTFT of at most so many ms",
            plots.distributions(
                "TTFT",
                [(run["policy"], at, [1e3 * one for one in run["ttft_distribution"]]) for at, run in enumerate(runs)],
                "ms",
            ),
        ),
        _over_time(runs, "Mean TPOT in ms, by time of sending", "tpot_mean", 1e3),
        _over_time(runs, "Output tokens a second, by end of answer", "tokens_per_s", 1),
        _over_time(runs, "Requests in flight", "in_flight", 1),
    ]
    if any(any(run["over_time"].get("unanswered", ())) for run in runs):
        made.append(_over_time(runs, "Requests refused or failed", "unanswered", 1))
    return "<div class='plots'>" + "".join(_figure(title, drawn) for title, drawn in made if drawn) + "</div>"


def _figure(title: str, drawn: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawn}</figure>"


def _over_time(
    runs: Sequence[_Report], title: str, name: str, factor: float, maybe_log: bool = False
) -> tuple[str, str]:
    series = [Series(run["policy"], at, _points(run, name, factor)) for at, run in enumerate(runs)]
    return title, plots.lines(title, series, "s", maybe_log)


def _points(run: _Report, name: str, factor: float) -> list[tuple[float, float | None]]:
    time = run["over_time"]
    values = time.get(name, ())
    middle = time["from_s"] + time["bucket_s"] / 2
    return [
        (middle + at * time["bucket_s"], None if value is None else value * factor) for at, value in enumerate(values)
    ]


def _balance(report: _Report) -> str:
    """For each policy: requests in flight at each endpoint over time, and what each made."""
    made = []
    runs = _first_runs(report)
    names = dict.fromkeys(name for run in runs for name in run["over_time"].get("in_flight_of", ()))
    # An endpoint has its colour under every policy, also where others are not heard of.
    colours = {name: at for at, name in enumerate(names)}
    for run in runs:
        if len(run["endpoints"]) < 2:
            continue
        time = run["over_time"]
        series = [
            Series(name, colours[name], _points({"over_time": {**time, "one": values}}, "one", 1))
            for name, values in time["in_flight_of"].items()
        ]
        tokens = [(one["endpoint"], colours[one["endpoint"]], one["output_tokens"]) for one in run["endpoints"]]
        made.append(
            "<section class='pair'>"
            + _figure(
                f"{run['policy']}: requests in flight, a line for each endpoint", plots.lines("in flight", series, "s")
            )
            + _figure("output tokens", plots.bars(tokens, lambda value: f"{value:,.0f}"))
            + "</section>"
        )
    return "".join(made) or "<p>The answers do not name their endpoints, or there is but one.</p>"
