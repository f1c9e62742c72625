"""What the picker exports: exactly what docs/metrics.md lists, with the numbers that were counted."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from igw_api.objects import Shadow
from igw_api.resilience import PassiveHealth
from igw_api.split import Split
from igw_extproc import telemetry
from igw_extproc.domain import Outcome
from igw_extproc.flowcontrol.queue import FlowQueue, QueueStatistics
from igw_extproc.flowcontrol.waiters import Limits
from igw_extproc.health import HealthStatistics
from igw_extproc.ledgers import LedgerStatistics
from igw_extproc.metering import MeterStatistics, PoolUse
from igw_extproc.openai import Usage
from igw_extproc.overflow import StandbyStatistics
from igw_extproc.scheduling.shadow import ShadowStatistics
from igw_extproc.scheduling.split import SplitStatistics
from igw_extproc.scraper import Scraper, ScraperStatistics
from igw_extproc.telemetry import FIRST_BYTE_BOUNDS, PLACEMENT_BOUNDS, TOKEN_BOUNDS, Histogram, Telemetry
from igw_testing.builders import Picking, address, arrived, chat, endpoint, load, member, members, policy, pool
from igw_testing.waiting import ask

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
ROW = re.compile(
    r"^\| `(?P<name>\w+)` \| (?P<type>\w+) \| (?P<labels>.*?) ?\| (?P<unit>.+?) \| (?P<meaning>.+) \|$", re.M
)


@dataclass(frozen=True)
class Parts:
    """The real parts that telemetry reads."""

    picking: Picking
    scrapes: Scraper
    queue: FlowQueue[object]

    def endpoints(self) -> Sequence[LedgerStatistics]:
        return self.picking.ledgers.statistics()

    def scraper(self) -> ScraperStatistics:
        return self.scrapes.statistics()

    def prefix_entries(self) -> int:
        return len(self.picking.index)

    def queues(self) -> Mapping[str, QueueStatistics]:
        return {"default/llm": self.queue.statistics(0.0)}

    def standbys(self) -> Sequence[StandbyStatistics]:
        rows = [StandbyStatistics("default/llm", "cloud", {"saturated": 2, "empty": 0, "out": 0}, 1, 58)]
        return rows if len(self.picking.ledgers) else []

    def meters(self) -> MeterStatistics:
        pools = {"default/llm": PoolUse({"key-requests": 4}, 2)}
        return MeterStatistics(pools, 7, 1) if len(self.picking.ledgers) else MeterStatistics({}, 0, 0)

    def splits(self) -> Mapping[str, SplitStatistics]:
        return self.picking.director.splits()

    def shadows(self) -> Mapping[str, ShadowStatistics]:
        return self.picking.director.shadows.statistics()

    def health(self) -> HealthStatistics:
        return self.picking.director.health.statistics()

    def unseen_pools(self) -> Sequence[str]:
        return [view.name for view in self.picking.datastore.views.values() if view.unseen]


def parts(engines: int = 2) -> Parts:
    """A picker with idle engines, and one request that waits. Without engines, with nothing."""
    picking, queue = Picking(pool(), *members(engines)), FlowQueue[object](Limits())
    if engines:
        queue.offer(object(), ask(priority=1), "", 1, 0.0, capacity=True)
    return Parts(picking, Scraper(picking.ledgers, random.Random(0)), queue)


def eject(picking: Picking) -> None:
    """One endpoint fails until it is out."""
    failing = picking.ledgers.get(address(1))
    assert failing is not None
    for _ in range(PassiveHealth().failures):
        picking.director.health.failed(failing, 0, True, 1.0)


def full() -> Telemetry:
    """Numbers with something in every series."""
    told = Telemetry()
    told.requests[("default/llm", "m", Outcome.PLACED.value)] += 3
    told.responses[(address(1), "2xx")] += 2
    told.placed[address(1)] += 3
    told.prefills[("default/llm", "remote")] += 1
    told.saw_wait("default/llm", 2.5)
    told.moved[address(1)] += 1
    told.prefix_tokens["default/llm"] += 640
    told.sticky[("default/llm", "session", "kept")] += 1
    told.faults["decode"] += 1
    told.placement.observe(40e-6)
    told.saw_first_byte("default/llm", 0.3, 0.1)
    told.saw_first_byte("default/llm", 0.5, 0.1)
    told.saw_usage("default/llm", Usage(prompt=7, completion=10, cached=4))
    told.open_streams = 5
    return told


def exported(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample as a Prometheus server would read it."""
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: dict[tuple[str, tuple[tuple[str, str], ...]], float], name: str, **labels: str) -> float:
    """One sample."""
    return samples[(name, tuple(sorted(labels.items())))]


