"""The HTML report: one well-formed file that loads nothing, whatever is in the document."""

from html.parser import HTMLParser
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_bench.command import plots
from igw_bench.command.document import Facts, document
from igw_bench.command.figures import Slo
from igw_bench.command.page import page
from igw_bench.command.plots import Axis, Series, value_axis
from igw_bench.command.samples import REFUSED, Run, Sample
from igw_bench.command.table import notes, table

VOID = {"meta", "br"}
NASTY = "<script>alert('&')</script>"


class Checker(HTMLParser):
    """Every element is closed in order; attributes and texts are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def checked(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


def report(policies: tuple[str, ...] = ("round-robin", "prefix-cache"), seeds: int = 2, **load: Any) -> dict[str, Any]:
    runs = [Run(policy, seed, samples(seed), ("a", "b")) for seed in range(1, seeds + 1) for policy in policies]
    return document(Facts("offline", "about", {"workload": "A", **load}, "now"), runs, Slo())


def samples(seed: int) -> list[Sample]:
    rng = Random(seed)
    made = [sample(at, at / 4, rng.expovariate(1)) for at in range(100)]
    return [*made, Sample(100, 9.0, 9.0, 9.1, REFUSED, status=429)]


def sample(number: int, due: float, ttft: float) -> Sample:
    return Sample(
        number,
        due,
        due,
        due + ttft + 1,
        first_at=due + ttft,
        last_at=due + ttft + 1,
        endpoint="ab"[number % 2],
        output_tokens=20,
    )


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    found = checked(page(report()))
    assert {"svg", "table", "path"} <= set(found.seen)
    assert not {"script", "link", "img", "iframe"} & set(found.seen)
    assert [value for name, value in found.attributes if name in ("src", "href")] == []
    assert "url(" not in page(report())


def test_it_has_both_colour_schemes() -> None:
    assert "prefers-color-scheme:dark" in page(report())


def test_texts_from_outside_are_shown_and_not_obeyed() -> None:
    found = checked(page(report(policies=(NASTY, "b"), note=NASTY)))
    assert "script" not in found.seen
    assert NASTY in found.texts


def test_refusals_are_in_the_notes_and_get_a_plot() -> None:
    made = report()
    assert "Not answered under prefix-cache: 2 x HTTP 429" in notes(made)
    assert "Requests refused or failed" in checked(page(made)).texts


def test_a_target_that_answered_nothing_still_has_a_page_and_a_table() -> None:
    runs = [Run("as it is", 1, [Sample(0, 0.0, 0.0, 0.1, REFUSED, status=503)])]
    made = document(Facts("url", "nobody", {"workload": "sharegpt"}, "now"), runs, Slo())
    checked(page(made))
    assert table(made).row_count == 1


def test_a_run_without_requests_has_a_page() -> None:
    checked(page(document(Facts("url", "nobody", {"workload": "x"}, "now"), [Run("as it is", 1, [])], Slo())))


# ------------------------------------------------------------------------------------------------ plots

values = st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=60)


@given(values, st.booleans())
def test_every_point_is_within_the_plot(found: list[float], maybe_log: bool) -> None:
    axis = value_axis(found, 200.0, 10.0, maybe_log)
    assert all(10.0 - 1e-9 <= axis.at(one) <= 200.0 + 1e-9 for one in found)
    assert all(10.0 - 1e-9 <= axis.at(one) <= 200.0 + 1e-9 for one in axis.ticks())


@given(st.floats(1e-3, 1e6), st.floats(1.5, 1e4))
def test_an_axis_has_a_few_ticks_within_its_range(low: float, factor: float) -> None:
    for axis in (Axis(0.0, low * factor, 0, 1), Axis(low, low * factor, 0, 1, logarithmic=True)):
        ticks = axis.ticks()
        assert len(ticks) <= 13
        assert all(axis.low * (1 - 1e-9) <= one <= axis.high * (1 + 1e-9) for one in ticks)


def test_a_gap_in_a_series_is_a_gap_in_its_line() -> None:
    drawn = plots.lines("x", [Series("one", 0, [(0, 1.0), (1, None), (2, 3.0), (3, 2.0)])], "s")
    assert drawn.count("M", drawn.index('class="line')) == 2


@pytest.mark.parametrize(("value", "told"), [(0.05, "0.05"), (1500.0, "1500"), (20_000, "20k"), (2_000_000, "2M")])
def test_ticks_are_short(value: float, told: str) -> None:
    assert plots.short(value) == told
