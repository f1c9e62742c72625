"""Prometheus-style histograms, cheap enough to feed on every step of a simulated engine."""

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class HistogramData:
    """A reading: upper bounds without +Inf, cumulative counts with +Inf last, and the sum of what was observed."""

    bounds: tuple[float, ...]
    cumulative: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """How many values were observed."""
        return self.cumulative[-1]


class Histogram:
    """Counts per bucket; `observe` costs one bisection."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times. A value equal to a bound falls under that bound, as in Prometheus."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def data(self) -> HistogramData:
        """What was observed so far."""
        return HistogramData(self._bounds, tuple(accumulate(self._counts)), self._sum)


def one_two_five(limit: int) -> tuple[float, ...]:
    """The bounds 1, 2, 5, 10, 20, 50, ... up to `limit`, as vLLM builds them for token counts."""
    bounds: list[float] = []
    power = 1
    while power <= limit:
        bounds += [factor * power for factor in (1, 2, 5) if factor * power <= limit]
        power *= 10
    return tuple(bounds)
