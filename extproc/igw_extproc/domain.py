"""The picker's values: endpoints, what engines say of themselves, what a request asks, what was decided.

Values only: no behaviour beyond derivation, no I/O, no clock. Everything above imports this; it imports nothing of
the picker. Units: tokens, seconds, fractions in 0..1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One `ip:port` of an engine, with the labels of its Pod or list entry."""

    address: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(self.address)


class EngineKind(StrEnum):
    """The serving software. UNKNOWN: answers, but with no page that we can read."""

    VLLM = "vllm"
    SGLANG = "sglang"
    BLADELLM = "bladellm"
    TGI = "tgi"
    LLAMACPP = "llamacpp"
    TENSORRT_LLM = "tensorrt-llm"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine said at one scrape, in every engine's common terms. None: it does not say.

    Several engines behind one port (data parallel ranks) are summed; `kv_usage` is their mean, weighted by capacity
    where known, else plain.
    """

    engine: EngineKind = EngineKind.UNKNOWN
    running: float = 0.0  # requests in the batch
    waiting: float = 0.0  # requests queued in the engine
    kv_usage: float | None = None  # 0..1
    kv_capacity_tokens: int | None = None
    prompt_tokens_total: float | None = None
    generation_tokens_total: float | None = None
    caches_prefixes: bool = True  # False: it says that it does not
    cache_hits_total: float | None = None  # tokens (or blocks) that it looked up in its prefix cache and found
    cache_queries_total: float | None = None  # those it looked up
    cache_hit_rate: float | None = None  # 0..1, of the last moments; where it tells no totals
    max_adapters: int | None = None
    running_adapters: frozenset[str] = frozenset()
    waiting_adapters: frozenset[str] = frozenset()
    gpu: float | None = None  # 0..1, the share of the time in which its GPUs compute, of the last moments
    started_at: float | None = None  # the process's start, seconds since the epoch


class Outcome(StrEnum):
    """How a request left the picker: low cardinality, a metric label."""

    PLACED = "placed"
    DIVERTED = "diverted"  # to a standby
    PASSED = "passed"  # without a placement: not ours, or nobody knows the pool's endpoints yet
    REJECTED_BAD_REQUEST = "rejected-bad-request"
    REJECTED_UNKNOWN_MODEL = "rejected-unknown-model"
    REJECTED_TOO_LARGE = "rejected-too-large"
    REJECTED_SATURATED = "rejected-saturated"
    REJECTED_OVER_LIMIT = "rejected-over-limit"
    REJECTED_NO_ENDPOINTS = "rejected-no-endpoints"
    FAILED = "failed"  # a fault of ours: the proxy decides (fail open)


class Stay(NamedTuple):
    """Where a session's last request went, and the tokens that it left there: its prompt and its answer."""

    address: str
    tokens: int


class Ask(NamedTuple):
    """What one request costs and may reuse: all that placement knows of it.

    `prefix` holds (hash of everything up to here, tokens up to here) at growing positions; empty when the path has no
    prompt that we can read.
    """

    model: str
    prompt_tokens: int
    output_tokens: int
    prefix: tuple[tuple[int, int], ...] = ()
    adapter: str | None = None
    priority: int = 0
    stay: Stay | None = None
    divisible: bool = True  # whether another endpoint may compute its prompt
    streams: bool = True  # whether its answer's first byte comes with the first token, not with the last
