"""A bucket never gives more than a full one and what has come in since, however it is asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.bucket import Bucket, Size

SIZES = st.builds(Size, st.integers(1, 10_000), st.sampled_from((1.0, 60.0)))
STEPS = st.lists(st.tuples(st.floats(0.0, 40.0), st.integers(0, 12_000)), max_size=60)
# Of clocks that began with the machine, or long ago.
CLOCKS = st.sampled_from((0.0, 1e4, 1e7))


def test_a_full_one_is_taken_at_once_and_comes_back_evenly() -> None:
    bucket, size = Bucket(), Size(60, 60.0)
    for left in range(59, -1, -1):
        assert bucket.wait(size, 1, 100.0) == 0
        bucket.take(size, 1, 100.0)
        assert bucket.left(size, 100.0) == left
    assert bucket.wait(size, 1, 100.0) == pytest.approx(1.0)
    assert bucket.fills_in(100.0) == pytest.approx(60.0)
    assert [bucket.left(size, now) for now in (100.5, 101.0, 130.0, 160.0, 1000.0)] == [0, 1, 30, 60, 60]


def test_what_is_more_than_a_full_bucket_needs_a_full_one_and_is_paid_for_afterwards() -> None:
    bucket, size = Bucket(), Size(100, 60.0)
    assert bucket.wait(size, 250, 0.0) == 0
    bucket.take(size, 250, 0.0)
    assert bucket.left(size, 89.0) == 0
    assert bucket.wait(size, 1, 0.0) == pytest.approx(90.6)
    assert bucket.wait(size, 250, 0.0) == pytest.approx(150.0), "not longer than until it is full"


def test_what_is_put_back_can_be_taken_again_and_makes_it_no_more_than_full() -> None:
    bucket, size = Bucket(), Size(10, 60.0)
    bucket.take(size, 10, 0.0)
    bucket.take(size, -4, 0.0)
    assert bucket.left(size, 0.0) == 4
    bucket.take(size, -10, 0.0)
    assert bucket.left(size, 0.0) == 10


def test_a_limit_that_changes_keeps_the_time_to_full() -> None:
    """So a larger one is a larger one at once."""
    bucket = Bucket()
    bucket.take(Size(10, 60.0), 10, 0.0)
    assert bucket.left(Size(100, 60.0), 30.0) == 50


@given(SIZES, STEPS, CLOCKS)
def test_no_stretch_of_time_has_more_than_a_full_bucket_and_its_filling(
    size: Size, steps: list[tuple[float, int]], clock: float
) -> None:
    bucket, now, taken = Bucket(), clock, []
    for pause, wanted in steps:
        now += pause
        amount = min(wanted, size.most)
        wait = bucket.wait(size, amount, now)
        if wait == 0:
            bucket.take(size, amount, now)
            taken.append((now, amount))
    for index, (begin, _) in enumerate(taken):
        total = 0
        for end, amount in taken[index:]:
            total += amount
            assert total <= size.most * (1 + (end - begin) / size.seconds) * (1 + 1e-6) + 1e-3


@given(SIZES, STEPS, CLOCKS)
def test_who_waits_as_long_as_was_said_gets_it(size: Size, steps: list[tuple[float, int]], clock: float) -> None:
    bucket, now = Bucket(), clock
    for pause, amount in steps:
        now += pause
        wait = bucket.wait(size, amount, now)
        assert bucket.wait(size, amount, now + wait) == 0
        assert wait <= bucket.fills_in(now) + 1e-6
        bucket.take(size, amount, now)
        assert 0 <= bucket.left(size, now) <= size.most
