"""Whatever is asked of the simulated engine: nothing is lost, and it does what a plain, slow engine does."""

from collections import Counter
from dataclasses import dataclass
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from igw_sim.engine import Engine
from igw_sim.model import Limits, Request, Speed

BLOCK = 4
SPEED = Speed(prefill_tokens_per_s=1000, decode_step_s=0.01)

limits = st.builds(
    lambda kv_blocks, sequences, spare, adapters: Limits(
        kv_blocks=kv_blocks,
        block_tokens=BLOCK,
        max_sequences=sequences,
        max_batched_tokens=sequences + spare,
        max_adapters=adapters,
    ),
    st.integers(8, 24),
    st.integers(1, 6),
    st.integers(0, 20),
    st.integers(1, 2),
)


def build(number: int, prompt: int, output: int, family: int, adapter: str | None) -> Request:
    hashes = tuple(hash((family, adapter, block)) for block in range((prompt + output) // BLOCK))
    return Request(str(number), prompt, output, hashes, adapter)


requests = st.lists(
    st.tuples(st.integers(1, 20), st.integers(1, 12), st.integers(0, 2), st.sampled_from([None, "x", "y", "z"])),
    min_size=1,
    max_size=12,
).map(lambda items: [build(number, *item) for number, item in enumerate(items)])

# What happens before each step: how many requests arrive, and which earlier one is cancelled, if any.
schedule = st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 11)), max_size=60)


@settings(max_examples=300, deadline=None)
@given(limits, requests, schedule)
def test_every_request_ends_with_exactly_its_tokens_or_is_cancelled(
    sizes: Limits, arriving: list[Request], happening: list[tuple[int, int | None]]
) -> None:
    subject = Engine(sizes, SPEED, Random(0))
    pending = list(arriving)
    tokens: Counter[str] = Counter()
    finished: set[str] = set()
    cancelled: set[str] = set()
    for _ in range(2000):
        arrivals, victim = happening.pop(0) if happening else (len(pending), None)
        for _ in range(min(arrivals, len(pending))):
            subject.submit(pending.pop(0), 0.0)
        if victim is not None and subject.cancel(str(victim)):
            cancelled.add(str(victim))
        before = subject.statistics()
        result = subject.step(0.0)
        for name, count in result.emitted:
            assert name not in finished | cancelled
            tokens[name] += count
        finished |= {one.id for one in result.finished}
        after = subject.statistics()
        assert after.kv_used_blocks <= after.kv_total_blocks
        assert after.kv_cached_blocks <= after.kv_total_blocks
        assert after.running <= sizes.max_sequences
        assert len(after.running_adapters) <= sizes.max_adapters
        assert result.prefill_tokens + result.decode_sequences <= sizes.max_batched_tokens
        if before.running + before.waiting:
            assert result.emitted or result.prefill_tokens, "a step with work in it gets nowhere"
        if not pending and not subject.busy:
            break
    assert finished | cancelled == {request.id for request in arriving}
    assert not finished & cancelled
    for request in arriving:
        if request.id in finished:
            assert tokens[request.id] == request.output_tokens
    last = subject.statistics()
    assert (last.kv_used_blocks, last.running, last.waiting, last.running_adapters) == (0, 0, 0, ())
    assert last.succeeded == len(finished)
    assert last.generation_tokens == sum(tokens.values())


@settings(max_examples=200, deadline=None)
@given(limits, requests)
def test_first_tokens_come_in_the_order_of_arrival(sizes: Limits, arriving: list[Request]) -> None:
    """Without adapters nobody is passed over, whatever is preempted later."""
    subject = Engine(sizes, SPEED, Random(0))
    for request in arriving:
        subject.submit(Request(request.id, request.prompt_tokens, request.output_tokens, request.block_hashes), 0.0)
    first: list[str] = []
    now = 0.0
    while subject.busy:
        result = subject.step(now)
        now += result.duration
        first += [name for name, _ in result.emitted if name not in first]
    admitted = [int(name) for name in first]
    assert admitted == sorted(admitted)


@dataclass(eq=False)
class Plain:
    """A request of the plain engine."""

    request: Request
    emitted: int = 0
    computed: int = 0
    target: int = 0
    blocks: int = 0

    @property
    def decoding(self) -> bool:
        return self.computed >= self.target


class PlainEngine:
    """The same rules, token by token, without prefix cache and adapters. Slow, and simple enough to be believed."""

    def __init__(self, sizes: Limits, arriving: list[Request]) -> None:
        self.sizes = sizes
        self.waiting = [Plain(request, target=request.prompt_tokens) for request in arriving]
        self.running: list[Plain] = []
        self.preempted = 0

    def used(self) -> int:
        return sum(one.blocks for one in self.running)

    def grow(self, one: Plain, computed: int) -> bool:
        needed = -(-computed // BLOCK)
        while self.used() - one.blocks + needed > self.sizes.kv_blocks:
            victim = self.running.pop()
            victim.target = victim.request.prompt_tokens + victim.emitted
            victim.computed = victim.blocks = 0
            self.waiting.insert(0, victim)
            self.preempted += 1
            if victim is one:
                return False
        one.blocks = needed
        return True

    def step(self) -> Counter[str]:
        preempted = self.preempted
        for one in [one for one in self.running if one.decoding]:
            if one in self.running:
                self.grow(one, one.computed + 1)
        decoding = [one for one in self.running if one.decoding]
        budget = self.prefill(self.sizes.max_batched_tokens - len(decoding))
        if self.preempted == preempted:
            self.admit(budget)
        for one in decoding:
            one.computed += one in self.running
        return self.emit(decoding)

    def prefill(self, budget: int) -> int:
        for one in [one for one in self.running if not one.decoding]:
            chunk = min(one.target - one.computed, budget)
            if one in self.running and chunk and self.grow(one, one.computed + chunk):
                one.computed += chunk
                budget -= chunk
        return budget

    def admit(self, budget: int) -> None:
        while self.waiting and budget and len(self.running) < self.sizes.max_sequences:
            chunk = min(self.waiting[0].target, budget)
            if self.used() - (-chunk // BLOCK) > self.sizes.kv_blocks:
                break
            one = self.waiting.pop(0)
            self.running.append(one)
            self.grow(one, chunk)
            one.computed = chunk
            budget -= chunk

    def emit(self, decoding: list[Plain]) -> Counter[str]:
        emitted: Counter[str] = Counter()
        for one in [one for one in self.running if one.decoding or one in decoding]:
            one.emitted += 1
            emitted[one.request.id] += 1
            if one.emitted == one.request.output_tokens:
                self.running.remove(one)
        return emitted


@settings(max_examples=300, deadline=None)
@given(limits, requests)
def test_it_schedules_as_an_engine_that_looks_at_every_token(sizes: Limits, arriving: list[Request]) -> None:
    bare = [Request(request.id, request.prompt_tokens, request.output_tokens) for request in arriving]
    subject = Engine(sizes, SPEED, Random(0))
    plain = PlainEngine(sizes, bare)
    for request in bare:
        subject.submit(request, 0.0)
    while subject.busy:
        result = subject.step(0.0)
        assert Counter(dict(result.emitted)) == plain.step()
        statistics = subject.statistics()
        assert statistics.kv_used_blocks == plain.used()
        assert statistics.preemptions == plain.preempted
        assert (statistics.running, statistics.waiting) == (len(plain.running), len(plain.waiting))
    assert not plain.running
    assert not plain.waiting
