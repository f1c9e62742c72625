"""What we export of limits. Read by `telemetry`, at the moment of the scrape."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from igw_extproc.metering import MeterStatistics


def limit_families(meters: MeterStatistics) -> Iterable[Metric]:
    """All of them, in the order of `docs/metrics.md`."""
    refused = CounterMetricFamily(
        "igw_picker_over_limit", "Requests that exceeded a limit, by which.", labels=("pool", "limit")
    )
    running = GaugeMetricFamily(
        "igw_picker_limited_requests", "Requests of pools with limits that have not ended.", labels=("pool",)
    )
    for pool, row in meters.pools.items():
        for limit, count in row.refused.items():
            refused.add_metric((pool, limit), count)
        running.add_metric((pool,), row.concurrent)
    yield refused
    yield running
    yield GaugeMetricFamily("igw_picker_limit_keys", "API keys and models that are remembered.", value=meters.keys)
    yield CounterMetricFamily(
        "igw_picker_limit_keys_forgotten", "Of these, those forgotten before their time.", value=meters.forgotten
    )
