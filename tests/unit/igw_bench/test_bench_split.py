"""Divided fleets on the virtual clock: prompts are computed, moved and answered where the picker says, once each."""

from random import Random

import pytest

from igw_api.split import Role, Split
from igw_bench import policies, prefill_decode, split
from igw_bench.offline import Outcome
from igw_bench.workloads import Job, Workload

PREFILL, DECODE, BOTH = Role.PREFILL, Role.DECODE, Role.BOTH


def workload(prompt: int = 4_000, output: int = 100, count: int = 40, rate: float = 4.0, engines: int = 3) -> Workload:
    jobs = tuple(Job(number, prompt, output) for number in range(count))
    arrivals = tuple(number / rate for number in range(count))
    return Workload("E", (prefill_decode.ENGINE,) * engines, jobs, arrivals=arrivals)


def divided(load: Workload, *roles: Role, dynamic: bool = False) -> Outcome:
    return split.simulate(load, Split(dynamic=dynamic), roles, seed=1)


def test_every_request_is_answered_by_an_endpoint_that_answers() -> None:
    outcome = divided(workload(), PREFILL, DECODE, DECODE)
    assert len(outcome.records) == 40
    assert not any(record.failed for record in outcome.records)
    assert {record.endpoint for record in outcome.records} == {1, 2}


def test_the_first_token_comes_after_prefill_and_transfer() -> None:
    """And costs the prefiller no more than the prompt: both engines' KV is free in the end."""
    one = workload(count=1)
    (record,) = divided(one, PREFILL, DECODE, DECODE).records
    speed, transfer = prefill_decode.ENGINE.speed, prefill_decode.ENGINE.transfer
    waits = record.first_at - record.sent_at
    assert waits == pytest.approx(speed.step_s(4_000, 0, 0) + transfer.seconds(4_000) + speed.step_s(1, 0, 0), abs=0.01)
    (alone,) = policies.simulate(one, "prefix-cache", 1).records
    assert waits > alone.first_at - alone.sent_at, "with nobody to hinder, dividing only costs"


def test_a_dynamic_fleet_divides_nothing_where_nothing_is_gained() -> None:
    (record,) = divided(workload(count=1), PREFILL, DECODE, DECODE, dynamic=True).records
    (alone,) = policies.simulate(workload(count=1), "prefix-cache", 1).records
    assert record.first_at - record.sent_at == pytest.approx(alone.first_at - alone.sent_at, abs=0.002)


def test_answers_are_not_held_up_by_prompts_elsewhere() -> None:
    """What dividing is for: as many engines, and tokens come evenly."""
    load = workload(prompt=8_000, output=300, count=120, rate=4.0)
    found = {
        name: prefill_decode.figures(outcome)["tpot_p99"]
        for name, outcome in (
            ("mixed", policies.simulate(load, "prefix-cache", 1)),
            ("divided", divided(load, PREFILL, PREFILL, DECODE)),
        )
    }
    assert found["divided"] < 0.6 * found["mixed"]


@pytest.mark.parametrize("roles", [(BOTH, BOTH, BOTH), (PREFILL, DECODE, BOTH)])
def test_the_same_seed_gives_the_same_times(roles: tuple[Role, ...]) -> None:
    first, second = (divided(workload(rate=8.0), *roles, dynamic=True) for _ in range(2))
    assert [one.ended_at for one in first.records] == [one.ended_at for one in second.records]


def test_dividing_is_better_than_mixing_on_the_workload_meant_for_it() -> None:
    """A third of workload E: what `make bench-split` shows in full, but for the first token, which comes later."""
    whole = prefill_decode.prefill_heavy(Random(1))
    load = Workload("E", whole.fleet, whole.jobs[:700], arrivals=whole.arrivals[:700], measured_from=10.0)
    mixed = prefill_decode.figures(policies.simulate(load, "prefix-cache", 1))
    roles = (PREFILL,) * 5 + (DECODE,) * 3
    for dynamic in (False, True):
        found = prefill_decode.figures(split.simulate(load, Split(dynamic=dynamic), roles, 1))
        assert found["tpot_p99"] < 0.7 * mixed["tpot_p99"]
        assert found["whole_mean"] < 0.8 * mixed["whole_mean"]
        assert found["goodput"] > mixed["goodput"] and found["tokens_per_s"] > 0.99 * mixed["tokens_per_s"]


def test_the_table_and_the_ratios_tell_of_every_fleet() -> None:
    row = dict.fromkeys(prefill_decode.FIGURES, 2.0)
    half = dict.fromkeys(prefill_decode.FIGURES, 1.0)
    found = {prefill_decode.MIXED: [row, row], "divided": [half, row]}
    assert "| divided | 1.500 | 1.50 |" in prefill_decode.table(found)
    assert prefill_decode.ratios(found)["divided"]["goodput"] == 0.75
