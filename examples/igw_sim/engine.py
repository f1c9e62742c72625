"""A continuous-batching engine in the manner of vLLM v1, on a clock that the caller holds.

The life of a request: `submit` puts it in the waiting queue; a `step` admits it when a sequence slot, KV blocks, an
adapter slot and token budget are there, reuses cached prefix blocks, and prefills the rest in chunks; from then on
every step gives it one token, until it has all. When blocks run out the youngest running request is preempted: it
loses its blocks, goes to the head of the queue, and is prefilled again with what it had generated.

A decoding sequence advances by exactly one token in every step. So nothing is done per token: each sequence is
looked at only when it needs a block or ends, and a step costs about the same whatever the batch.
No I/O, no clock, no asyncio. `driver` runs it in real time; benchmarks run it on a virtual clock.
"""

from collections import Counter, OrderedDict, defaultdict
from random import Random

from igw_sim.blocks import BlockPool
from igw_sim.histogram import Histogram, one_two_five
from igw_sim.model import Finished, Limits, Request, Speed, Statistics, StepResult

# Bucket bounds of vLLM's histograms (vllm/v1/metrics/loggers.py).
_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
         80.0, 160.0, 640.0, 2560.0)  # fmt: skip
_TPOT = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_LATENCY = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
            960.0, 1920.0, 7680.0)  # fmt: skip
_BATCH = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
HISTOGRAMS = {
    "ttft_s": _TTFT,
    "itl_s": _TPOT,
    "tpot_s": _TPOT,
    "e2e_s": _LATENCY,
    "queue_s": _LATENCY,
    "prefill_s": _LATENCY,
    "decode_s": _LATENCY,
    "inference_s": _LATENCY,
    "prompt_tokens": one_two_five(131072),
    "generation_tokens": one_two_five(131072),
    "step_tokens": _BATCH,
}


class _Sequence:
    """A request inside the engine. Its block table is `held` hashes plus `anonymous` blocks."""

    __slots__ = (
        "admitted_at",
        "anonymous",
        "arrived_at",
        "cached_tokens",
        "computed",
        "emitted",
        "entered",
        "first_token_at",
        "held",
        "last_token_at",
        "order",
        "pair",
        "preemptions",
        "published",
        "request",
        "target",
    )

    def __init__(self, request: Request, arrived_at: float) -> None:
        self.request = request
        self.pair = (request.id, 1)
        self.arrived_at = arrived_at
        self.admitted_at = self.first_token_at = self.last_token_at = -1.0
        self.cached_tokens = self.preemptions = self.order = 0
        self.emitted = 0
        # While prefilling: tokens that have KV, and tokens that need it. While decoding: as of step `entered`.
        self.computed = 0
        self.target = request.prompt_tokens
        self.entered = -1
        self.held: list[int] = []
        self.anonymous = 0
        # How many leading blocks were offered to the prefix cache, or came from it.
        self.published = 0

    @property
    def blocks(self) -> int:
        return len(self.held) + self.anonymous


