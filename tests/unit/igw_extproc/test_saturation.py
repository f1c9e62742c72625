"""How full a pool is: the reference picker's measure, so that "sheddable" means the same behind both."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.domain import Endpoint, EngineLoad
from igw_extproc.flowcontrol.saturation import KV_LIMIT, QUEUE_LIMIT, saturation
from igw_extproc.inflight import Ledger
from igw_testing.builders import ledger, load


def test_no_candidates_are_saturated() -> None:
    assert saturation([]) == 1.0


@pytest.mark.parametrize(
    ("waiting", "kv_usage", "expected"),
    [
        (0.0, 0.0, 0.0),
        (QUEUE_LIMIT, 0.0, 1.0),
        (0.0, KV_LIMIT, 1.0),
        (2 * QUEUE_LIMIT, 0.4, 2.0),
        (1.0, 0.4, 0.5),
        (1.0, None, 0.2),
    ],
)
def test_an_endpoint_is_as_full_as_its_queue_or_its_cache(
    waiting: float, kv_usage: float | None, expected: float
) -> None:
    assert saturation([ledger(said=load(waiting=waiting, kv_usage=kv_usage))]) == pytest.approx(expected)


def test_a_pool_is_as_full_as_its_endpoints_on_average() -> None:
    full, idle = ledger(1, load(waiting=2 * QUEUE_LIMIT)), ledger(2)
    assert saturation([full, idle]) == 1.0
    assert saturation([full, idle, idle]) < 1.0


def test_an_endpoint_that_says_nothing_counts_as_half_full() -> None:
    """It must not make a saturated pool look idle, nor block an idle one."""
    never_asked, unreadable = Ledger(Endpoint("10.0.0.9:8000")), ledger(said=EngineLoad())
    assert saturation([never_asked]) == saturation([unreadable]) == 0.5


@given(st.lists(st.tuples(st.floats(0, 100), st.none() | st.floats(0, 1)), min_size=1, max_size=5))
def test_more_load_never_looks_like_less(loads: list[tuple[float, float | None]]) -> None:
    before = [ledger(at, load(waiting=waiting, kv_usage=kv)) for at, (waiting, kv) in enumerate(loads)]
    after = [ledger(at, load(waiting=waiting + 1, kv_usage=kv)) for at, (waiting, kv) in enumerate(loads)]
    assert 0.0 <= saturation(before) <= saturation(after)