# ------------------------------------------------------------------------------------------------ the page


def test_the_page_lists_every_series_with_its_type_and_labels_and_no_other() -> None:
    listed = {
        row["name"]: (row["type"], frozenset(re.findall(r"`(\w+)`", row["labels"])))
        for row in ROW.finditer(PAGE.read_text())
    }
    shown = {}
    here = parts()
    shadowed = policy("prefix-cache", shadow=Shadow("round-robin"))
    divided = policy("pd-split", "divided", name="divided", split=Split())
    pools = [pool(), pool("hidden"), pool("divided")]
    here.picking.serve(*pools, *members(2), member(3, "divided"), shadowed, divided, unseen=["hidden"])
    here.picking.director.place(arrived(chat(), route="default/llm"), 1.0)
    here.picking.ledgers.unreachable(address(2), "refused", 1.0)
    here.picking.ledgers.gpu_told(address(1), 0.5)
    eject(here.picking)
    for family in telemetry.registry(full(), here).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        assert family.samples, f"{name} shows nothing, so its labels cannot be checked"
        shown[name] = (family.type, labels)
    assert listed == shown
    assert list(listed) == list(shown), "in the same order"


def test_the_page_says_what_each_series_counts_and_which_outcomes_there_are() -> None:
    text = PAGE.read_text()
    rows = list(ROW.finditer(text))
    assert len(rows) == text.count("| `igw_"), "a row that does not look like one"
    assert all(row["unit"].strip() and row["meaning"].endswith(".") for row in rows)
    assert all(f"`{outcome.value}`" in text for outcome in set(Outcome) - {Outcome.FAILED})


# ------------------------------------------------------------------------------------------------ the numbers


def test_what_was_counted_is_exported() -> None:
    samples = exported(telemetry.registry(full(), parts()))
    pool_ = "default/llm"
    assert value(samples, "igw_picker_requests_total", pool=pool_, model="m", outcome="placed") == 3
    assert value(samples, "igw_picker_responses_total", endpoint=address(1), code="2xx") == 2
    assert value(samples, "igw_picker_moved_total", endpoint=address(1)) == 1
    assert value(samples, "igw_picker_prefix_hit_tokens_total", pool=pool_) == 640
    assert value(samples, "igw_picker_faults_total", place="decode") == 1
    assert value(samples, "igw_picker_open_streams") == 5
    assert [value(samples, "igw_picker_usage_tokens_total", pool=pool_, kind=kind) for kind in KINDS] == [7, 10, 4]
    assert value(samples, "igw_picker_placement_seconds_count") == 1
    assert value(samples, "igw_picker_first_byte_seconds_bucket", pool=pool_, le="0.2") == 0
    assert value(samples, "igw_picker_first_byte_seconds_bucket", pool=pool_, le="0.4") == 1
    assert value(samples, "igw_picker_input_tokens_bucket", pool=pool_, le="8.0") == 1
    assert value(samples, "igw_picker_input_tokens_sum", pool=pool_) == 7


KINDS = ("prompt", "completion", "cached")


def test_usage_without_a_cached_part_counts_none() -> None:
    told = Telemetry()
    told.saw_usage("p", Usage(3, 1, None))
    told.saw_usage("p", Usage(3, 1, None))
    assert [told.tokens[("p", kind)] for kind in KINDS] == [6, 2, 0]


