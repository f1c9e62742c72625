"""The text of a Prometheus page: the samples of a few wanted metrics. Pure; used by whoever reads a page of others'.

Pages are read hundreds of times a second, so wanted series are looked for by `bytes.find`, and no page is parsed as a
whole. Nothing that a page says makes reading fail, slow or hungry: lines that cannot be read, and those with endless
labels, are skipped, and of a metric with endless samples the first count.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple


class Sample(NamedTuple):
    """One line of a page."""

    labels: Mapping[str, str]
    value: float


class Series(NamedTuple):
    """Where a number stands: a metric, the labels it must have ("" also matches a label that is absent).

    With `label`, the number is that label's value instead of the sample's: how engines publish constants.
    """

    name: bytes
    where: tuple[tuple[str, str], ...] = ()
    label: str | None = None


_MOST: Final = 2.0**53  # more tokens than any engine ever counts
# Lines looked at for one metric: engines show one for each rank and shard, exporters one for each GPU and metric.
MOST_SAMPLES: Final = 4096
# Bytes of one sample's labels. vLLM lists the adapters in use in one label.
MOST_LABELS: Final = 64 * 1024
# Engines' labels are the same at every scrape; longer ones are not worth the memory.
_FEW_LABELS: Final = 1024

# After a metric's name: labels, value, timestamp. NaN and infinities do not match: they say nothing about load.
_REST: Final = re.compile(
    rb'(?:[ \t]*\{([^"}\n]*+(?:"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"[^"}\n]*+)*+)\}[ \t]*|[ \t]+)'
    rb"([-+]?[0-9.][-+0-9.eE]*)(?:[ \t]+-?[0-9]+)?[ \t]*\r?(?=\n|\Z)"
)
# Tried at the start of a name only: from each of its letters on, a long name would be read again and again.
_LABEL: Final = re.compile(rb'(?<![A-Za-z0-9_])([A-Za-z_][A-Za-z0-9_]*+)[ \t]*=[ \t]*"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_ESCAPE: Final = re.compile(r'\\([\\n"])')


def values(text: bytes, series: Series) -> list[float]:
    """Its numbers, in order."""
    return [value for _, value in numbers(text, series)]


def numbers(text: bytes, series: Series) -> Iterable[Sample]:
    """Its samples with their numbers, which are never below zero."""
    for sample in samples(text, series.name):
        if series.where and any(sample.labels.get(name, "") != value for name, value in series.where):
            continue
        value = sample.value if series.label is None else number(sample.labels.get(series.label, ""))
        if value is not None:
            yield Sample(sample.labels, max(value, 0.0))


def samples(text: bytes, name: bytes, most: int = MOST_SAMPLES) -> list[Sample]:
    """The samples of metric `name`, in order. The exposition format has them in one group, each line led by LF."""
    line = b"\n" + name
    found: list[Sample] = []
    at = text.find(line)
    for _ in range(most):
        if at < 0:
            break
        rest = _REST.match(text, at + len(line))
        if rest is None:  # a longer name, or a line that says nothing
            at = text.find(line, at + 1)
            continue
        value, labels = number(rest[2]), rest[1] or b""
        if value is not None and len(labels) <= MOST_LABELS:
            found.append(Sample(_remembered(labels) if len(labels) <= _FEW_LABELS else _labels(labels), value))
        at = rest.end() if text.startswith(line, rest.end()) else -1
    return found


def number(text: str | bytes) -> float | None:
    """The number, if it is one that a load can have: sums and products of such numbers stay finite."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= _MOST else None


def _labels(text: bytes) -> Mapping[str, str]:
    return {name.decode(): _unescape(value.decode(errors="replace")) for name, value in _LABEL.findall(text)}


_remembered = lru_cache(maxsize=4096)(_labels)


def _unescape(value: str) -> str:
    return _ESCAPE.sub(lambda escape: "\n" if escape[1] == "n" else escape[1], value) if "\\" in value else value
