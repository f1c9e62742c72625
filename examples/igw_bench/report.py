"""What the demo found: figures for each endpoint and policy, the table, and what the difference comes to.

Pure: answers in, rich renderables and lines out. Called by `demo`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from igw_bench.load import Answer, Tally
from igw_bench.numbers import mean, percentile

MOST_FAILURES = 5
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Phase:
    """One run of the load: under which policy, and how long all of it took, in seconds."""

    policy: str
    tally: Tally
    seconds: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What some answers come to. Times are seconds, of streams only."""

    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    ttft: tuple[float, ...]
    tpot: tuple[float, ...]

    @classmethod
    def of(cls, answers: Iterable[Answer]) -> "Figures":
        """The sum of them."""
        known = list(answers)
        return cls(
            requests=len(known),
            prompt_tokens=sum(one.prompt_tokens for one in known),
            cached_tokens=sum(one.cached_tokens for one in known),
            output_tokens=sum(one.output_tokens for one in known),
            ttft=tuple(one.ttft for one in known if one.ttft is not None),
            tpot=tuple(one.tpot for one in known if one.tpot is not None),
        )


# ------------------------------------------------------------------------------------------------ table

_COLUMNS = (
    "reqs",
    "prompt\ntokens",
    "cached",
    "output\ntokens",
    "TTFT\nP50",
    "TTFT\nP99",
    "TPOT\nP50",
    "TPOT\nP99",
)
CAPTION = "TTFT: time to the first token. TPOT: time per token after it. In ms, of streams."


def table(phases: Sequence[Phase], engines: Mapping[str, str]) -> Table:
    """Two lines an endpoint, one a policy, to fit 80 columns; `engines` gives each endpoint's kind."""
    made = Table(box=box.HORIZONTALS, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    made.add_column("endpoint", vertical="bottom", no_wrap=True)
    made.add_column("policy", vertical="bottom", no_wrap=True)
    for title in _COLUMNS:
        made.add_column(title, justify="right", vertical="bottom", no_wrap=True)
    answered = {answer.engine for phase in phases for answer in phase.tally.answers}
    for name in [*engines, *sorted(answered - engines.keys())]:
        _add_rows(made, phases, (name, engines.get(name, "")), name)
    _add_rows(made, phases, ("all", ""), None)
    return made


def _add_rows(made: Table, phases: Sequence[Phase], labels: tuple[str, str], engine: str | None) -> None:
    for at, phase in enumerate(phases):
        figures = Figures.of(one for one in phase.tally.answers if engine in (None, one.engine))
        label = Text(labels[at] if at < len(labels) else "", style="" if at == 0 else "dim")
        style = "bold" if engine is None else ""
        made.add_row(label, phase.policy, *cells(figures), style=style, end_section=at == len(phases) - 1)


def cells(figures: Figures) -> list[str]:
    """The figures as text, in the order of the columns."""
    share = f"{figures.cached_tokens / figures.prompt_tokens:.0%}" if figures.prompt_tokens else NOTHING
    times = [_ms(percentile(values, point)) for values in (figures.ttft, figures.tpot) for point in (0.5, 0.99)]
    return [f"{figures.requests}", _count(figures.prompt_tokens), share, _count(figures.output_tokens), *times]


def _count(tokens: int) -> str:
    return f"{tokens:,}" if tokens < 100_000 else f"{tokens / 1000:,.0f}k"


def _ms(seconds: float | None) -> str:
    return NOTHING if seconds is None else _number(seconds * 1e3)


# ------------------------------------------------------------------------------------------------ in words


def verdict(baseline: Phase, other: Phase) -> list[str]:
    """What changed from `baseline` to `other`, better or worse, in a few lines."""
    before, after = Figures.of(baseline.tally.answers), Figures.of(other.tally.answers)
    pairs = (
        ("mean TTFT", mean(before.ttft), mean(after.ttft), 1e3, "ms"),
        ("P99 TTFT", percentile(before.ttft, 0.99), percentile(after.ttft, 0.99), 1e3, "ms"),
        ("mean TPOT", mean(before.tpot), mean(after.tpot), 1e3, "ms"),
        ("prompt tokens computed", _computed(before), _computed(after), 1, ""),
        ("the whole load", baseline.seconds, other.seconds, 1, "s"),
    )
    told = [_change(name, old, new, factor, unit) for name, old, new, factor, unit in pairs]
    return [f"{other.policy} instead of {baseline.policy}:", *(f"  {line}" for line in told if line)]


def _computed(figures: Figures) -> float | None:
    return float(figures.prompt_tokens - figures.cached_tokens) if figures.requests else None


def _change(name: str, old: float | None, new: float | None, factor: float, unit: str) -> str | None:
    """`mean TTFT 310 ms instead of 1,240 ms (-75%)`."""
    if old is None or new is None:
        return None
    share = f" ({(new - old) / old:+.0%})" if old else ""
    return f"{name} {_number(new * factor)} {unit} instead of {_number(old * factor)} {unit}{share}".replace("  ", " ")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def failures(phases: Iterable[Phase]) -> list[str]:
    """The requests that were not answered, by policy and kind, the most frequent first. Empty if there are none."""
    kinds = [(count, phase.policy, kind) for phase in phases for kind, count in phase.tally.failures.items()]
    if not kinds:
        return []
    kinds.sort(key=lambda one: -one[0])
    rest = len(kinds) - MOST_FAILURES
    told = [f"  {count} x under {policy}: {kind}" for count, policy, kind in kinds[:MOST_FAILURES]]
    more = [f"  and {rest} more kinds"] if rest > 0 else []
    return [f"{sum(count for count, _, _ in kinds)} requests were not answered:", *told, *more]