class Engine:
    """One engine. `speed` may be exchanged between steps. `rng` is used for jitter only."""

    def __init__(self, limits: Limits, speed: Speed, rng: Random) -> None:
        self.limits = limits
        self.speed = speed
        self._rng = rng
        self._pool = BlockPool(limits.kv_blocks)
        self._sequences: dict[str, _Sequence] = {}
        self._waiting: OrderedDict[str, _Sequence] = OrderedDict()
        self._running: dict[str, _Sequence] = {}
        self._prefilling: dict[str, _Sequence] = {}
        self._decoding: dict[str, tuple[str, int]] = {}
        self._emitting: tuple[tuple[str, int], ...] | None = ()
        # By step number: the decoding sequences that need a block in that step, and those that end with it.
        self._growing: defaultdict[int, list[_Sequence]] = defaultdict(list)
        self._ending: defaultdict[int, list[_Sequence]] = defaultdict(list)
        self._steps = 0
        self._admissions = 0
        # Tokens in the KV cache of all decoding sequences.
        self._context = 0
        # Nobody waiting can be admitted until something is released or published.
        self._stuck = False
        self._adapters: Counter[str] = Counter()
        self._resident: OrderedDict[str, None] = OrderedDict()
        self._loaded = 0
        self._last_end = 0.0
        self._histograms = {name: Histogram(bounds) for name, bounds in HISTOGRAMS.items()}
        self._totals: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._prefill_s = self._decode_s = 0.0

    @property
    def busy(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._sequences)

    @property
    def load(self) -> int:
        """What vLLM's own data-parallel balancer compares: running requests plus four times the waiting ones."""
        return len(self._running) + 4 * len(self._waiting)

    def submit(self, request: Request, now: float) -> None:
        """Queue a request. ValueError if it could never be served here, or its id is in use."""
        if request.id in self._sequences:
            raise ValueError(f"request id {request.id!r} is in use")
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError("a request needs at least one prompt token and one output token")
        if request.total_tokens > self.limits.longest:
            raise ValueError(f"{request.total_tokens} tokens exceed the longest sequence, {self.limits.longest}")
        if request.adapter is not None and self.limits.max_adapters < 1:
            raise ValueError("this engine has no adapter slots")
        sequence = _Sequence(request, now)
        self._sequences[request.id] = self._waiting[request.id] = sequence
        self._stuck = False

    def cancel(self, request_id: str) -> bool:
        """Drop a request wherever it is; its tokens of the step under way are still emitted by that step."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return False
        if self._waiting.pop(request_id, None) is None:
            self._leave(sequence)
        self._stuck = False
        self._totals["cancelled"] += 1
        return True

    def step(self, now: float) -> StepResult:
        """Schedule and run one step that begins at `now`. Without work: an empty result of no duration."""
        if not self._sequences:
            return StepResult(0.0)
        preemptions = self._totals["preemptions"]
        self._loaded = 0
        self._grow_decoding()
        budget = self.limits.max_batched_tokens - len(self._decoding)
        prefill = self._continue_prefills(budget)
        if self._totals["preemptions"] == preemptions and not self._stuck:
            prefill += self._admit(budget - prefill, now)
        duration = self._duration(prefill)
        return self._finish_step(now + duration, duration, prefill, self._totals["preemptions"] - preemptions)

    # Scheduling.

    def _grow_decoding(self) -> None:
        """Give a block to each decoding sequence that fills its last one, oldest first."""
        due = self._growing.pop(self._steps + 1, None)
        if not due:
            return
        due.sort(key=lambda sequence: sequence.order)
        for sequence in due:
            # Entries of sequences that left, or left and came back, are stale.
            if not self._decodes(sequence) or self._computed(sequence) < sequence.blocks * self.limits.block_tokens:
                continue
            if self._obtain(sequence, sequence.blocks + 1):
                self._publish(sequence, self._computed(sequence))
                self._growing[self._steps + 1 + self.limits.block_tokens].append(sequence)

    def _continue_prefills(self, budget: int) -> int:
        """The next chunk of every prompt begun earlier, oldest first. Returns the tokens used."""
        used = 0
        for sequence in tuple(self._prefilling.values()):
            chunk = min(sequence.target - sequence.computed, budget - used)
            if chunk <= 0:
                break
            if sequence.request.id in self._prefilling and self._obtain(
                sequence, self._blocks_for(sequence.computed + chunk)
            ):
                self._compute(sequence, chunk)
                used += chunk
        return used

    def _admit(self, budget: int, now: float) -> int:
        """Admit from the waiting queue in order; only those short of an adapter slot are passed over."""
        used = 0
        passed: list[_Sequence] = []
        while self._waiting and used < budget:
            sequence = next(iter(self._waiting.values()))
            if len(self._running) >= self.limits.max_sequences:
                self._stuck = True
                break
            if not self._adapter_fits(sequence.request.adapter):
                passed.append(self._waiting.pop(sequence.request.id))
                continue
            chunk = self._start(sequence, budget - used, now)
            if not chunk:
                self._stuck = True
                break
            used += chunk
        self._stuck = self._stuck or (bool(passed) and not self._waiting)
        for sequence in reversed(passed):
            self._waiting[sequence.request.id] = sequence
            self._waiting.move_to_end(sequence.request.id, last=False)
        return used

    def _start(self, sequence: _Sequence, budget: int, now: float) -> int:
        """Move a waiting sequence into the batch with its first chunk; 0 if its blocks do not fit."""
        size = self.limits.block_tokens
        hashes = sequence.request.block_hashes if self.limits.prefix_cache else ()
        # At least the last token is computed, or there would be nothing to sample from.
        reused = hashes[: self._pool.match(hashes, (sequence.target - 1) // size)]
        cached = len(reused) * size
        chunk = min(sequence.target - cached, budget)
        fresh = self._blocks_for(cached + chunk) - len(reused)
        if not self._pool.fits(reused, fresh):
            return 0
        self._pool.hold(reused)
        self._pool.take(fresh)
        sequence.held, sequence.anonymous, sequence.published = list(reused), fresh, len(reused)
        sequence.computed = cached
        self._enter(sequence, cached, now)
        self._compute(sequence, chunk)
        return chunk

    def _enter(self, sequence: _Sequence, cached: int, now: float) -> None:
        request = sequence.request
        del self._waiting[request.id]
        self._admissions += 1
        sequence.order = self._admissions
        self._running[request.id] = self._prefilling[request.id] = sequence
        if sequence.admitted_at < 0:
            sequence.admitted_at = now
            sequence.cached_tokens = cached
            self._totals["prefix_queries"] += request.prompt_tokens
            self._totals["prefix_hits"] += cached
            self._totals["prompt"] += request.prompt_tokens
        if request.adapter is not None:
            self._adapters[request.adapter] += 1
            self._load(request.adapter)

    def _compute(self, sequence: _Sequence, chunk: int) -> None:
        sequence.computed += chunk
        self._publish(sequence, sequence.computed)

    def _publish(self, sequence: _Sequence, computed: int) -> None:
        """Offer every block that is now full to the prefix cache."""
        if not self.limits.prefix_cache:
            return
        hashes = sequence.request.block_hashes
        for index in range(sequence.published, min(computed // self.limits.block_tokens, len(hashes))):
            if self._pool.publish(hashes[index]):
                sequence.held.append(hashes[index])
                sequence.anonymous -= 1
                self._stuck = False
            sequence.published = index + 1

    def _obtain(self, sequence: _Sequence, blocks: int) -> bool:
        """Grow the block table to `blocks`, preempting the youngest as needed; False if it preempted itself."""
        missing = blocks - sequence.blocks
        while not self._pool.take(missing):
            victim = next(reversed(self._running.values()))
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.anonymous += missing
        return True

    def _preempt(self, sequence: _Sequence) -> None:
        request_id = sequence.request.id
        sequence.emitted = self._emitted(sequence)
        self._leave(sequence)
        sequence.preemptions += 1
        # The last token was emitted but has no KV yet: it is prefilled with the rest.
        sequence.target = sequence.request.prompt_tokens + sequence.emitted
        self._waiting[request_id] = sequence
        self._waiting.move_to_end(request_id, last=False)
        self._totals["preemptions"] += 1

    def _leave(self, sequence: _Sequence) -> None:
        """Take a sequence out of the batch and return its blocks and its adapter slot."""
        request = sequence.request
        if self._decoding.pop(request.id, None) is not None:
            self._context -= self._computed(sequence)
            self._emitting = None
        self._prefilling.pop(request.id, None)
        del self._running[request.id]
        self._pool.release(sequence.held, sequence.anonymous)
        sequence.held, sequence.anonymous, sequence.published = [], 0, 0
        sequence.computed, sequence.entered = 0, -1
        if request.adapter is not None:
            self._adapters[request.adapter] -= 1
            self._adapters += Counter()
        self._stuck = False

    # The end of a step.

    def _duration(self, prefill: int) -> float:
        sequences = len(self._decoding)
        duration = self.speed.step_s(prefill, sequences, self._context + sequences, self._loaded)
        share = min(1.0, prefill / self.speed.prefill_tokens_per_s / duration) if duration else 0.0
        if self.speed.jitter:
            duration *= 1.0 + self.speed.jitter * self._rng.uniform(-1.0, 1.0)
        self._prefill_s += duration * share
        self._decode_s += duration * (1.0 - share)
        return duration

    def _finish_step(self, end: float, duration: float, prefill: int, preempted: int) -> StepResult:
        self._steps += 1
        decoded = len(self._decoding)
        self._context += decoded
        if self._emitting is None:
            self._emitting = tuple(self._decoding.values())
        emitted = self._emitting
        if decoded:
            self._histograms["itl_s"].observe(end - self._last_end, decoded)
        ending = self._ending.pop(self._steps, [])
        first = [sequence for sequence in self._prefilling.values() if sequence.computed == sequence.target]
        for sequence in first:
            self._begin_decoding(sequence, end)
            if sequence.emitted == sequence.request.output_tokens:
                ending.append(sequence)
        finished = tuple(
            self._finish(sequence, end)
            for sequence in ending
            if self._decodes(sequence) and self._emitted(sequence) == sequence.request.output_tokens
        )
        self._last_end = end
        self._totals["generation"] += decoded + len(first)
        self._histograms["step_tokens"].observe(prefill + decoded)
        emitted += tuple(sequence.pair for sequence in first)
        return StepResult(duration, emitted, finished, prefill, decoded, preempted)

    def _begin_decoding(self, sequence: _Sequence, end: float) -> None:
        """The prefill is done, and gave one token; from the next step on the sequence decodes."""
        request = sequence.request
        if sequence.first_token_at < 0:
            sequence.first_token_at = end
            self._histograms["ttft_s"].observe(end - sequence.arrived_at)
        else:
            self._histograms["itl_s"].observe(end - sequence.last_token_at)
        sequence.last_token_at = end
        sequence.emitted += 1
        sequence.entered = self._steps
        del self._prefilling[request.id]
        self._decoding[request.id] = sequence.pair
        self._emitting = None
        self._context += sequence.target
        self._growing[self._steps + 1 + -sequence.target % self.limits.block_tokens].append(sequence)
        if sequence.emitted < request.output_tokens:
            self._ending[self._steps + request.output_tokens - sequence.emitted].append(sequence)

    def _finish(self, sequence: _Sequence, end: float) -> Finished:
        request = sequence.request
        self._publish(sequence, self._computed(sequence))
        self._leave(sequence)
        del self._sequences[request.id]
        self._reasons[request.finish_reason] += 1
        finished = Finished(
            id=request.id,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens,
            cached_tokens=sequence.cached_tokens,
            arrived_at=sequence.arrived_at,
            queued_s=sequence.admitted_at - sequence.arrived_at,
            first_token_at=sequence.first_token_at,
            last_token_at=end,
            preemptions=sequence.preemptions,
        )
        self._observe(finished)
        return finished

    def _observe(self, finished: Finished) -> None:
        decode_s = finished.last_token_at - finished.first_token_at
        prefill_s = finished.ttft_s - finished.queued_s
        observed = {
            "e2e_s": finished.last_token_at - finished.arrived_at,
            "queue_s": finished.queued_s,
            "prefill_s": prefill_s,
            "decode_s": decode_s,
            "inference_s": prefill_s + decode_s,
            "prompt_tokens": finished.prompt_tokens,
            "generation_tokens": finished.output_tokens,
        }
        for name, value in observed.items():
            self._histograms[name].observe(value)
        if finished.output_tokens > 1:
            self._histograms["tpot_s"].observe(decode_s / (finished.output_tokens - 1))

    # What is known of a sequence.

    def _decodes(self, sequence: _Sequence) -> bool:
        return sequence.entered >= 0 and self._running.get(sequence.request.id) is sequence

    def _computed(self, sequence: _Sequence) -> int:
        """Tokens of a decoding sequence that have KV."""
        return sequence.target + self._steps - sequence.entered

    def _emitted(self, sequence: _Sequence) -> int:
        return sequence.emitted + (self._steps - sequence.entered if sequence.entered >= 0 else 0)

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_tokens)

    # Adapters.

    def _adapter_fits(self, adapter: str | None) -> bool:
        return adapter is None or adapter in self._adapters or len(self._adapters) < self.limits.max_adapters

    def _load(self, adapter: str) -> None:
        """Make the adapter resident, in the place of the least recently used one that no running request needs."""
        if adapter in self._resident:
            self._resident.move_to_end(adapter)
            return
        if len(self._resident) >= self.limits.max_adapters:
            del self._resident[next(name for name in self._resident if name not in self._adapters)]
        self._resident[adapter] = None
        self._loaded += 1

    def statistics(self) -> Statistics:
        """A reading of everything, as of the end of the last step."""
        waiting_adapters = [s.request.adapter for s in self._waiting.values() if s.request.adapter is not None]
        totals = self._totals
        return Statistics(
            running=len(self._running),
            waiting=len(self._waiting),
            waiting_for_adapter=sum(not self._adapter_fits(adapter) for adapter in waiting_adapters),
            decoding=len(self._decoding),
            kv_used_blocks=self._pool.used,
            kv_total_blocks=self._pool.total,
            kv_cached_blocks=self._pool.cached,
            prefix_hit_tokens=totals["prefix_hits"],
            prefix_query_tokens=totals["prefix_queries"],
            prompt_tokens=totals["prompt"],
            generation_tokens=totals["generation"],
            preemptions=totals["preemptions"],
            finished=dict(self._reasons),
            cancelled=totals["cancelled"],
            steps=self._steps,
            prefill_s=self._prefill_s,
            decode_s=self._decode_s,
            running_adapters=tuple(self._adapters),
            waiting_adapters=tuple(dict.fromkeys(waiting_adapters)),
            histograms={name: histogram.data() for name, histogram in self._histograms.items()},
        )
