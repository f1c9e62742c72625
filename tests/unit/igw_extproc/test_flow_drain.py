"""When a refused client should come back: as soon as the queue will have drained, by what was measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.flowcontrol.drain import LONGEST, SHORTEST, Drain


def draining(per_second: float, seconds: float, start: float = 0.0) -> Drain:
    """A queue that drains evenly, and still does."""
    subject = Drain()
    subject.begins(start)
    for at in range(1, int(seconds * per_second) + 1):
        subject.dispatched(start + at / per_second)
    return subject


@pytest.mark.parametrize("rate", [0.5, 4.0, 100.0])
def test_the_rate_is_what_was_dispatched_a_second(rate: float) -> None:
    assert draining(rate, 40.0).rate(40.0) == pytest.approx(rate, rel=0.15)


def test_early_measurements_are_not_too_low() -> None:
    assert draining(10.0, 2.0).rate(2.0) == pytest.approx(10.0, rel=0.1)


def test_nothing_is_known_before_somebody_has_waited_for_a_while() -> None:
    subject = Drain()
    assert subject.rate(100.0) is None
    assert subject.retry_after(5, unmeasured=9.5, now=100.0) == 10


def test_time_in_which_nobody_waits_does_not_count() -> None:
    subject = draining(10.0, 20.0)
    before = subject.rate(20.0)
    subject.ends(20.0)
    assert subject.rate(5000.0) == before
    subject.begins(5000.0)
    subject.dispatched(5000.1)
    assert subject.rate(5000.1) == pytest.approx(10.0, rel=0.1)


def test_a_change_of_speed_is_followed() -> None:
    subject = draining(10.0, 40.0)
    for at in range(1, 61):
        subject.dispatched(40.0 + at / 2)
    assert subject.rate(70.0) == pytest.approx(2.0, rel=0.25)


def test_a_client_is_told_to_come_back_when_all_before_it_are_through() -> None:
    assert draining(10.0, 40.0).retry_after(99, 10.0, 40.0) == pytest.approx(10, abs=1)


def test_a_queue_that_does_not_move_is_looked_at_again_after_a_minute() -> None:
    subject = Drain()
    subject.begins(0.0)
    assert subject.retry_after(0, 10.0, 30.0) == LONGEST


def test_a_second_beginning_changes_nothing() -> None:
    subject = draining(10.0, 20.0)
    subject.begins(21.0)
    assert subject.rate(20.0) == pytest.approx(10.0, rel=0.1)


@given(st.floats(0.001, 5000), st.integers(0, 10**6), st.floats(0, 1000), st.floats(0, 1e6))
def test_the_advice_is_between_a_second_and_a_minute(rate: float, waiting: int, unmeasured: float, idle: float) -> None:
    subject = draining(rate, min(20.0, 500.0 / rate))
    assert SHORTEST <= subject.retry_after(waiting, unmeasured, 20.0 + idle) <= LONGEST
