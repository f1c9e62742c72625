"""The offline benchmark: nothing is lost or invented, the clock is its only time, and its placers see what they may."""

from dataclasses import replace
from functools import cache
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igw_bench.offline import HOP, TRIES, Outcome, Record
from igw_bench.policies import NAMES, simulate
from igw_bench.workloads import Change, Job, Workload, decode_heavy, shared_prefixes
from igw_sim.model import Limits, Speed
from igw_sim.presets import Preset

SMALL = Preset(Limits(kv_blocks=60, max_sequences=8, max_batched_tokens=256), Speed(2_000, 0.01, 0.001, 1e-5))
BLOCK = SMALL.limits.block_tokens


def closed(count: int = 120, clients: int = 12, engines: int = 3, changes: tuple[Change, ...] = ()) -> Workload:
    rng = Random(5)
    jobs = tuple(Job(number, rng.randint(4, 300), rng.randint(1, 120)) for number in range(count))
    return Workload("closed", (SMALL,) * engines, jobs, clients=clients, changes=changes)


def opened(rate: float, count: int = 200, changes: tuple[Change, ...] = ()) -> Workload:
    jobs = tuple(Job(number, 100, 30) for number in range(count))
    arrivals = tuple(number / rate for number in range(count))
    return Workload("open", (SMALL,) * 3, jobs, arrivals=arrivals, changes=changes)


def share(records: list[Record], endpoint: int, begin: float, end: float) -> float:
    sent = [record for record in records if begin <= record.sent_at < end]
    return sum(record.endpoint == endpoint for record in sent) / len(sent)


def told(outcome: Outcome) -> list[tuple[float, ...]]:
    return [(one.job.number, one.endpoint, one.sent_at, one.first_at, one.ended_at) for one in outcome.records]


@pytest.mark.parametrize("policy", NAMES)
def test_the_same_seed_gives_the_same_run(policy: str) -> None:
    workload = shared_prefixes("some", 40.0, 0.3, Random(1), seconds=1.0)
    assert told(simulate(workload, policy, 1)) == told(simulate(workload, policy, 1))


@pytest.mark.parametrize("policy", NAMES)
def test_every_request_ends_once_with_all_its_tokens_and_in_order(policy: str) -> None:
    outcome = simulate(closed(), policy, 1)
    assert sorted(record.job.number for record in outcome.records) == list(range(120))
    for record in outcome.records:
        assert not record.failed
        assert record.sent_at + HOP < record.first_at <= record.ended_at
        assert (record.job.output_tokens == 1) == (record.first_at == record.ended_at)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 60), clients=st.integers(1, 20), engines=st.integers(1, 4), policy=st.sampled_from(NAMES))
def test_neither_the_cache_nor_the_clients_are_ever_exceeded(
    count: int, clients: int, engines: int, policy: str
) -> None:
    outcome = simulate(closed(count, clients, engines), policy, 1)
    assert all(0.0 <= fullest <= 1.0 for fullest in outcome.fullest)
    assert outcome.most_in_flight == min(count, clients)
    assert len(outcome.records) == count


def test_an_open_loop_sends_when_it_is_time_however_slow_the_answers() -> None:
    workload = opened(rate=200.0)
    sent = [record.sent_at for record in simulate(workload, "round-robin", 1).records]
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    assert gaps == pytest.approx([1 / 200.0] * 199)


def test_round_robin_takes_turns() -> None:
    records = simulate(opened(rate=10.0), "round-robin", 1).records
    assert [record.endpoint for record in records[:6]] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("policy", [name for name in NAMES if name != "round-robin"])
def test_a_slowed_endpoint_gets_less(policy: str) -> None:
    records = simulate(opened(rate=15.0, changes=(Change(4.0, 1, 3.0),)), policy, 1).records
    assert share(records, 1, 6.0, 13.0) < 0.75 * share(records, 1, 0.0, 4.0)


def test_round_robin_sends_a_slowed_endpoint_as_much_as_before() -> None:
    records = simulate(opened(rate=15.0, changes=(Change(4.0, 1, 3.0),)), "round-robin", 1).records
    assert share(records, 1, 6.0, 13.0) == pytest.approx(1 / 3, abs=0.02)


@cache
def after_a_death(policy: str) -> list[Record]:
    return simulate(opened(rate=15.0, changes=(Change(4.0, 1, None), Change(8.0, 1, 1.0))), policy, 1).records


@pytest.mark.parametrize("policy", NAMES)
def test_a_dead_endpoint_costs_only_the_answers_that_it_had_begun(policy: str) -> None:
    """Those waiting there, and those sent before it was noticed, are answered by another."""
    records = after_a_death(policy)
    failed = [record for record in records if record.failed]
    assert all(record.endpoint == 1 and record.first_at < 4.0 == record.ended_at for record in failed)
    assert all(1 <= record.tries <= TRIES for record in records)
    assert share(records, 1, 4.5, 8.0) == 0.0


@pytest.mark.parametrize("policy", NAMES)
def test_an_endpoint_that_comes_back_is_used_again(policy: str) -> None:
    assert share(after_a_death(policy), 1, 9.5, 13.0) > 0.1


def test_with_nobody_alive_requests_fail_and_the_run_ends() -> None:
    workload = closed(count=30, clients=3, engines=1, changes=(Change(0.5, 0, None),))
    outcome = simulate(workload, "prefix-cache", 1)
    assert len(outcome.records) == 30
    assert outcome.records[-1].failed


@pytest.mark.parametrize("policy", ["prefix-cache", "reference", "sglang", "dynamo", "aibrix"])
def test_who_follows_prefixes_finds_more_of_them_than_round_robin(policy: str) -> None:
    assert cached(policy) > 1.05 * cached("round-robin")


@cache
def cached(policy: str) -> int:
    outcome = simulate(shared_prefixes("some", 20.0, 0.3, Random(1), seconds=8.0), policy, 1)
    return sum(record.cached_tokens for record in outcome.records)


def test_a_faster_engine_changes_the_times_and_nothing_else_under_round_robin() -> None:
    """Twice the speed halves what does not wait for the network: the clock is the model's, not the machine's."""
    slow, fast = closed(count=12, clients=1), closed(count=12, clients=1)
    fast = replace(fast, fleet=tuple(Preset(one.limits, one.speed.faster(2.0)) for one in fast.fleet))
    took = [_served(simulate(workload, "round-robin", 1)) for workload in (slow, fast)]
    assert took[0] == pytest.approx([2 * seconds for seconds in took[1]])


def _served(outcome: Outcome) -> list[float]:
    return [record.ended_at - record.sent_at - HOP for record in outcome.records]


def test_ten_thousand_requests_need_no_ten_thousand_steps_each() -> None:
    """A batch decodes together: the steps of workload A in small are far fewer than its tokens."""
    workload = decode_heavy(Random(1), count=300, clients=100)
    outcome = simulate(workload, "prefix-cache", 1)
    assert outcome.steps < sum(job.output_tokens for job in workload.jobs) / 10
