"""A continuous-batching engine in the manner of vLLM v1, on a clock that the caller holds.

The life of a request: `submit` puts it in the waiting queue; a `step` admits it when a sequence slot, KV blocks, an
adapter slot and token budget are there, reuses cached prefix blocks, and prefills the rest in chunks; from then on
every step gives it one token, until it has all. When blocks run out the youngest running request is preempted: it
loses its blocks, goes to the head of the queue, and is prefilled again with what it had generated.

Prefill and decode may be split between two engines. A request with `keep_kv` leaves its KV behind when it ends, until
`release`. One with `remote_kv` gets blocks for its whole prompt when it is admitted, and a `Fetch` in that step's
result; whoever drives the engine moves the KV, calls `deliver`, and the sequence computes its last prompt token only.

A decoding sequence advances by exactly one token in every step. So nothing is done per token: each sequence is
looked at only when it needs a block or ends, and a step costs about the same whatever the batch.
No I/O, no clock, no asyncio. `driver` runs it in real time; benchmarks run it on a virtual clock.
"""

from collections import OrderedDict, defaultdict
from random import Random

from igw_sim.adapters import AdapterSlots
from igw_sim.blocks import BlockPool
from igw_sim.model import Fetch, Finished, Limits, Occupancy, Request, Speed, Statistics, StepResult
from igw_sim.sequence import Sequence
from igw_sim.tally import Tally