def test_endpoints_scrapes_and_prefixes_are_read_at_the_moment_of_the_scrape() -> None:
    here = parts()
    registry = telemetry.registry(Telemetry(), here)
    before = exported(registry)
    here.picking.says(1, load(running=2, waiting=1, kv_usage=0.5, kv_capacity_tokens=1000))
    here.picking.ledgers.unreachable(address(2), "refused", 1.0)
    here.picking.director.place(arrived(chat(content="x" * 1000), subset=[address(1)]), 1.0)
    after = exported(registry)
    name = "igw_picker_endpoint_available"
    assert [value(shown, name, endpoint=address(2)) for shown in (before, after)] == [1, 0]
    unreachable = [key for key in after if key[0] == "igw_picker_endpoint_unreachable"]
    assert unreachable == [(unreachable[0][0], (("endpoint", address(2)), ("reason", "refused")))]
    assert value(after, "igw_picker_endpoint_in_flight_requests", endpoint=address(1)) == 1
    assert value(after, "igw_picker_endpoint_queued_requests", endpoint=address(1)) == 4
    assert value(after, "igw_picker_endpoint_kv_tokens", endpoint=address(1)) > 500
    assert value(after, "igw_picker_prefix_index_entries") > value(before, "igw_picker_prefix_index_entries") == 0
    assert [value(after, "igw_picker_scrapes_total", result=result) for result in ("ok", "failed")] == [0, 0]


def test_an_endpoint_that_was_never_asked_is_neither_available_nor_unreachable() -> None:
    """Who waits for a verdict must be able to tell that there is none yet."""
    here = parts(0)
    here.picking.ledgers.sync([endpoint(1)])
    samples = exported(telemetry.registry(Telemetry(), here))
    assert value(samples, "igw_picker_endpoint_available", endpoint=address(1)) == 0
    assert not [key for key in samples if key[0] == "igw_picker_endpoint_unreachable"]


def test_a_pool_is_unseen_until_its_endpoints_can_be_listed() -> None:
    """Even if there are none: what counts is that somebody told."""
    here = parts()
    here.picking.serve(pool(), pool("hidden"), *members(2), unseen=["hidden"])
    registry, key = telemetry.registry(Telemetry(), here), ("igw_picker_pool_unseen", (("pool", "default/hidden"),))
    assert {one: number for one, number in exported(registry).items() if one[0] == key[0]} == {key: 1.0}
    here.picking.serve(pool(), pool("hidden"), *members(2))
    assert not [one for one in exported(registry) if one[0] == key[0]]


def test_a_picker_that_has_seen_nothing_exports_no_nonsense() -> None:
    samples = exported(telemetry.registry(Telemetry(), parts(0)))
    assert set(samples.values()) == {0.0}


def test_the_counts_of_endpoints_that_left_are_forgotten() -> None:
    """Over months, more endpoints come and go than anybody wants as series."""
    told = full()
    told.placed[address(9)] += 1
    told.moved[address(9)] += 1
    told.responses[(address(9), "5xx")] += 1
    told.keep_endpoints({address(1), address(2)})
    assert (set(told.placed), set(told.moved), set(told.responses)) == (
        {address(1)},
        {address(1)},
        {(address(1), "2xx")},
    )


@pytest.mark.parametrize("text", ['quo"te', "back\\slash", "new\nline", "ünïcode"])
def test_any_text_survives_as_a_label(text: str) -> None:
    told = Telemetry()
    told.requests[(text, text, "placed")] += 1
    samples = exported(telemetry.registry(told, parts()))
    assert value(samples, "igw_picker_requests_total", pool=text, model=text, outcome="placed") == 1


# ------------------------------------------------------------------------------------------------ histograms


@given(values=st.lists(st.floats(0, 1e4), max_size=30))
@example(values=[0.1, 1.0, 10.0])
def test_a_histogram_counts_each_value_up_to_and_including_its_bound(values: list[float]) -> None:
    histogram = Histogram((0.1, 1.0, 10.0))
    for one in values:
        histogram.observe(one)
    assert histogram.buckets() == [
        (text, float(sum(one <= bound for one in values)))
        for text, bound in (("0.1", 0.1), ("1.0", 1.0), ("10.0", 10.0), ("+Inf", float("inf")))
    ]
    assert histogram.sum == pytest.approx(sum(values))


@pytest.mark.parametrize("bounds", [PLACEMENT_BOUNDS, FIRST_BYTE_BOUNDS, TOKEN_BOUNDS])
def test_bounds_rise(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))
