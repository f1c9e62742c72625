"""What the operator says of itself: ready or not and why, and its metrics. No I/O (`probes` serves it)."""

import logging
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Health:
    """The series are documented in docs/operator.md. `ready`: this operator serves, or stands by."""

    ready: bool = False
    state: str = "starting"
    registry: CollectorRegistry = field(default_factory=lambda: CollectorRegistry(auto_describe=True))
    reconciles: Counter = field(init=False)
    seconds: Histogram = field(init=False)
    writes: Counter = field(init=False)
    objects: Gauge = field(init=False)
    failing: Gauge = field(init=False)
    active: Gauge = field(init=False)
    last_success: Gauge = field(init=False)

    def __post_init__(self) -> None:
        prefix, registry = "igw_operator", self.registry
        self.reconciles = Counter(f"{prefix}_reconciles", "Reconciliations.", ["result"], registry=registry)
        self.seconds = Histogram(
            f"{prefix}_reconcile_seconds", "How long one took.", registry=registry, buckets=_SECONDS
        )
        self.writes = Counter(
            f"{prefix}_api_writes", "Writes to the API server.", ["verb", "kind", "result"], registry=registry
        )
        self.objects = Gauge(f"{prefix}_objects", "Objects in memory.", ["kind"], registry=registry)
        self.failing = Gauge(f"{prefix}_failing_objects", "Objects that could not be written.", registry=registry)
        self.active = Gauge(f"{prefix}_active", "1: it writes; 0: it stands by.", registry=registry)
        self.last_success = Gauge(
            f"{prefix}_last_success_timestamp_seconds", "When all was as it shall be.", registry=registry
        )

    def count(self, verb: str, kind: str, result: str) -> None:
        """One write, and how it ended."""
        self.writes.labels(verb, kind, result).inc()

    def say(self, state: str, *, ready: bool) -> None:
        """Take the state; a new one is worth a line in the log."""
        if (state, ready) != (self.state, self.ready):
            log.log(logging.INFO if ready else logging.WARNING, "state: %s", state)
        self.state, self.ready = state, ready
