"""What we export: counters and histograms kept as plain numbers, told to Prometheus when it asks.

The hot path only adds to numbers; labels, text and locks wait for the scrape. Pure parts of the picker know nothing of
Prometheus: this module reads their `statistics()`. Every series is listed in `docs/metrics.md`; a test compares.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from igw_extproc.flowcontrol.queue import QueueStatistics
from igw_extproc.health import HealthStatistics
from igw_extproc.ledgers import LedgerStatistics
from igw_extproc.limit_families import limit_families
from igw_extproc.metering import MeterStatistics
from igw_extproc.openai import Usage
from igw_extproc.overflow import StandbyStatistics
from igw_extproc.scheduling.shadow import ShadowStatistics, Side
from igw_extproc.scheduling.split import SplitStatistics
from igw_extproc.scraper import ScraperStatistics

# Placement is tens of microseconds of work; above 10 ms something is wrong.
PLACEMENT_BOUNDS = (25e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 50e-3)
# First bytes come between a few milliseconds and, behind a full queue, minutes.
FIRST_BYTE_BOUNDS = (0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 30.0, 60.0, 120.0)
TOKEN_BOUNDS = tuple(float(2**power) for power in range(3, 18))


class Histogram:
    """Counts by upper bound, and the sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts, as Prometheus wants them."""
        total, told = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            told.append(("+Inf" if bound == float("inf") else repr(bound), float(total)))
        return told

    @property
    def sum(self) -> float:
        """The sum of all values."""
        return self._sum

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts)


class Telemetry:
    """The picker's numbers. Read by `collector`, written by `conversation`."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.responses: Counter[tuple[str, str]] = Counter()
        self.placed: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.prefix_tokens: Counter[str] = Counter()
        self.sticky: Counter[tuple[str, str, str]] = Counter()  # pool, by, end: see `director.Sticky`
        self.prefills: Counter[tuple[str, str]] = Counter()
        self.placement = Histogram(PLACEMENT_BOUNDS)
        self.first_byte: dict[str, Histogram] = {}
        self.predicted: dict[str, Histogram] = {}
        self.wait: dict[str, Histogram] = {}
        self.input_tokens: dict[str, Histogram] = {}
        self.faults: Counter[str] = Counter()
        self.open_streams = 0

    def keep_endpoints(self, addresses: Collection[str]) -> None:
        """Forget the counts of all other endpoints: over months, more come and go than anybody wants as series."""
        for counter in (self.placed, self.moved):
            for address in counter.keys() - addresses:
                del counter[address]
        for served, code in [key for key in self.responses if key[0] not in addresses]:
            del self.responses[(served, code)]

    def saw_first_byte(self, pool: str, seconds: float, predicted: float) -> None:
        """A first byte passed, `seconds` after the pick, which had predicted as many as that."""
        histogram = self.first_byte.get(pool)
        if histogram is None:
            histogram = self.first_byte[pool] = Histogram(FIRST_BYTE_BOUNDS)
            self.predicted[pool] = Histogram(FIRST_BYTE_BOUNDS)
        histogram.observe(seconds)
        self.predicted[pool].observe(predicted)

    def saw_wait(self, pool: str, seconds: float) -> None:
        """A request was placed that had waited in the picker for so long."""
        histogram = self.wait.get(pool)
        if histogram is None:
            histogram = self.wait[pool] = Histogram(FIRST_BYTE_BOUNDS)
        histogram.observe(seconds)

    def saw_usage(self, pool: str, usage: Usage) -> None:
        """An engine's count for one request."""
        histogram = self.input_tokens.get(pool)
        if histogram is None:
            histogram = self.input_tokens[pool] = Histogram(TOKEN_BOUNDS)
        histogram.observe(usage.prompt)
        self.tokens[(pool, "prompt")] += usage.prompt
        self.tokens[(pool, "completion")] += usage.completion
        self.tokens[(pool, "cached")] += usage.cached or 0


