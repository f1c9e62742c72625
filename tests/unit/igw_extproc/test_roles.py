"""Endpoints for both roles change theirs by load: never to the last of a role, and not to and fro."""

import logging
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_api.split import Role
from igw_extproc.domain import Ask
from igw_extproc.inflight import Ledger
from igw_extproc.scheduling.roles import BUSY, MARGIN, Demand, Roles, balance, measure, pressure
from igw_testing.builders import ledger, load

DEMANDS = st.builds(Demand, st.floats(0, 50), st.floats(0, 50))


def engines(count: int) -> list[Ledger]:
    return [ledger(host, load(kv_usage=0.0, kv_capacity_tokens=100_000)) for host in range(1, count + 1)]


def roles(ledgers: list[Ledger], dwell: float = 10.0, role: Role = Role.BOTH) -> Roles:
    made = Roles(dwell)
    made.serve([(one, role) for one in ledgers])
    return made


def having(made: Roles, role: Role) -> int:
    return sum(one is role for one in made.now.values())


def prompts(one: Ledger, tokens: int) -> None:
    one.reserve(Ask("m", tokens, 0), 0, 0.0)


def answers(one: Ledger, tokens: int) -> None:
    one.reserve(Ask("m", 0, tokens), 0, 0.0)


@given(DEMANDS, st.integers(1, 20), st.integers(1, 20))
def test_a_change_lowers_the_pressure_and_leaves_nobody_out(demand: Demand, prefill: int, decode: int) -> None:
    role = balance(demand, prefill, decode)
    step = {None: 0, Role.PREFILL: 1, Role.DECODE: -1}[role]
    now, then = pressure(demand, prefill, decode), pressure(demand, prefill + step, decode - step)
    assert then < math.inf
    assert role is None or (now >= BUSY and then < now * (1 - MARGIN))


@given(DEMANDS, st.integers(1, 20), st.integers(1, 20))
def test_under_a_constant_demand_changes_come_to_an_end_and_never_go_back(
    demand: Demand, prefill: int, decode: int
) -> None:
    """No flapping: as many changes as there are endpoints at most, all in one direction."""
    taken = set()
    for _ in range(prefill + decode):
        role = balance(demand, prefill, decode)
        if role is None:
            break
        taken.add(role)
        step = 1 if role is Role.PREFILL else -1
        prefill, decode = prefill + step, decode - step
    assert balance(demand, prefill, decode) is None
    assert len(taken) <= 1


def test_of_several_endpoints_one_begins_with_prompts() -> None:
    assert having(roles(engines(4)), Role.PREFILL) == 1
    assert having(roles(engines(1)), Role.PREFILL) == 0, "one alone must answer"


def test_endpoints_for_one_role_never_change_theirs() -> None:
    some = engines(3)
    made = Roles(1.0)
    made.serve([(some[0], Role.PREFILL), (some[1], Role.DECODE), (some[2], Role.DECODE)])
    prompts(some[0], 10_000_000)
    for second in range(100):
        made.review(float(second))
    assert made.now == {} and made.changes == 0


def test_many_prompts_turn_answerers_into_prefillers_one_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    """The one with least to do first, and one in a sixth of `dwell`."""
    some = engines(4)
    made = roles(some, dwell=60.0)
    first = next(one for one in some if made.now[one.slot] is Role.PREFILL)
    busy = next(one for one in some if made.now[one.slot] is Role.DECODE)
    prompts(first, 200_000)
    answers(busy, 1_000)
    with caplog.at_level(logging.INFO):
        seen = []
        for tenth in range(600):
            made.review(tenth / 10)
            seen.append(having(made, Role.PREFILL))
    assert seen[99] == 1 and seen[-1] == 3
    changed = [at for at, (before, after) in enumerate(pairwise(seen)) if before != after]
    assert len(changed) == 2 and all(after - before >= 100 for before, after in pairwise(changed))
    assert made.now[busy.slot] is Role.DECODE
    assert "role changed" in caplog.text and "role=prefill" in caplog.text


def test_full_caches_turn_prefillers_back_but_not_the_last_one() -> None:
    some = engines(3)
    made = roles(some, dwell=1.0)
    prompts(some[0], 200_000)
    for second in range(10):
        made.review(float(second))
    assert having(made, Role.PREFILL) == 2
    for one in some:
        answers(one, 2_000_000)
    for second in range(10, 40):
        made.review(float(second))
    assert having(made, Role.PREFILL) == 1


