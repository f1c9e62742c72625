"""The parts of an InferencePoolPolicy about endpoints that fail, and about requests that they fail."""

from typing import Annotated, Literal

from pydantic import Field

from igw_api import resilience
from igw_api.meta import Invalid, Strict

_SECONDS = r"^[0-9]{1,5}(s|ms)$"
# What Envoy Gateway may be asked for, too: client errors would be the same everywhere, and 500 may be the request's.
Retriable = Literal[408, 429, 502, 503, 504]
# No status below 500 is looked at but this one.
Full = Literal[429, 500, 502, 503, 504, 529]


def seconds(text: str) -> float:
    """`10s` or `500ms` as a number."""
    return int(text[:-2]) / 1000 if text.endswith("ms") else float(text[:-1])


def _full() -> list[Full]:
    return [429, 503]


def _unready() -> list[Retriable]:
    return [503]


class PassiveHealthSpec(Strict):
    """When an endpoint that fails requests gets none for a while."""

    enabled: bool = True
    """Whether failures are looked at."""
    consecutive_failures: Annotated[int, Field(ge=0, le=1000)] = 3
    """Failures in a row that eject: tries without an answer, answers that broke off, 502 and 504. 0: not looked at."""
    failure_percent: Annotated[int, Field(ge=0, le=100)] = 50
    """Share of the tries of one interval that eject when they fail, with any status from 500. 0: not looked at."""
    min_requests: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Tries in an interval, with fewer of which their share says nothing."""
    interval: Annotated[str, Field(pattern=_SECONDS)] = "1s"
    """The interval, from 100ms to 60s."""
    base_ejection_time: Annotated[str, Field(pattern=_SECONDS)] = "30s"
    """How long the first ejection lasts, 100ms or more; the second twice that, and so on.

    One less is counted for each such time in health.
    """
    max_ejection_time: Annotated[str, Field(pattern=_SECONDS)] = "300s"
    """How long any ejection lasts at most, `baseEjectionTime` or more."""
    max_ejected_percent: Annotated[int, Field(ge=1, le=100)] = 100
    """Share of the pool's endpoints that may be out at once; of several, one may. With all out, all are used."""
    probes: Annotated[int, Field(ge=1, le=100)] = 2
    """After that time, so many requests at once go there, until so many have succeeded."""
    slow_start: Annotated[str, Field(pattern=_SECONDS)] = "10s"
    """After that, how long requests there are limited still: one more at once for each that succeeds."""
    full_statuses: Annotated[list[Full], Field(max_length=6)] = Field(
        default_factory=_full, json_schema_extra={"default": [429, 503]}
    )
    """Answers of engines that are full. They are no failures: the endpoint is left alone for a second."""


class RetrySpec(Strict):
    """When and how often a request is tried again, at another endpoint. Never after its response has begun."""

    attempts: Annotated[int, Field(ge=0, le=5)] | None = None
    """How often at most. 0: never. Without it, as often as `queue.retries` says."""
    statuses: Annotated[list[Retriable], Field(max_length=5)] = Field(
        default_factory=_unready, json_schema_extra={"default": [503]}
    )
    """Answers after which another endpoint is tried."""
    lost: Literal["Retry", "Fail"] = "Retry"
    """What becomes of a request that an endpoint had in full, when the connection breaks or the time for a try is up
    before an answer. It may have computed something of it, and somebody may be billed for that.
    """
    budget_percent: Annotated[int, Field(ge=0, le=100)] = 50
    """Retries at once, as a share of the pool's requests in flight; more fail."""
    min_concurrent: Annotated[int, Field(ge=0, le=100_000)] = 64
    """Retries at once that are allowed however few requests there are."""


def passive_health(spec: PassiveHealthSpec | None) -> resilience.PassiveHealth:
    """The same in seconds and shares. Raises Invalid."""
    if spec is None:
        return resilience.PassiveHealth()
    interval = _time(spec, "interval", 0.1, 60.0, "from 100ms to 60s")
    base = _time(spec, "base_ejection_time", 0.1, 99_999.0, "100ms or more")
    most = _time(spec, "max_ejection_time", base, 99_999.0, "baseEjectionTime or more")
    return resilience.PassiveHealth(
        enabled=spec.enabled,
        failures=spec.consecutive_failures,
        threshold=spec.failure_percent / 100,
        min_requests=spec.min_requests,
        interval=interval,
        base_ejection=base,
        max_ejection=most,
        max_ejected=spec.max_ejected_percent / 100,
        probes=spec.probes,
        slow_start=seconds(spec.slow_start),
        full_statuses=tuple(sorted(set(spec.full_statuses))),
    )


def retry(spec: RetrySpec | None, attempts: int) -> resilience.Retry:
    """The same as the plan has it. `attempts`: where the spec leaves them out."""
    spec = spec if spec is not None else RetrySpec()
    return resilience.Retry(
        attempts=spec.attempts if spec.attempts is not None else attempts,
        statuses=tuple(sorted(set(spec.statuses))),
        lost=spec.lost == "Retry",
        budget=spec.budget_percent / 100,
        budget_min=spec.min_concurrent,
    )


def _time(spec: PassiveHealthSpec, name: str, least: float, most: float, allowed: str) -> float:
    text: str = getattr(spec, name)
    if not least <= seconds(text) <= most:
        first, *rest = name.split("_")
        field = first + "".join(part.capitalize() for part in rest)
        raise Invalid(("spec", "passiveHealth", field), f"must be {allowed}, not {text}")
    return seconds(text)
