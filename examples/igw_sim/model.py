"""The values of the simulated engine: what goes in, what comes out of a step, how fast it is, what it counts.

Plain values only: no scheduling (`engine`), no blocks (`blocks`), no wire formats (`exposition`, `replies`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from igw_sim.histogram import HistogramData


@dataclass(frozen=True, slots=True)
class Request:
    """One generation, all of it known in advance.

    `block_hashes` holds one hash for each leading full block of prompt and output together; each must stand for
    the whole text up to that block (`tokens.block_hashes` chains them). Shorter, or empty, means less reuse.
    """

    id: str
    prompt_tokens: int
    output_tokens: int
    block_hashes: tuple[int, ...] = ()
    adapter: str | None = None
    # Why it will end, for the statistics: "stop" or "length".
    finish_reason: str = "stop"
    # Its KV stays when it ends, for another engine, until released.
    keep_kv: bool = False
    # The KV of its prompt comes from another engine.
    remote_kv: bool = False

    @property
    def total_tokens(self) -> int:
        """Prompt and output together."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Speed:
    """The cost of one step, in seconds; the sum of all that applies.

    step = decode_step_s + prefill tokens / prefill_tokens_per_s + decode_per_seq_s * decoding sequences
           + decode_per_kv_token_s * tokens in the KV cache of those + adapter_load_s * adapters loaded
    """

    prefill_tokens_per_s: float
    decode_step_s: float
    decode_per_seq_s: float = 0.0
    decode_per_kv_token_s: float = 0.0
    adapter_load_s: float = 0.0
    # The duration is multiplied by a factor drawn evenly from 1 - jitter to 1 + jitter.
    jitter: float = 0.0

    def step_s(self, prefill_tokens: int, sequences: int, kv_tokens: int, adapters_loaded: int = 0) -> float:
        """The duration of a step with this work in it, before jitter."""
        return (
            self.decode_step_s
            + prefill_tokens / self.prefill_tokens_per_s
            + sequences * self.decode_per_seq_s
            + kv_tokens * self.decode_per_kv_token_s
            + adapters_loaded * self.adapter_load_s
        )

    def faster(self, factor: float) -> "Speed":
        """The same engine, `factor` times as fast."""
        return replace(
            self,
            prefill_tokens_per_s=self.prefill_tokens_per_s * factor,
            decode_step_s=self.decode_step_s / factor,
            decode_per_seq_s=self.decode_per_seq_s / factor,
            decode_per_kv_token_s=self.decode_per_kv_token_s / factor,
            adapter_load_s=self.adapter_load_s / factor,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """The size of an engine. `max_batched_tokens` must leave room for one token of every sequence."""

    kv_blocks: int
    block_tokens: int = 16
    max_sequences: int = 256
    max_batched_tokens: int = 2048
    max_model_tokens: int = 4096
    max_adapters: int = 0
    prefix_cache: bool = True

    def __post_init__(self) -> None:
        if min(self.kv_blocks, self.block_tokens, self.max_sequences, self.max_model_tokens) < 1:
            raise ValueError("kv_blocks, block_tokens, max_sequences and max_model_tokens must be at least 1")
        if self.max_batched_tokens < self.max_sequences:
            raise ValueError(
                f"max_batched_tokens ({self.max_batched_tokens}) is below max_sequences ({self.max_sequences})"
            )

    @property
    def kv_tokens(self) -> int:
        """How many tokens the KV cache holds."""
        return self.kv_blocks * self.block_tokens

    @property
    def longest(self) -> int:
        """The longest prompt plus output that can be served."""
        return min(self.max_model_tokens, self.kv_tokens)


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that got its last token. Times are in seconds: `*_at` on the engine's clock, the others spans."""

    id: str
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    arrived_at: float
    queued_s: float
    first_token_at: float
    last_token_at: float
    preemptions: int

    @property
    def ttft_s(self) -> float:
        """Time to first token."""
        return self.first_token_at - self.arrived_at


@dataclass(frozen=True, slots=True)
class Fetch:
    """KV that a request waits for: its blocks are there, `tokens` of its prompt are to come from another engine."""

    id: str
    tokens: int


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step. Its tokens exist `duration` seconds after it began; the engine's own state is already past it."""

    duration: float
    emitted: tuple[tuple[str, int], ...] = ()
    finished: tuple[Finished, ...] = ()
    prefill_tokens: int = 0
    decode_sequences: int = 0
    preempted: int = 0
    # Transfers that begin when the step does.
    fetches: tuple[Fetch, ...] = ()


class Occupancy(NamedTuple):
    """How full an engine is: requests in the batch; those in its queue or waiting for KV; blocks held by requests.

    And how many tokens it has made.
    """

    running: int
    waiting: int
    kv_used_blocks: int
    generation_tokens: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """A reading of one engine. Prefix numbers are tokens; `histograms` has the names listed in `tally`."""

    running: int
    waiting: int
    # Of the waiting, those that wait for an adapter slot rather than for room.
    waiting_for_adapter: int
    decoding: int
    kv_used_blocks: int
    kv_total_blocks: int
    kv_cached_blocks: int
    prefix_hit_tokens: int
    prefix_query_tokens: int
    prompt_tokens: int
    generation_tokens: int
    preemptions: int
    # Finished requests by finish reason.
    finished: Mapping[str, int]
    cancelled: int
    steps: int
    prefill_s: float
    decode_s: float
    running_adapters: tuple[str, ...] = ()
    waiting_adapters: tuple[str, ...] = ()
    histograms: Mapping[str, HistogramData] = field(default_factory=dict)
    # Of the waiting, those whose KV is on its way from another engine.
    loading: int = 0
    # Ended requests whose KV waits to be fetched; their blocks are held.
    kept: int = 0

    @property
    def kv_usage(self) -> float:
        """The share of KV blocks held by requests, 0 to 1; blocks kept only for reuse are not counted."""
        return self.kv_used_blocks / self.kv_total_blocks

    @property
    def succeeded(self) -> int:
        """How many requests got all their tokens."""
        return sum(self.finished.values())
