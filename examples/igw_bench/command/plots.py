"""Line plots and bars as SVG text, without a script and in the page's colours. Pure. Called by `page`.

A series is drawn in the class `s<n>`; the page gives each class its colour, light and dark.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 560, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 10, 8, 30
# A logarithmic axis pays when values are this far apart.
_WIDE = 40.0
_LOG_STEPS = (1, 2, 5)
_NOTHING = 1e-9


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one line. `index` chooses its colour. A None breaks the line."""

    name: str
    index: int
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high` onto pixels from `begin` to `end`."""

    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; those outside go to the edge."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Round values, about five."""
        return _log_ticks(self.low, self.high) if self.logarithmic else _ticks(self.low, self.high)


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(one for one in (1, 2, 5, 10) if one * power >= rough)
    first = math.ceil(low / step)
    return [at * step for at in range(first, math.floor(high / step * (1 + 1e-9)) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if len(decades) > 3 else _LOG_STEPS
    return [step * 10.0**power for power in decades for step in steps if low <= step * 10.0**power <= high]


def value_axis(values: Sequence[float], begin: float, end: float, maybe_log: bool = False) -> Axis:
    """From zero, or logarithmic where a few large values would flatten all others."""
    above = [one for one in values if one > _NOTHING]
    if maybe_log and above and max(above) / min(above) > _WIDE:
        low = 10.0 ** math.floor(math.log10(min(above)))
        return Axis(low, max(above) * 1.1, begin, end, logarithmic=True)
    return Axis(0.0, max(above, default=1.0) * 1.05, begin, end)


def lines(title: str, series: Sequence[Series], x_unit: str, maybe_log: bool = False) -> str:
    """A plot of lines. Units of the vertical axis belong into the caption."""
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points if y is not None]
    if not ys:
        return ""
    low, high = min(xs), max(xs)
    across = Axis(0.0 if low < high / 10 else low, high if high > low else low + 1, _LEFT, _WIDTH - _RIGHT)
    up = value_axis(ys, _HEIGHT - _BOTTOM, _TOP, maybe_log)
    drawn = "".join(_line(one, across, up) for one in series)
    return _frame(title, _grid(across, up, x_unit) + drawn)


def distributions(title: str, series: Sequence[tuple[str, int, Sequence[float]]], unit: str) -> str:
    """Cumulative: which share of the requests took at most so long. Values are those at equal shares, ascending."""
    values = [value for _, _, found in series for value in found]
    if not values:
        return ""
    across = value_axis(values, _LEFT, _WIDTH - _RIGHT, maybe_log=True)
    up = Axis(0.0, 100.0, _HEIGHT - _BOTTOM, _TOP)
    drawn = "".join(
        _line(Series(name, index, [(x, 100 * at / max(len(found) - 1, 1)) for at, x in enumerate(found)]), across, up)
        for name, index, found in series
    )
    return _frame(title, _grid(across, up, unit) + drawn)


def _line(series: Series, across: Axis, up: Axis) -> str:
    parts, pen = [], "M"
    for x, y in series.points:
        if y is None:
            pen = "M"
            continue
        parts.append(f"{pen}{across.at(x):.1f} {up.at(y):.1f}")
        pen = "L"
    return f'<path class="line s{series.index}" d="{"".join(parts)}"><title>{escape(series.name)}</title></path>'


def _grid(across: Axis, up: Axis, x_unit: str) -> str:
    drawn = []
    for value in up.ticks():
        y = up.at(value)
        drawn.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
        drawn.append(_text(_LEFT - 6, y + 4, short(value), "end"))
    for value in across.ticks():
        x = across.at(value)
        drawn.append(f'<path class="tick" d="M{x:.1f} {_HEIGHT - _BOTTOM}v4"/>')
        drawn.append(_text(x, _HEIGHT - _BOTTOM + 16, short(value), "middle"))
    drawn.append(f'<path class="axis" d="M{_LEFT} {_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>')
    drawn.append(_text(_WIDTH - _RIGHT, _HEIGHT - 2, x_unit, "end"))
    return "".join(drawn)


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _frame(title: str, inner: str) -> str:
    label = escape(title, quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{inner}</svg>'


def bars(rows: Sequence[tuple[str, int, float]], told: Callable[[float], str]) -> str:
    """Horizontal bars from zero, a row each: its name, the index of its colour, and the value, which stands behind."""
    height, most = 20, max((value for *_, value in rows), default=0.0) or 1.0
    label_width, width = 110, 360
    room = width - label_width - 64
    drawn = []
    for at, (name, index, value) in enumerate(rows):
        y = at * height
        length = max(room * value / most, 1.0)
        drawn.append(_text(label_width - 6, y + 14, name, "end"))
        drawn.append(f'<rect class="bar s{index}" x="{label_width}" y="{y + 3}" width="{length:.1f}" height="14"/>')
        drawn.append(_text(label_width + length + 5, y + 14, told(value), "start"))
    return f'<svg class="bars" viewBox="0 0 {width} {len(rows) * height + 2}" role="img">{"".join(drawn)}</svg>'


def short(value: float) -> str:
    """A round number in few characters."""
    if abs(value) >= 1_000_000:
        return f"{value / 1e6:g}M"
    if abs(value) >= 10_000:
        return f"{value / 1e3:g}k"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:g}"