class Sources(Protocol):
    """Where the rest of the exported numbers comes from; each a frozen snapshot."""

    def endpoints(self) -> Sequence[LedgerStatistics]: ...
    def scraper(self) -> ScraperStatistics: ...
    def prefix_entries(self) -> int: ...
    def unseen_pools(self) -> Collection[str]: ...
    def queues(self) -> Mapping[str, QueueStatistics]: ...
    def shadows(self) -> Mapping[str, ShadowStatistics]: ...
    def health(self) -> HealthStatistics: ...
    def splits(self) -> Mapping[str, SplitStatistics]: ...
    def standbys(self) -> Iterable[StandbyStatistics]: ...
    def meters(self) -> MeterStatistics: ...


class PickerCollector(Collector):
    """Everything we export, at the moment of the scrape."""

    def __init__(self, telemetry: Telemetry, sources: Sources) -> None:
        self._telemetry = telemetry
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """All families, in the order of `docs/metrics.md`."""
        yield from self._request_families()
        yield from self._queue_families()
        yield from limit_families(self._sources.meters())
        yield from self._standby_families()
        yield from self._split_families()
        yield from self._shadow_families()
        yield from self._latency_families()
        yield from self._endpoint_families()
        yield from self._health_families()
        yield from self._inner_families()

    def _request_families(self) -> Iterable[Metric]:
        told = self._telemetry
        requests = CounterMetricFamily(
            "igw_picker_requests", "Requests by how they left the picker.", labels=("pool", "model", "outcome")
        )
        for (pool, model, outcome), count in told.requests.items():
            requests.add_metric((pool, model, outcome), count)
        yield requests
        yield _counters(
            "igw_picker_responses", "Responses seen, by endpoint and status class.", told.responses, "endpoint", "code"
        )
        yield _counters("igw_picker_placed", "Requests placed on each endpoint.", told.placed, "endpoint")
        yield _counters(
            "igw_picker_moved",
            "Requests that another endpoint answered than the one placed on.",
            told.moved,
            "endpoint",
        )
        yield _counters("igw_picker_usage_tokens", "Tokens as engines counted them.", told.tokens, "pool", "kind")
        yield _counters(
            "igw_picker_prefix_hit_tokens",
            "Prompt tokens expected in the chosen endpoint's cache.",
            told.prefix_tokens,
            "pool",
        )
        yield _counters(
            "igw_picker_sticky", "Requests that belong to an endpoint, by their end.", told.sticky, "pool", "by", "end"
        )
        yield _counters("igw_picker_faults", "Faults of the picker's own, by place.", told.faults, "place")

    def _queue_families(self) -> Iterable[Metric]:
        waiting = GaugeMetricFamily(
            "igw_picker_waiting_requests", "Requests that wait in the picker.", labels=("pool", "priority")
        )
        ends = CounterMetricFamily(
            "igw_picker_queue_ends", "Requests by how they left the queue.", labels=("pool", "end")
        )
        for pool, row in self._sources.queues().items():
            for priority, count in row.waiting.items():
                waiting.add_metric((pool, str(priority)), count)
            for end, count in row.ends.items():
                ends.add_metric((pool, end), count)
        yield waiting
        yield ends
        yield _histograms("igw_picker_wait_seconds", "What placed requests had waited.", self._telemetry.wait)

    def _standby_families(self) -> Iterable[Metric]:
        taken = CounterMetricFamily(
            "igw_picker_standby", "Requests that a standby took.", labels=("pool", "standby", "reason")
        )
        declined = CounterMetricFamily(
            "igw_picker_standby_declined", "Requests that a standby did not take.", labels=("pool", "standby")
        )
        left = GaugeMetricFamily(
            "igw_picker_standby_budget_left", "Requests that it may be sent at once.", labels=("pool", "standby")
        )
        for row in self._sources.standbys():
            for reason, count in row.taken.items():
                taken.add_metric((row.pool, row.standby, reason), count)
            declined.add_metric((row.pool, row.standby), row.declined)
            if row.left is not None:
                left.add_metric((row.pool, row.standby), row.left)
        yield taken
        yield declined
        yield left

    def _split_families(self) -> Iterable[Metric]:
        splits = self._sources.splits()
        divided = CounterMetricFamily(
            "igw_picker_divided", "Requests of divided pools, by how many endpoints they got.", labels=("pool", "how")
        )
        roles = GaugeMetricFamily(
            "igw_picker_endpoint_role", "1 for the role that an endpoint has now.", labels=("pool", "endpoint", "role")
        )
        changes = CounterMetricFamily("igw_picker_role_changes", "Changes of endpoints' roles.", labels=("pool",))
        for pool, row in splits.items():
            divided.add_metric((pool, "pair"), row.pairs)
            divided.add_metric((pool, "single"), row.singles)
            for address, role in row.roles:
                roles.add_metric((pool, address, role.value), 1.0)
            changes.add_metric((pool,), row.changes)
        yield divided
        yield _counters(
            "igw_picker_prefills", "What sidecars said of prompts.", self._telemetry.prefills, "pool", "outcome"
        )
        yield roles
        yield changes

    def _shadow_families(self) -> Iterable[Metric]:
        shadows = self._sources.shadows()
        for name, text, total in _SHADOW_TOTALS:
            family = CounterMetricFamily(f"igw_picker_shadow_{name}", text, labels=("pool", "active", "shadow"))
            for pool, row in shadows.items():
                family.add_metric((pool, row.active.policy, row.shadow.policy), total(row))
            yield family
        sides = [
            (pool, side.policy, role, side)
            for pool, row in shadows.items()
            for role, side in (("active", row.active), ("shadow", row.shadow))
        ]
        for name, text, value in _SHADOW_SIDES:
            family = CounterMetricFamily(f"igw_picker_shadow_{name}", text, labels=("pool", "policy", "role"))
            for pool, policy, role, side in sides:
                family.add_metric((pool, policy, role), value(side))
            yield family
        labels = ("pool", "policy", "role", "endpoint")
        choices = CounterMetricFamily("igw_picker_shadow_choices", "Choices of each policy.", labels=labels)
        for pool, policy, role, side in sides:
            for address, count in side.choices.items():
                choices.add_metric((pool, policy, role, address), count)
        yield choices

    def _latency_families(self) -> Iterable[Metric]:
        told = self._telemetry
        placement = HistogramMetricFamily(
            "igw_picker_placement_seconds", "From a request's last byte to its placement."
        )
        placement.add_metric((), told.placement.buckets(), told.placement.sum)
        yield placement
        yield _histograms(
            "igw_picker_first_byte_seconds", "From placement to the response's first byte.", told.first_byte
        )
        yield _histograms(
            "igw_picker_predicted_first_byte_seconds", "The same, as placement had predicted.", told.predicted
        )
        yield _histograms(
            "igw_picker_input_tokens", "Prompt tokens a request, as engines counted them.", told.input_tokens
        )

    def _endpoint_families(self) -> Iterable[Metric]:
        rows = list(self._sources.endpoints())
        for name, text, value in _ENDPOINT_GAUGES:
            family = GaugeMetricFamily(f"igw_picker_endpoint_{name}", text, labels=("endpoint",))
            for row in rows:
                family.add_metric((row.address,), float(value(row)))
            yield family
        busy = GaugeMetricFamily(
            "igw_picker_endpoint_gpu_utilization",
            "Share of the time in which its GPUs compute, where its engine or an exporter tells.",
            labels=("endpoint",),
        )
        for row in rows:
            if row.gpu is not None:
                busy.add_metric((row.address,), row.gpu)
        yield busy
        # Apart from `available`: an endpoint that was never asked is neither.
        unreachable = GaugeMetricFamily(
            "igw_picker_endpoint_unreachable",
            "1 while the engine gives no answer, and why.",
            labels=("endpoint", "reason"),
        )
        for row in rows:
            if row.unreachable_reason is not None:
                unreachable.add_metric((row.address, row.unreachable_reason), 1.0)
        yield unreachable
        unseen = GaugeMetricFamily(
            "igw_picker_pool_unseen", "1 while nobody can tell us of the pool's endpoints.", labels=("pool",)
        )
        for pool in self._sources.unseen_pools():
            unseen.add_metric((pool,), 1.0)
        yield unseen

    def _health_families(self) -> Iterable[Metric]:
        health = self._sources.health()
        ejected = GaugeMetricFamily(
            "igw_picker_endpoint_ejected", "1 while it gets no requests, since it failed some.", labels=("endpoint",)
        )
        for address, is_out in health.ejected.items():
            ejected.add_metric((address,), float(is_out))
        yield ejected
        yield _counters("igw_picker_ejections", "Ejections, by reason.", health.ejections, "endpoint", "reason")
        yield _counters(
            "igw_picker_failed_tries", "Tries that failed, by endpoint and kind.", health.failures, "endpoint", "kind"
        )

    def _inner_families(self) -> Iterable[Metric]:
        streams = self._telemetry.open_streams
        yield GaugeMetricFamily("igw_picker_open_streams", "Streams open to proxies.", value=streams)
        scraper = self._sources.scraper()
        scrapes = CounterMetricFamily("igw_picker_scrapes", "Scrapes of engines, by result.", labels=("result",))
        scrapes.add_metric(("ok",), scraper.ok)
        scrapes.add_metric(("failed",), scraper.failed)
        yield scrapes
        yield GaugeMetricFamily(
            "igw_picker_prefix_index_entries",
            "Prefixes remembered, over all endpoints.",
            value=self._sources.prefix_entries(),
        )


