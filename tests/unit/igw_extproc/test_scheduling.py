"""The placement step: who may be chosen, in which order, on which state."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.domain import Ask, Endpoint, EngineKind, EngineLoad
from igw_extproc.inflight import STALE_AFTER, Ledger
from igw_extproc.ledgers import Ledgers
from igw_extproc.scheduling.filters import candidates
from igw_extproc.scheduling.framework import Scheduler
from igw_extproc.scheduling.pickers import cheapest
from igw_extproc.scheduling.policies import POLICIES
from igw_extproc.scheduling.prefix import PrefixIndex

ASK = Ask("llama", 100, 100)
IDLE = EngineLoad(EngineKind.VLLM, kv_usage=0.0, kv_capacity_tokens=100_000)
BUSY = EngineLoad(EngineKind.VLLM, running=5, kv_usage=0.1, kv_capacity_tokens=100_000)


def ledgers(count: int, load: EngineLoad = IDLE) -> list[Ledger]:
    table = Ledgers()
    table.sync([Endpoint(f"10.0.0.{at}:8000") for at in range(count)])
    for ledger in table:
        ledger.scraped(ledger.scrape_started(), load, 0.0)
    return list(table)


def a_scheduler(policy: str = "least-request") -> Scheduler:
    return Scheduler(POLICIES[policy], PrefixIndex())


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_without_candidates_nothing_is_decided(policy: str) -> None:
    assert a_scheduler(policy).pick([], ASK, 0.0, random.Random(1)) is None


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_one_candidate_is_chosen_and_there_is_no_fallback(policy: str) -> None:
    only = ledgers(1)
    decision = a_scheduler(policy).pick(only, ASK, 0.0, random.Random(1))
    assert decision is not None
    assert decision.order == (only[0],)


def test_only_available_endpoints_are_candidates() -> None:
    known = ledgers(3)
    known[1].unreachable("timeout")
    assert candidates(known) == [known[0], known[2]]


def test_a_subset_of_the_proxy_is_kept_to_and_never_widened() -> None:
    known = ledgers(3)
    known[1].unreachable("refused")
    assert candidates(known, {"10.0.0.1:8000", "10.0.0.2:8000"}) == [known[2]]
    assert candidates(known, {"10.0.0.1:8000", "10.9.9.9:8000"}) == []


def test_the_order_is_the_choice_and_two_fallbacks_best_first() -> None:
    known = ledgers(5)
    for requests, ledger in zip([4, 1, 3, 0, 2], known, strict=True):
        for _ in range(requests):
            ledger.reserve(ASK, 0, 0.0)
    decision = a_scheduler().pick(known, ASK, 0.0, random.Random(1))
    assert decision is not None
    assert decision.order == (known[3], known[1], known[4])


def test_the_reservation_is_made_before_the_decision_is_returned() -> None:
    known = ledgers(2)
    decision = a_scheduler().pick(known, ASK, 0.0, random.Random(1))
    assert decision is not None
    assert decision.order[0].requests == 1
    decision.lease.close(1.0)
    assert decision.order[0].requests == 0


def test_a_decision_keeps_what_was_weighed() -> None:
    known, scheduler = ledgers(2), a_scheduler()
    first = scheduler.pick(known, ASK, 0.0, random.Random(1))
    second = scheduler.pick(known, ASK, 0.0, random.Random(1))
    assert first is not None
    assert second is not None
    assert [list(one.costs) for one in first.weighed] == [[0.0, 0.0]]
    assert sorted(second.weighed[0].costs) == [0.0, 1.0]
    assert list(second.weighed[0].candidates) == known


def test_an_engine_whose_idle_word_is_too_old_is_not_preferred_for_it() -> None:
    """It was empty when it last spoke, and has been given five requests that it did not count."""
    silent, fresh = ledgers(2)
    for _ in range(5):
        silent.reserve(ASK, 0, 0.0)
    silent.scraped(silent.scrape_started(), IDLE, 0.0)
    later = STALE_AFTER + 1.0
    fresh.scraped(fresh.scrape_started(), EngineLoad(EngineKind.VLLM, running=3, kv_usage=0.1), later)
    decision = a_scheduler().pick([silent, fresh], ASK, later, random.Random(1))
    assert decision is not None
    assert decision.order == (fresh, silent)


def test_ties_go_to_the_endpoint_with_fewer_of_our_requests() -> None:
    known = ledgers(3)
    for ledger in known[:2]:
        ledger.reserve(ASK, 0, 0.0)
    assert cheapest(known, [7.0, 7.0, 7.0], 0, random.Random(1))[0] == 2


def test_equal_endpoints_are_drawn_at_random_in_every_rank() -> None:
    known, rng = ledgers(6), random.Random(1)
    ranks = [Counter[int]() for _ in range(3)]
    for _ in range(300):
        for rank, at in zip(ranks, cheapest(known, [1.0] * 6, 0, rng), strict=True):
            rank[at] += 1
    assert all(rank[at] > 20 for rank in ranks for at in range(6))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=40), st.integers(0, 99))
def test_the_three_cheapest_are_what_sorting_all_would_give(given_: list[tuple[int, int]], number: int) -> None:
    known = ledgers(len(given_))
    for ledger, (_, requests) in zip(known, given_, strict=True):
        ledger.requests = requests
    costs = [float(cost) for cost, _ in given_]
    order = cheapest(known, costs, 0, random.Random(number))
    assert [given_[at] for at in order] == sorted(given_)[:3]
    assert len(set(order)) == len(order)


def test_changing_the_policy_keeps_what_was_learnt() -> None:
    index = PrefixIndex()
    known = ledgers(4, BUSY)
    ask = Ask("llama", 640, 10, tuple((at, at * 64) for at in range(1, 11)))
    first = Scheduler(POLICIES["prefix-cache"], index).pick(known, ask, 0.0, random.Random(1))
    assert first is not None
    first.lease.close(1.0)
    again = Scheduler(POLICIES["prefix-cache"], index).pick(known, ask, 1.0, random.Random(2))
    assert again is not None
    assert (again.order[0], again.cached_tokens) == (first.order[0], 640)
