"""What each policy prefers, and that simultaneous arrivals do not herd."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igw_extproc.domain import Ask, Endpoint, EngineKind, EngineLoad
from igw_extproc.inflight import Ledger
from igw_extproc.ledgers import Ledgers
from igw_extproc.scheduling.filters import candidates
from igw_extproc.scheduling.framework import Decision, Scheduler
from igw_extproc.scheduling.policies import DEFAULT, POLICIES
from igw_extproc.scheduling.prefix import PrefixIndex, chain, seed

COMPARING = ["prefix-cache", "llm-metric", "least-request", "least-token"]


class Pool:
    """Engines of 100,000 KV tokens each, a policy, and a clock that stands still."""

    def __init__(self, policy: str, *loads: EngineLoad) -> None:
        self.index = PrefixIndex()
        self.ledgers = Ledgers(self.index.forget)
        self.ledgers.sync([Endpoint(f"10.0.0.{at}:8000") for at in range(len(loads))])
        for ledger, load in zip(self.ledgers, loads, strict=True):
            ledger.scraped(ledger.scrape_started(), load, 0.0)
        self.scheduler = Scheduler(POLICIES[policy], self.index)
        self.rng = random.Random(1)

    def __getitem__(self, at: int) -> Ledger:
        return list(self.ledgers)[at]

    def pick(self, ask: Ask) -> Decision:
        decision = self.scheduler.pick(candidates(self.ledgers), ask, 1.0, self.rng)
        assert decision is not None
        return decision

    def chosen(self, ask: Ask) -> int:
        return self.pick(ask).order[0].slot


def a_load(
    running: float = 0, waiting: float = 0, kv: float = 0.0, adapters: str = "", places: int | None = None
) -> EngineLoad:
    return EngineLoad(
        EngineKind.VLLM,
        running=running,
        waiting=waiting,
        kv_usage=kv,
        kv_capacity_tokens=100_000,
        max_adapters=places,
        running_adapters=frozenset(adapters.split()),
    )


def an_ask(prompt: int = 1_000, output: int = 200, word: str = "", adapter: str | None = None) -> Ask:
    """With a `word`, its prompt is that word over and over; without, it has no prompt that we can read."""
    said = (word * prompt * 4)[: prompt * 4].encode()
    return Ask("llama", prompt, output, chain(said, seed("llama")), adapter)


def test_every_promised_policy_is_there_by_its_name() -> None:
    names = {"prefix-cache", "llm-metric", "least-request", "least-token", "round-robin", "random"}
    assert set(POLICIES) == names | {"llm-metric-based"}
    assert POLICIES["llm-metric-based"] is POLICIES["llm-metric"]
    assert DEFAULT == "prefix-cache"


@pytest.mark.parametrize("policy", COMPARING)
@pytest.mark.parametrize("arrivals", [1, 7, 8, 20, 64])
def test_simultaneous_arrivals_spread_evenly_over_idle_engines(policy: str, arrivals: int) -> None:
    """One state seen by all of a burst would send it all to one engine."""
    pool = Pool(policy, *[a_load()] * 8)
    taken = Counter(pool.chosen(an_ask()) for _ in range(arrivals))
    counts = [taken[slot] for slot in range(8)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("policy", COMPARING)
def test_an_idle_newcomer_does_not_take_more_than_its_share(policy: str) -> None:
    """An engine with nothing on it is cheap only until what was reserved there weighs as much as elsewhere."""
    pool = Pool(policy, *[a_load(running=10, kv=0.12)] * 3, a_load())
    taken = Counter(pool.chosen(an_ask()) for _ in range(60))
    assert 15 < taken[3] < 30
    assert min(taken.values()) >= 8


@pytest.mark.parametrize("policy", COMPARING)
def test_idle_engines_are_chosen_at_random_not_in_list_order(policy: str) -> None:
    """A peer always takes the same idle replica at low concurrency."""
    pool = Pool(policy, *[a_load()] * 4)
    taken: Counter[int] = Counter()
    for _ in range(200):
        decision = pool.pick(an_ask())
        taken[decision.order[0].slot] += 1
        decision.lease.close(1.0)
    assert all(taken[slot] > 20 for slot in range(4))


@pytest.mark.parametrize("policy", COMPARING)
def test_a_busy_engine_is_avoided(policy: str) -> None:
    assert Pool(policy, a_load(running=20, waiting=5, kv=0.9), a_load(running=2, kv=0.1)).chosen(an_ask()) == 1


def test_least_request_counts_requests_whatever_their_size() -> None:
    assert Pool("least-request", a_load(running=3, kv=0.1), a_load(running=2, kv=0.9)).chosen(an_ask()) == 1


def test_least_token_counts_tokens_whatever_their_requests() -> None:
    assert Pool("least-token", a_load(running=30, kv=0.1), a_load(running=2, kv=0.3)).chosen(an_ask()) == 0


def test_llm_metric_avoids_a_queue() -> None:
    assert Pool("llm-metric", a_load(running=5, waiting=4, kv=0.3), a_load(running=9, kv=0.3)).chosen(an_ask()) == 1


@pytest.mark.parametrize("policy", ["llm-metric", "prefix-cache"])
def test_a_prompt_goes_where_it_fits(policy: str) -> None:
    """The emptier engine in tokens is the smaller one, and has no room."""
    small = EngineLoad(EngineKind.VLLM, kv_usage=0.0, kv_capacity_tokens=4_000)
    pool = Pool(policy, small, a_load(running=10, kv=0.2))
    assert pool.chosen(an_ask(prompt=100)) == 0
    assert pool.chosen(an_ask(prompt=12_000)) == 1


def test_round_robin_takes_engines_in_turn_whatever_their_load() -> None:
    pool = Pool("round-robin", a_load(running=90), a_load(), a_load())
    assert [pool.chosen(an_ask()) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_random_takes_any_engine_whatever_its_load() -> None:
    pool = Pool("random", a_load(running=90), a_load(), a_load())
    taken = Counter(pool.chosen(an_ask()) for _ in range(300))
    assert all(taken[slot] > 60 for slot in range(3))


def test_a_prompt_follows_its_prefix_before_and_after_the_answer() -> None:
    pool = Pool("prefix-cache", *[a_load()] * 5)
    first = pool.pick(an_ask(word="tenant one "))
    burst = pool.pick(an_ask(word="tenant one "))
    first.lease.first_byte(1.0)
    first.lease.close(1.0)
    later = pool.pick(an_ask(word="tenant one "))
    assert first.order[0] is burst.order[0] is later.order[0]
    assert (first.cached_tokens, later.cached_tokens) == (0, 960)


def test_another_prefix_goes_elsewhere() -> None:
    pool = Pool("prefix-cache", *[a_load()] * 5)
    assert pool.chosen(an_ask(word="tenant one ")) != pool.chosen(an_ask(word="tenant two "))


def test_a_prefix_is_not_learnt_from_an_engine_that_failed() -> None:
    pool = Pool("prefix-cache", *[a_load()] * 5)
    pool.pick(an_ask(word="tenant one ")).lease.close(1.0, succeeded=False)
    assert len(pool.index) == 0


def test_a_retried_request_teaches_about_the_engine_that_served_it() -> None:
    pool = Pool("prefix-cache", *[a_load()] * 3)
    decision = pool.pick(an_ask(word="tenant one "))
    served = decision.order[1]
    decision.lease.moved_to(served)
    decision.lease.first_byte(1.0)
    assert pool.pick(an_ask(word="tenant one ")).order[0] is served


def test_a_hot_prefix_spreads_before_it_drowns_its_engine() -> None:
    """Peers with a fixed owner for each prefix send everything to it."""
    pool = Pool("prefix-cache", *[a_load()] * 4)
    taken = Counter(pool.chosen(an_ask(word="everybody ")) for _ in range(200))
    assert len(taken) == 4
    assert max(taken.values()) <= 80


def test_little_load_does_not_break_affinity() -> None:
    pool = Pool("prefix-cache", *[a_load()] * 4)
    home = pool.chosen(an_ask(prompt=6_000, word="tenant one "))
    pool[home].scraped(pool[home].scrape_started(), a_load(running=8, kv=0.3), 1.0)
    assert pool.chosen(an_ask(prompt=6_000, word="tenant one ")) == home


def test_an_engine_that_runs_the_adapter_is_preferred_then_one_with_room_for_it() -> None:
    full, room, runs = a_load(adapters="a b", places=2), a_load(adapters="a", places=2), a_load(4, 0, 0.01, "sql", 2)
    assert Pool("prefix-cache", full, room, runs).chosen(an_ask(adapter="sql")) == 2
    assert Pool("prefix-cache", full, room, full).chosen(an_ask(adapter="sql")) == 1


def test_a_burst_for_one_adapter_goes_together() -> None:
    """The first request loads it; the engine has not yet said so when the next ones come."""
    pool = Pool("llm-metric", *[a_load(places=4)] * 4)
    assert len({pool.chosen(an_ask(prompt=10, output=10, adapter="sql")) for _ in range(5)}) == 1


def test_an_adapter_does_not_outweigh_an_engine_that_is_full() -> None:
    drowned = a_load(running=200, waiting=100, kv=1.0, adapters="sql", places=2)
    assert Pool("prefix-cache", drowned, a_load(places=2)).chosen(an_ask(adapter="sql")) == 1


@settings(max_examples=150)
@given(
    st.sampled_from(sorted(POLICIES)),
    st.lists(st.tuples(st.floats(0, 300), st.floats(0, 300), st.floats(0, 1)), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 50_000), st.integers(0, 5_000), st.sampled_from("abc")), max_size=12),
)
def test_any_policy_reserves_exactly_once_at_one_of_the_candidates(
    policy: str, loads: list[tuple[float, float, float]], asks: list[tuple[int, int, str]]
) -> None:
    pool = Pool(policy, *[a_load(*load) for load in loads])
    for number, (prompt, output, word) in enumerate(asks, 1):
        decision = pool.pick(an_ask(prompt, output, word, adapter=word if prompt % 2 else None))
        assert len(set(decision.order)) == len(decision.order) == min(3, len(loads))
        assert decision.lease.ledger is decision.order[0]
        assert 0 <= decision.cached_tokens <= prompt
        assert sum(ledger.requests for ledger in pool.ledgers) == number