def test_an_idle_pool_changes_nothing() -> None:
    made = roles(engines(4), dwell=1.0)
    before = dict(made.now)
    for second in range(100):
        made.review(float(second))
    assert made.now == before


def test_when_the_last_of_a_role_is_gone_another_takes_it_at_once() -> None:
    some = engines(3)
    made = roles(some, dwell=1_000.0)
    made.review(0.0)
    gone = next(one for one in some if made.now[one.slot] is Role.PREFILL)
    gone.unreachable("refused")
    made.review(1.0)
    assert [made.now[one.slot] for one in some if one is not gone].count(Role.PREFILL) == 1
    for one in some:
        if one is not gone and made.now[one.slot] is Role.DECODE:
            one.unreachable("refused")
    made.review(2.0)
    assert all(made.now[one.slot] is Role.DECODE for one in some if one.available), "answers go before prompts"


def test_demand_is_that_of_the_whole_pool() -> None:
    """Whoever serves it: so a change of roles does not change it."""
    some = engines(2)
    prompts(some[0], 16_384)
    answers(some[1], 80_000 - 16_384)
    demand = measure(some)
    assert demand.prefill == 1.0 and 0.9 < demand.decode <= 1.1


def test_prefillers_that_are_just_not_overrun_get_help_if_their_gpus_are_told() -> None:
    """Nothing waits there, and yet there is nothing to spare."""
    some = engines(4)
    made = roles(some, dwell=1.0)
    told = {role: [one for one in some if made.now[one.slot] is role] for role in (Role.PREFILL, Role.DECODE)}
    for second in range(10):
        made.review(float(second))
    assert having(made, Role.PREFILL) == 1, "an idle pool"
    made.gpus = {told[Role.PREFILL][0].slot: 0.95}
    for second in range(10, 30):
        made.review(float(second))
    assert having(made, Role.PREFILL) == 2
    made.gpus = {one.slot: 0.48 if made.now[one.slot] is Role.PREFILL else 0.99 for one in some}
    for second in range(30, 60):
        made.review(float(second))
    assert having(made, Role.PREFILL) == 2, "who answers is always busy, so that tells nothing"


def test_of_two_with_as_much_to_do_the_one_whose_gpus_are_idle_changes() -> None:
    some = engines(3)
    made = roles(some, dwell=1.0)
    answering = [one for one in some if made.now[one.slot] is Role.DECODE]
    made.gpus = {answering[0].slot: 0.9, answering[1].slot: 0.1}
    prompts(next(one for one in some if one not in answering), 200_000)
    for second in range(10):
        made.review(float(second))
    assert made.now[answering[1].slot] is Role.PREFILL


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), max_size=60))
def test_whatever_happens_an_available_endpoint_answers(events: list[tuple[int, bool, int]]) -> None:
    """And another computes prompts, wherever there are two."""
    some = engines(5)
    made = roles(some, dwell=2.0)
    for second, (at, up, kind) in enumerate(events):
        if up:
            some[at].scraped(some[at].scrape_started(), load(kv_usage=0.0, kv_capacity_tokens=100_000), float(second))
        else:
            some[at].unreachable("refused")
        (prompts if kind == 0 else answers)(some[at], 50_000)
        made.review(float(second))
        there = [made.now[one.slot] for one in some if one.available]
        assert not there or Role.DECODE in there
        assert len(there) < 2 or Role.PREFILL in there


@given(st.lists(st.tuples(st.sampled_from(range(4)), st.booleans()), max_size=40))
def test_no_endpoint_changes_again_before_it_has_had_its_role_for_a_while(events: list[tuple[int, bool]]) -> None:
    """However the load swings, as long as nobody stops answering."""
    some = engines(4)
    made = roles(some, dwell=12.0)
    changed: dict[int, int] = {}
    for second, (at, prompt) in enumerate(events):
        (prompts if prompt else answers)(some[at], 300_000)
        before = dict(made.now)
        made.review(float(second))
        now = [slot for slot, role in made.now.items() if before[slot] is not role]
        assert len(now) <= 1
        for slot in now:
            assert second - changed.get(slot, -100) >= 12
            changed[slot] = second
