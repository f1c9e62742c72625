"""The metrics pages of real engines, filled from a simulated one.

A dialect is a table of families (`dialects`): name, type, help, and what to read. The page is rendered by hand,
not by a Prometheus library, so that names and oddities are those of the real engine.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from igw_sim.histogram import HistogramData
from igw_sim.model import Limits, Statistics

Labels = Mapping[str, str]
Value = float | HistogramData | Sequence[tuple[Labels, float]]

# Throughput gauges are taken over at least this long, in seconds.
_RATE_WINDOW_S = 1.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What one data-parallel rank says at one moment; token rates are per second."""

    statistics: Statistics
    limits: Limits
    adapters: tuple[str, ...]
    prompt_tokens_per_s: float
    generation_tokens_per_s: float
    # Running and waiting adapters, comma-joined, to the Unix time when that was last so.
    adapter_sets: Mapping[tuple[str, str], float]
    started_at: float


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `kind` is its Prometheus type; `read` gives a number, a histogram, or labelled numbers."""

    name: str
    kind: str
    help: str
    read: Callable[[Reading], Value]
    # Process-wide families have neither the engine's labels nor one series per rank.
    process: bool = False


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one engine writes its page. `labels` come from model name and rank."""

    families: tuple[Family, ...]
    labels: Callable[[str, int], Labels]
    path: str = "/metrics"
    helps: bool = True
    # Python's client adds a `_created` gauge to every counter and histogram.
    created: bool = False


class Page:
    """The page of one port, with the little memory that a page needs: rates, and adapter sets seen."""

    def __init__(
        self, dialect: Dialect, model: str, adapters: tuple[str, ...], limits: Limits, started_at: float
    ) -> None:
        self._dialect = dialect
        self._model = model
        self._adapters = adapters
        self._limits = limits
        self.started_at = started_at
        self._marks: dict[int, tuple[float, int, int]] = {}
        self._rates: dict[int, tuple[float, float]] = {}
        self._adapter_sets: dict[tuple[str, str], float] = {}

    def render(self, ranks: Sequence[Statistics], now: float, unix_now: float) -> bytes:
        """The page for these ranks. `now` is any steady clock in seconds, `unix_now` Unix time."""
        readings = [self._reading(rank, statistics, now, unix_now) for rank, statistics in enumerate(ranks)]
        inner = [_inner(self._dialect.labels(self._model, rank)) for rank in range(len(ranks))]
        lines: list[str] = []
        for family in self._dialect.families:
            values = [(rank, family.read(reading)) for rank, reading in enumerate(readings)]
            if values[0][1] == ():
                continue
            if self._dialect.helps:
                lines.append(f"# HELP {family.name} {family.help}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            for rank, value in values[:1] if family.process else values:
                lines += _samples(family.name, "" if family.process else inner[rank], value)
            if self._dialect.created and family.kind != "gauge" and not family.process:
                lines += self._created(family, inner)
        return ("\n".join(lines) + "\n").encode()

    def _created(self, family: Family, inner: Sequence[str]) -> Iterable[str]:
        name = family.name.removesuffix("_total") + "_created"
        yield f"# HELP {name} {family.help}"
        yield f"# TYPE {name} gauge"
        for labels in inner:
            yield from _samples(name, labels, self.started_at)

    def _reading(self, rank: int, statistics: Statistics, now: float, unix_now: float) -> Reading:
        prompt, generated = statistics.prompt_tokens, statistics.generation_tokens
        then, prompt_then, generated_then = self._marks.setdefault(rank, (now, prompt, generated))
        if now - then >= _RATE_WINDOW_S:
            self._rates[rank] = (prompt - prompt_then) / (now - then), (generated - generated_then) / (now - then)
            self._marks[rank] = (now, prompt, generated)
        rates = self._rates.get(rank, (0.0, 0.0))
        names = ",".join(statistics.running_adapters), ",".join(statistics.waiting_adapters)
        self._adapter_sets[names] = unix_now
        return Reading(statistics, self._limits, self._adapters, *rates, dict(self._adapter_sets), self.started_at)


def _samples(name: str, labels: str, value: Value) -> Iterable[str]:
    """The lines of one family; `labels` as `_inner` writes them."""
    if isinstance(value, HistogramData):
        head = f'{name}_bucket{{{labels}{"," if labels else ""}le="'
        for bound, count in zip(_bounds(value.bounds), value.cumulative, strict=True):
            yield f'{head}{bound}"}} {count}.0'
        braces = _braces(labels)
        yield f"{name}_count{braces} {value.count}.0"
        yield f"{name}_sum{braces} {float(value.sum)}"
    elif isinstance(value, int | float):
        yield f"{name}{_braces(labels)} {float(value)}"
    else:
        for more, number in value:
            yield f"{name}{_braces(','.join(filter(None, (labels, _inner(more)))))} {float(number)}"


def garbled(page: bytes, rng: Random) -> bytes:
    """The page with the same nonsense in the place of every number, and without its end."""
    wrong = rng.choice((b"NaN", b"+Inf", b"-1", b"1e308", b"nothing", b"\xff\x00"))
    lines = [line.rpartition(b" ")[0] + b" " + wrong for line in page.splitlines()]
    return b"\n".join(lines)[: rng.randrange(len(page))]


# Pages are scraped many times a second, and most of a page is buckets.
@cache
def _bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*(repr(float(bound)) for bound in bounds), "+Inf")


def _inner(labels: Labels) -> str:
    return ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())


def _braces(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
