"""The other routers' rules: each does what its description says, on endpoints made up for it."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_bench.peers import PEERS, Rule, Seen, Table, Theirs, aibrix, dynamo, reference_picker, sglang
from igw_bench.workloads import Job, Workload
from igw_extproc.domain import EngineKind, EngineLoad
from igw_sim.presets import PRESETS

BLOCK = 16
JOB = Job(0, 1_600, 100, blocks=tuple(range(106)))


def chosen(rule: Rule, seen: list[Seen], matched: list[int] | None = None, job: Job = JOB) -> int:
    costs = rule(seen, matched or [0] * len(seen), job, BLOCK)
    return costs.index(min(costs))


def busy(*requests: int) -> list[Seen]:
    return [Seen(available=True, requests=count) for count in requests]


# ------------------------------------------------------------------------------------------------ rules


def test_the_reference_picker_adds_two_for_the_queue_two_for_free_kv_and_three_for_the_prefix() -> None:
    seen = [Seen(waiting=4, kv_usage=0.5), Seen(waiting=0, kv_usage=0.9)]
    # 2 x 0 + 2 x 0.5 + 3 x 0.5, and 2 x 1 + 2 x 0.1.
    assert reference_picker(seen, [50, 0], JOB, BLOCK) == pytest.approx([-2.5, -2.2])


def test_for_the_reference_picker_one_waiting_request_spans_the_whole_range() -> None:
    """Its queue term is relative: 0 against 1 counts as much as 0 against 100."""
    assert chosen(reference_picker, [Seen(waiting=1, kv_usage=0.0), Seen(waiting=0, kv_usage=0.99)]) == 1


def test_the_reference_picker_sees_nothing_behind_its_first_4096_tokens() -> None:
    job = Job(0, 6_400, 100, blocks=tuple(range(400)))
    assert reference_picker(busy(0), [256], job, BLOCK) == pytest.approx([-2.0 - 2.0 - 3.0])


def test_sglang_follows_the_longest_match_above_thirty_percent_however_busy() -> None:
    assert chosen(sglang, busy(60, 0), [31, 0]) == 0


def test_sglang_takes_the_least_busy_when_the_match_is_short() -> None:
    assert chosen(sglang, busy(60, 0), [30, 0]) == 1


def test_sglang_takes_the_least_busy_when_out_of_balance_by_both_measures() -> None:
    assert chosen(sglang, busy(70, 5), [100, 0]) == 1
    assert chosen(sglang, busy(200, 135), [100, 0]) == 0


def test_dynamo_weighs_prompt_to_compute_and_blocks_in_use_alike() -> None:
    held = Seen(prefill_tokens=160)
    held.active.update(range(50))
    # 10 + 100 - 50 blocks to compute and 50 + 50 in use; then 100 and 100.
    assert dynamo([held, Seen()], [50, 0], JOB, BLOCK) == pytest.approx([160.0, 200.0])


def test_dynamo_counts_blocks_without_a_hash_too() -> None:
    assert dynamo([Seen(unshared=7)], [0], Job(0, 160, 1), BLOCK) == pytest.approx([10.0 + 7.0 + 10.0])


def test_aibrix_takes_the_longest_match_that_is_not_above_the_mean_and_a_deviation() -> None:
    assert chosen(aibrix, busy(5, 3, 4), [100, 50, 0]) == 1
    assert chosen(aibrix, busy(4, 3, 4), [100, 50, 0]) == 0


def test_aibrix_looks_only_at_the_least_busy_when_requests_differ_by_more_than_eight() -> None:
    assert chosen(aibrix, busy(9, 0, 0), [100, 0, 50]) == 2


@pytest.mark.parametrize("rule", [sglang, aibrix])
def test_without_a_match_the_least_busy_gets_it(rule: Rule) -> None:
    assert chosen(rule, busy(3, 2, 5)) == 1


# ------------------------------------------------------------------------------------------------ what is kept


def test_a_table_tells_how_far_each_endpoint_has_seen_the_prompt() -> None:
    table = Table(3, 100)
    table.add(0, (1, 2, 3))
    table.add(2, (1, 2, 9))
    assert table.match((1, 2, 3, 4)) == [3, 0, 2]


def test_a_full_table_forgets_ends_of_prompts_before_beginnings() -> None:
    table = Table(1, 4)
    table.add(0, (1, 2, 3))
    table.add(0, (7, 8))
    assert table.match((1, 2, 3)) == [2]
    assert table.match((7, 8)) == [2]


def test_what_a_dead_endpoint_held_is_forgotten() -> None:
    table = Table(2, 100)
    table.add(0, (1, 2))
    table.add(1, (1,))
    table.forget(0)
    assert table.match((1, 2)) == [0, 1]


WORKLOAD = Workload("some", (PRESETS["tiny"],) * 3, (JOB,))
IDLE = EngineLoad(EngineKind.VLLM, kv_usage=0.0)


def router(name: str) -> Theirs:
    made = Theirs(PEERS[name], WORKLOAD, Random(1), lambda endpoint, blocks: 0)
    for endpoint in range(3):
        made.scraped(endpoint, made.scrape_started(endpoint), IDLE, 0.0)
    return made


@pytest.mark.parametrize("name", PEERS)
@given(rng=st.randoms(use_true_random=False))
def test_when_all_has_ended_nothing_is_in_flight(name: str, rng: Random) -> None:
    """First bytes and retries or none, ends in any order."""
    made = router(name)
    jobs = [Job(number, 160, 10, blocks=(1, 2, number + 10)) for number in range(12)]
    for job in jobs:
        made.place(job, 0.0)
    for job in rng.sample(jobs, 5):
        made.moved(job, rng.randrange(3))
    for job in rng.sample(jobs, 5):
        made.first_byte(job, 1.0)
    for job in rng.sample(jobs, 12):
        made.ended(job, 2.0, True)
    assert made.seen == [Seen(available=True)] * 3


@pytest.mark.parametrize("name", PEERS)
def test_an_unreachable_endpoint_is_not_chosen_until_it_answers(name: str) -> None:
    made = router(name)
    made.unreachable(1, 0.0)
    jobs = [Job(number, 160, 10) for number in range(9)]
    assert all(1 not in made.place(job, 0.0) for job in jobs)
    made.scraped(1, None, IDLE, 1.0)
    assert any(1 in made.place(Job(number, 160, 10), 1.0) for number in range(9, 18))


def test_with_no_endpoint_nobody_is_chosen() -> None:
    made = router("sglang")
    for endpoint in range(3):
        made.unreachable(endpoint, 0.0)
    assert made.place(JOB, 0.0) == ()


def test_only_the_reference_picker_asks_for_pages_every_fifty_milliseconds() -> None:
    waits = {name: router(name).scraped(0, None, IDLE, 0.0) for name in PEERS}
    assert waits.pop("reference") == 0.05
    assert all(earlier == later == 1.0 for earlier, later in pairwise(waits.values()))
