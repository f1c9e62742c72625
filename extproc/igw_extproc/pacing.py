"""How often to ask an engine for its load, and whether two answers come from one process. Pure; `scraper` calls it."""

from typing import Final

from igw_extproc.domain import EngineLoad

# Seconds between scrapes, by what changes there. Between them our own accounting is exact for what we sent.
HOT: Final = 0.2
BUSY: Final = 1.0
IDLE: Final = 2.0
# What makes an endpoint hot: its cache is near the point where requests wait or get preempted, or our own estimates
# of many requests add up to a large error, or it moves by itself.
FULL_CACHE: Final = 0.7
MANY_IN_FLIGHT: Final = 64
SUDDEN_REQUESTS: Final = 8.0
SUDDEN_USAGE: Final = 0.1

# Unreachable endpoints are tried this often, slower after each failure.
FIRST_BACKOFF: Final = 0.2
LAST_BACKOFF: Final = 1.0
# Start times are printed in seconds since 1970 with varying precision.
SAME_START: Final = 1.0


def next_interval(load: EngineLoad, previous: EngineLoad | None, inflight_requests: int) -> float:
    """Seconds until the next scrape of an endpoint that said `previous` before and says `load` now."""
    if load.waiting > 0 or (load.kv_usage or 0.0) > FULL_CACHE or inflight_requests >= MANY_IN_FLIGHT:
        return HOT
    if previous is not None and _moved(load, previous):
        return HOT
    return IDLE if load.running == 0 and inflight_requests == 0 else BUSY


def _moved(load: EngineLoad, previous: EngineLoad) -> bool:
    requests, before = load.running + load.waiting, previous.running + previous.waiting
    if abs(requests - before) > max(SUDDEN_REQUESTS, before / 4):
        return True
    return abs((load.kv_usage or 0.0) - (previous.kv_usage or 0.0)) > SUDDEN_USAGE


def is_new_process(load: EngineLoad, previous: EngineLoad) -> bool:
    """Whether `load` comes from another process than `previous`: another start, or counters that went back."""
    if load.started_at is not None and previous.started_at is not None:
        return abs(load.started_at - previous.started_at) > SAME_START
    return any(
        now is not None and before is not None and now < before
        for now, before in (
            (load.prompt_tokens_total, previous.prompt_tokens_total),
            (load.generation_tokens_total, previous.generation_tokens_total),
        )
    )


def next_backoff(seconds: float) -> float:
    """The wait after one more failure."""
    return min(seconds * 1.5, LAST_BACKOFF)