_SHADOW_TOTALS: tuple[tuple[str, str, Callable[[ShadowStatistics], float]], ...] = (
    ("compared", "Placements that both policies chose for.", lambda row: row.compared),
    ("agreed", "Of these, those with the same choice.", lambda row: row.agreed),
)
_SHADOW_SIDES: tuple[tuple[str, str, Callable[[Side], float]], ...] = (
    ("gain", "What its choices cost less than the other's, by its own formula.", lambda side: side.gain),
    ("prefix_hit_tokens", "Prompt tokens expected in the cache of its choices.", lambda side: side.cached_tokens),
)

_ENDPOINT_GAUGES: tuple[tuple[str, str, Callable[[LedgerStatistics], float]], ...] = (
    (
        "available",
        "1 if the engine answered its last scrape. While none did, those never asked are chosen too.",
        lambda row: row.available,
    ),
    ("in_flight_requests", "Requests placed there that have not ended.", lambda row: row.requests),
    (
        "queued_requests",
        "Requests there, running or waiting: the engine's word and what was sent since.",
        lambda row: row.queued,
    ),
    (
        "cache_trust",
        "What an expected cached token is worth there: 1, or less where the engine found less than was expected.",
        lambda row: row.cache_trust,
    ),
    ("kv_tokens", "Tokens in its KV cache: the engine's word and what was sent since.", lambda row: row.kv_tokens),
    ("seats", "Requests that its engine runs at once, as learned; 0: not known.", lambda row: row.seats),
    ("prompt_token_seconds", "Time to compute one prompt token, as learned.", lambda row: row.prefill_s),
    ("decode_step_seconds", "Time between two tokens of a request lately; 0: not known.", lambda row: row.step_s),
)


def _counters(name: str, text: str, counter: Mapping[Any, int], *labels: str) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for key, count in counter.items():
        family.add_metric(key if isinstance(key, tuple) else (key,), count)
    return family


def _histograms(name: str, text: str, by_pool: dict[str, Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=("pool",))
    for pool, histogram in by_pool.items():
        family.add_metric((pool,), histogram.buckets(), histogram.sum)
    return family


def registry(telemetry: Telemetry, sources: Sources) -> CollectorRegistry:
    """A registry of our own, with nothing in it but this picker."""
    made = CollectorRegistry()
    made.register(PickerCollector(telemetry, sources))
    return made
