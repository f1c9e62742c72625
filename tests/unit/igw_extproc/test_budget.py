"""A standby's budget: never more requests in any minute, nor a greater share, than it says."""

from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.budget import MINUTE, WINDOW, Budget, Window

STEPS = st.lists(st.floats(0.0, 30.0), max_size=200)


def test_so_many_requests_a_minute_and_then_as_old_ones_leave_it() -> None:
    seen = Window()
    budget = Budget(2, 1.0, seen)
    for now in (0.0, 30.0):
        seen.add(now)
        assert budget.why_not(now) is None
        budget.spend(now)
    seen.add(59.0)
    assert budget.left(59.0) == 0
    assert budget.why_not(59.0) == "its budget of 2 requests a minute is used up"
    assert (budget.left(60.0), budget.why_not(60.0)) == (1, None)


def test_a_share_is_rounded_up_so_that_a_pool_that_serves_nobody_is_no_dead_end() -> None:
    seen = Window()
    budget = Budget(1000, 0.25, seen)
    taken = []
    for number in range(8):
        seen.add(0.0)
        if budget.why_not(0.0) is None:
            budget.spend(0.0)
            taken.append(number)
    assert taken == [0, 4]
    assert budget.why_not(0.0) == "it has had its share of 25% of the pool's requests"


def test_what_is_long_ago_counts_no_more() -> None:
    window = Window()
    window.add(0.0)
    assert window.count(WINDOW - 1.0) == 1
    assert window.count(2 * WINDOW) == 0


@given(STEPS, st.integers(1, 20), st.floats(0.01, 1.0))
def test_no_minute_has_more_than_the_budget(steps: list[float], per_minute: int, share: float) -> None:
    seen, now, sent = Window(), 0.0, []
    budget = Budget(per_minute, share, seen)
    for step in steps:
        now += step
        seen.add(now)
        assert (budget.left(now) > 0) == (budget.why_not(now) is None)
        if budget.why_not(now) is None:
            budget.spend(now)
            sent.append(now)
    for at in sent:
        assert len([one for one in sent if at - MINUTE < one <= at]) <= per_minute
