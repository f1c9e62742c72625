"""What the sidecar exports at /sidecar/metrics. Every series is listed in `docs/prefill-decode.md`; a test compares."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# From a cached prompt to a very long one behind a queue, in seconds.
_PREFILL_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 30.0, 60.0, 120.0)


class Telemetry:
    """Counters of one sidecar."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "igw_sidecar_requests", "Requests by how they ended.", ["outcome"], registry=self._registry
        )
        self.prefill_failures = Counter(
            "igw_sidecar_prefill_failures", "Prompts that no prefiller computed.", ["reason"], registry=self._registry
        )
        self.prefill_seconds = Histogram(
            "igw_sidecar_prefill_seconds",
            "From asking a prefiller to its answer.",
            buckets=_PREFILL_BOUNDS,
            registry=self._registry,
        )
        self.in_flight = Gauge("igw_sidecar_in_flight", "Requests under way.", registry=self._registry)

    def page(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)