class Engine:
    """One engine. `speed` may be exchanged between steps. `rng` is used for jitter only."""

    def __init__(self, limits: Limits, speed: Speed, rng: Random) -> None:
        self.limits = limits
        self.speed = speed
        self._rng = rng
        self._pool = BlockPool(limits.kv_blocks)
        self._slots = AdapterSlots(limits.max_adapters)
        self._tally = Tally()
        self._sequences: dict[str, Sequence] = {}
        self._waiting: OrderedDict[str, Sequence] = OrderedDict()
        # Running requests, oldest admission first; each is also in one of the next two.
        self._running: dict[str, Sequence] = {}
        self._prefilling: dict[str, Sequence] = {}
        self._decoding: dict[str, tuple[str, int]] = {}
        # Admitted, and waiting for their KV from another engine; and what that other engine keeps for them.
        self._loading: dict[str, Sequence] = {}
        self._kept: dict[str, tuple[tuple[int, ...], int]] = {}
        self._fetches: list[Fetch] = []
        # The values of `_decoding`; None after a change.
        self._pairs: tuple[tuple[str, int], ...] | None = ()
        # By step number: the decoding sequences that need a block in that step, and those that end with it.
        # Entries of sequences that left meanwhile, or left and came back, are stale and passed over.
        self._growing: defaultdict[int, list[Sequence]] = defaultdict(list)
        self._ending: defaultdict[int, list[Sequence]] = defaultdict(list)
        self._steps = 0
        self._admissions = 0
        # Tokens in the KV cache of all decoding sequences.
        self._context = 0
        # Nobody waiting can be admitted until something is submitted, released or published.
        self._stuck = False
        self._loaded = 0
        self._last_end = 0.0

    @property
    def busy(self) -> bool:
        """Whether a step would do anything. Those that wait for KV, or for room that kept KV takes, need none."""
        return bool(self._running) or (bool(self._waiting) and not self._stuck)

    @property
    def load(self) -> int:
        """What vLLM's own data-parallel balancer compares: running requests plus four times the waiting ones."""
        return len(self._running) + 4 * (len(self._waiting) + len(self._loading))

    @property
    def occupancy(self) -> Occupancy:
        """What a benchmark reads after every step; `statistics` has all the rest and takes longer."""
        waiting = len(self._waiting) + len(self._loading)
        return Occupancy(len(self._running), waiting, self._pool.used, self._tally.generation_tokens)

    def holds(self, block_hashes: tuple[int, ...]) -> int:
        """How many leading blocks of these are here to be reused."""
        return self._pool.match(block_hashes, len(block_hashes))

    def submit(self, request: Request, now: float) -> None:
        """Queue a request. ValueError if it could never be served here, or its id is in use."""
        if request.id in self._sequences or request.id in self._kept:
            raise ValueError(f"request id {request.id!r} is in use")
        if request.prompt_tokens < 1 or request.output_tokens < 1:
            raise ValueError("a request needs at least one prompt token and one output token")
        if request.total_tokens > self.limits.longest:
            raise ValueError(f"{request.total_tokens} tokens exceed the longest sequence, {self.limits.longest}")
        if request.adapter is not None and self.limits.max_adapters < 1:
            raise ValueError("this engine has no adapter slots")
        self._sequences[request.id] = self._waiting[request.id] = Sequence(request, now)
        self._stuck = False

    def cancel(self, request_id: str) -> bool:
        """Drop a request wherever it is; False if it is not here."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return False
        if self._waiting.pop(request_id, None) is None:
            self._leave(sequence)
        self._stuck = False
        self._tally.cancelled += 1
        return True

    def deliver(self, request_id: str, now: float) -> bool:
        """The KV of a `Fetch` has come; False if nobody waits for it any more."""
        sequence = self._loading.pop(request_id, None)
        if sequence is None:
            return False
        hits, sequence.computed, sequence.remote = sequence.computed, sequence.target - 1, False
        self._enter(sequence, hits, now)
        self._publish(sequence, sequence.computed)
        return True

    def release(self, request_id: str) -> bool:
        """Give up the KV kept of a request with `keep_kv` that has ended; False if there is none."""
        kept = self._kept.pop(request_id, None)
        if kept is None:
            return False
        self._pool.release(*kept)
        self._stuck = False
        return True

    def step(self, now: float) -> StepResult:
        """Schedule and run one step that begins at `now`. Without work: an empty result of no duration."""
        if not self.busy:
            return StepResult(0.0)
        preemptions = self._tally.preemptions
        self._loaded = 0
        self._grow_decoding()
        budget = self.limits.max_batched_tokens - len(self._decoding)
        prefill = self._continue_prefills(budget)
        if self._tally.preemptions == preemptions and not self._stuck:
            prefill += self._admit(budget - prefill, now)
        if not prefill and not self._decoding:
            preempted = self._tally.preemptions - preemptions
            return StepResult(0.0, preempted=preempted, fetches=self._take_fetches())
        duration = self._duration(prefill)
        return self._end_step(now + duration, duration, prefill, self._tally.preemptions - preemptions)

    # Scheduling.

    def _grow_decoding(self) -> None:
        """Give a block to each decoding sequence that has filled its last one, oldest first."""
        due = self._growing.pop(self._steps + 1, None)
        if not due:
            return
        due.sort(key=lambda sequence: sequence.order)
        for sequence in due:
            computed = sequence.computed_by(self._steps)
            if not self._decodes(sequence) or computed < sequence.blocks * self.limits.block_tokens:
                continue
            if self._obtain(sequence, sequence.blocks + 1):
                self._publish(sequence, computed)
                self._growing[self._steps + 1 + self.limits.block_tokens].append(sequence)

    def _continue_prefills(self, budget: int) -> int:
        """The next chunk of every prompt begun earlier, oldest first. Returns the tokens used."""
        used = 0
        for sequence in tuple(self._prefilling.values()):
            chunk = min(sequence.target - sequence.computed, budget - used)
            if chunk <= 0:
                break
            if sequence.request.id not in self._prefilling:
                continue
            if self._obtain(sequence, self._blocks_for(sequence.computed + chunk)):
                self._compute(sequence, chunk)
                used += chunk
        return used

    def _admit(self, budget: int, now: float) -> int:
        """Admit from the waiting queue in order; only those short of an adapter slot are passed over."""
        used = 0
        passed: list[Sequence] = []
        while self._waiting and used < budget:
            sequence = next(iter(self._waiting.values()))
            if not self._slots.fits(sequence.request.adapter):
                passed.append(self._waiting.pop(sequence.request.id))
                continue
            full = len(self._running) + len(self._loading) >= self.limits.max_sequences
            chunk = None if full else self._start(sequence, budget - used, now)
            if chunk is None:
                self._stuck = True
                break
            used += chunk
        self._stuck = self._stuck or (bool(passed) and not self._waiting)
        for sequence in reversed(passed):
            self._to_front(sequence)
        return used

    def _start(self, sequence: Sequence, budget: int, now: float) -> int | None:
        """Move a waiting sequence into the batch with its first chunk, of so many tokens; None if it does not fit."""
        size = self.limits.block_tokens
        hashes = sequence.request.block_hashes if self.limits.prefix_cache else ()
        # At least the last token is computed, or there would be nothing to sample from.
        reused = hashes[: self._pool.match(hashes, (sequence.target - 1) // size)]
        cached = len(reused) * size
        chunk = sequence.target - cached if sequence.remote else min(sequence.target - cached, budget)
        fresh = self._blocks_for(cached + chunk) - len(reused)
        if not self._pool.fits(reused, fresh):
            return None
        self._pool.hold(reused)
        self._pool.take(fresh)
        sequence.held, sequence.anonymous, sequence.published = list(reused), fresh, len(reused)
        sequence.computed = cached
        del self._waiting[sequence.request.id]
        self._loaded += self._slots.enter(sequence.request.adapter)
        if sequence.remote:
            self._loading[sequence.request.id] = sequence
            self._fetches.append(Fetch(sequence.request.id, chunk))
            return 0
        self._enter(sequence, cached, now)
        self._compute(sequence, chunk)
        return chunk

    def _enter(self, sequence: Sequence, hits: int, now: float) -> None:
        """Put a sequence with KV for `computed` tokens into the batch; `hits` of them were found in the cache here."""
        request = sequence.request
        self._running[request.id] = self._prefilling[request.id] = sequence
        self._admissions += 1
        sequence.order = self._admissions
        if sequence.admitted_at < 0:
            sequence.admitted_at = now
            sequence.cached_tokens = sequence.computed
            self._tally.admit(request.prompt_tokens, hits)

    def _compute(self, sequence: Sequence, chunk: int) -> None:
        sequence.computed += chunk
        self._publish(sequence, sequence.computed)

    def _publish(self, sequence: Sequence, computed: int) -> None:
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

    def _obtain(self, sequence: Sequence, blocks: int) -> bool:
        """Grow the block table to `blocks`, preempting the youngest as needed; False if it preempted itself."""
        missing = blocks - sequence.blocks
        while not self._pool.take(missing):
            victim = next(reversed(self._running.values()))
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.anonymous += missing
        return True

    def _preempt(self, sequence: Sequence) -> None:
        sequence.emitted = sequence.emitted_by(self._steps)
        self._leave(sequence)
        sequence.preemptions += 1
        # What was emitted is prefilled along with the prompt.
        sequence.target = sequence.request.prompt_tokens + sequence.emitted
        self._to_front(sequence)
        self._tally.preemptions += 1

    def _to_front(self, sequence: Sequence) -> None:
        self._waiting[sequence.request.id] = sequence
        self._waiting.move_to_end(sequence.request.id, last=False)

    def _leave(self, sequence: Sequence) -> None:
        """Take a sequence out of the batch and return its blocks and its adapter slot."""
        self._leave_batch(sequence)
        self._pool.release(sequence.held, sequence.anonymous)
        sequence.vacate()

    def _leave_batch(self, sequence: Sequence) -> None:
        request = sequence.request
        if self._decoding.pop(request.id, None) is not None:
            self._context -= sequence.computed_by(self._steps)
            self._pairs = None
        self._prefilling.pop(request.id, None)
        if self._loading.pop(request.id, None) is None:
            del self._running[request.id]
        self._slots.leave(request.adapter)
        self._stuck = False

    # The end of a step.

    def _duration(self, prefill: int) -> float:
        sequences = len(self._decoding)
        duration = self.speed.step_s(prefill, sequences, self._context + sequences, self._loaded)
        if self.speed.jitter:
            duration *= 1.0 + self.speed.jitter * self._rng.uniform(-1.0, 1.0)
        self._tally.spend(duration, prefill / self.speed.prefill_tokens_per_s)
        return duration

    def _end_step(self, end: float, duration: float, prefill: int, preempted: int) -> StepResult:
        self._steps += 1
        decoded = len(self._decoding)
        self._context += decoded
        if self._pairs is None:
            self._pairs = tuple(self._decoding.values())
        emitted = self._pairs
        if decoded:
            self._tally.observe("itl_s", end - self._last_end, decoded)
        ending = self._ending.pop(self._steps, [])
        first = [sequence for sequence in self._prefilling.values() if sequence.computed == sequence.target]
        for sequence in first:
            self._begin_decoding(sequence, end)
        ending += first
        finished = tuple(self._finish(sequence, end) for sequence in ending if self._ended(sequence))
        self._last_end = end
        self._tally.generation_tokens += decoded + len(first)
        self._tally.observe("step_tokens", prefill + decoded)
        emitted += tuple(sequence.pair for sequence in first)
        return StepResult(duration, emitted, finished, prefill, decoded, preempted, self._take_fetches())

    def _take_fetches(self) -> tuple[Fetch, ...]:
        fetches, self._fetches = tuple(self._fetches), []
        return fetches

    def _begin_decoding(self, sequence: Sequence, end: float) -> None:
        """The prefill is done, and gave one token; from the next step on the sequence decodes."""
        request = sequence.request
        if sequence.first_token_at < 0:
            sequence.first_token_at = end
            self._tally.observe("ttft_s", end - sequence.arrived_at)
        sequence.emitted += 1
        sequence.entered = self._steps
        del self._prefilling[request.id]
        self._decoding[request.id] = sequence.pair
        self._pairs = None
        self._context += sequence.target
        self._growing[self._steps + 1 + -sequence.target % self.limits.block_tokens].append(sequence)
        if sequence.emitted < request.output_tokens:
            self._ending[self._steps + request.output_tokens - sequence.emitted].append(sequence)

    def _finish(self, sequence: Sequence, end: float) -> Finished:
        self._publish(sequence, sequence.computed_by(self._steps))
        if sequence.request.keep_kv:
            self._kept[sequence.request.id] = tuple(sequence.held), sequence.anonymous
            self._leave_batch(sequence)
        else:
            self._leave(sequence)
        del self._sequences[sequence.request.id]
        finished = sequence.finished(end)
        self._tally.finish(finished, sequence.request.finish_reason)
        return finished

    # What is known.

    def _decodes(self, sequence: Sequence) -> bool:
        return sequence.entered >= 0 and self._running.get(sequence.request.id) is sequence

    def _ended(self, sequence: Sequence) -> bool:
        return self._decodes(sequence) and sequence.emitted_by(self._steps) == sequence.request.output_tokens

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_tokens)

    def statistics(self) -> Statistics:
        """A reading of everything, as of the end of the last step."""
        waiting_adapters = [s.request.adapter for s in self._waiting.values() if s.request.adapter is not None]
        tally = self._tally
        return Statistics(
            running=len(self._running),
            waiting=len(self._waiting) + len(self._loading),
            waiting_for_adapter=sum(not self._slots.fits(adapter) for adapter in waiting_adapters),
            decoding=len(self._decoding),
            kv_used_blocks=self._pool.used,
            kv_total_blocks=self._pool.total,
            kv_cached_blocks=self._pool.cached,
            prefix_hit_tokens=tally.prefix_hit_tokens,
            prefix_query_tokens=tally.prefix_query_tokens,
            prompt_tokens=tally.prompt_tokens,
            generation_tokens=tally.generation_tokens,
            preemptions=tally.preemptions,
            finished=dict(tally.finished),
            cancelled=tally.cancelled,
            steps=self._steps,
            prefill_s=tally.prefill_s,
            decode_s=tally.decode_s,
            running_adapters=self._slots.running,
            waiting_adapters=tuple(dict.fromkeys(waiting_adapters)),
            histograms=tally.histograms(),
            loading=len(self._loading),
            kept=len(self._kept),
        )
