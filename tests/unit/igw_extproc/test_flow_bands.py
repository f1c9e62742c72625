"""Priorities: the higher first, the lower never starved, the sheddable owed nothing."""

from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.flowcontrol.bands import AGED_SHARE, Bands
from igw_extproc.flowcontrol.waiters import Waiter
from igw_testing.waiting import waiter

AGED = 2.5


def bands(*waiters: Waiter[object]) -> Bands[object]:
    made: Bands[object] = Bands(AGED)
    for one in waiters:
        made.push(one)
    return made


def serve(subject: Bands[object], now: float = 0.0) -> Waiter[object] | None:
    head = subject.head(now)
    if head is not None:
        subject.served(head, now)
    return head


def priorities(subject: Bands[object], count: int, now: float) -> list[int]:
    served = [serve(subject, now) for _ in range(count)]
    return [one.priority for one in served if one is not None]


def test_higher_priorities_go_first() -> None:
    subject = bands(*(waiter(priority=priority) for priority in (0, 5, -1, 10, 5)))
    assert priorities(subject, 6, 0.0) == [10, 5, 5, 0, -1]


def test_nobody_waits_in_an_empty_queue() -> None:
    subject = bands()
    assert subject.head(0.0) is None
    assert subject.last_sheddable() is None
    assert (len(subject), subject.lengths()) == (0, {})


def test_within_a_priority_tenants_take_turns() -> None:
    subject = bands(waiter("a"), waiter("a"), waiter("b"))
    served = [serve(subject), serve(subject)]
    assert {one.tenant for one in served if one is not None} == {"a", "b"}


def test_while_no_lower_request_has_aged_the_order_is_strict() -> None:
    subject = bands(*(waiter(priority=0) for _ in range(3)), *(waiter(priority=1) for _ in range(50)))
    assert priorities(subject, 50, AGED - 0.1) == [1] * 50


def test_aged_requests_below_get_one_token_of_eight() -> None:
    subject = bands(*(waiter(priority=0) for _ in range(50)), *(waiter(priority=1) for _ in range(200)))
    served = priorities(subject, 160, AGED)
    assert served.count(0) == 160 // (AGED_SHARE + 1)
    assert served[: AGED_SHARE + 1] == [1] * AGED_SHARE + [0]


def test_of_the_bands_below_the_one_whose_head_is_oldest_gets_it() -> None:
    old, high = waiter(priority=0, now=0.0), [waiter(priority=2, now=9.0) for _ in range(20)]
    subject = bands(waiter(priority=1, now=3.0), old, *high)
    served = [serve(subject, 9.0) for _ in range(AGED_SHARE + 1)]
    assert served[-1] is old


def test_the_sheddable_are_owed_nothing() -> None:
    subject = bands(*(waiter(priority=-1) for _ in range(5)), *(waiter(priority=0) for _ in range(100)))
    assert priorities(subject, 100, 1000.0) == [0] * 100


def test_what_is_owed_is_forgotten_when_nobody_below_has_aged_any_more() -> None:
    aged = waiter(priority=0)
    subject = bands(aged, *(waiter(priority=1) for _ in range(50)))
    priorities(subject, AGED_SHARE - 1, AGED)
    subject.remove(aged)
    serve(subject, AGED)
    subject.push(waiter(priority=0))
    assert priorities(subject, AGED_SHARE + 1, AGED)[:AGED_SHARE] == [1] * AGED_SHARE


def test_the_newest_of_the_lowest_sheddable_band_is_shed_first() -> None:
    newest = waiter(priority=-2)
    subject = bands(waiter(priority=-2), newest, waiter(priority=-1), waiter(priority=0))
    assert subject.last_sheddable() is newest


def test_without_sheddable_requests_none_is_shed() -> None:
    assert bands(waiter(priority=0)).last_sheddable() is None


def test_lengths_are_told_by_priority() -> None:
    subject = bands(waiter(priority=3), waiter(priority=3), waiter(priority=-1))
    assert subject.lengths() == {3: 2, -1: 1}
    assert len(subject) == 3


@given(st.lists(st.tuples(st.integers(-2, 3), st.integers(1, 100)), min_size=1, max_size=60))
def test_among_requests_that_came_at_once_a_lower_one_never_goes_first(asked: list[tuple[int, int]]) -> None:
    subject = bands(*(waiter(priority=priority, cost=cost) for priority, cost in asked))
    served = priorities(subject, len(asked), 0.0)
    assert served == sorted(served, reverse=True)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=8), st.lists(st.integers(10, 100), min_size=20, max_size=20))
def test_no_flood_of_higher_ones_keeps_a_lower_one_out(low: list[int], high: list[int]) -> None:
    """While it waits, what overtakes it is bounded by its share, but for one largest request on either side."""
    subject = bands(*(waiter(priority=0, cost=cost) for cost in low), waiter(priority=1, cost=10, now=1e6))
    overtook = got = turn = 0
    while got < sum(low):
        turn += 1
        subject.push(waiter(priority=1 + turn % 3, cost=high[turn % len(high)], now=1e6))
        head = serve(subject, 1e6)
        assert head is not None
        if head.priority == 0:
            got += head.cost
        else:
            overtook += head.cost
        assert overtook <= AGED_SHARE * (got + max(low)) + 100
