"""What keys and pools have used: counted once, given back once, and remembered in bounded memory."""

from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igw_api.limits import KeyLimits, Limits
from igw_extproc.errors import OverLimit
from igw_extproc.metering import Charge, Meters

POOL = "default/llm"
TWO = Limits(keys=KeyLimits(requests=2))
TOKENS = Limits(keys=KeyLimits(tokens=1000))


def charged(meters: Meters, limits: Limits, key: str = "key", tokens: int = 10, now: float = 0.0) -> Charge:
    """A request that has come into the pool. Raises OverLimit."""
    charge = meters.charge(POOL, limits, key, "m", tokens, now)
    error = meters.enter(POOL, limits, charge, now)
    if error is not None:
        charge.refund(now)
        raise error
    return charge


def refused(meters: Meters, limits: Limits, key: str = "key", tokens: int = 10, now: float = 0.0) -> OverLimit:
    """Why it does not come in."""
    with pytest.raises(OverLimit) as caught:
        charged(meters, limits, key, tokens, now)
    return caught.value


def concurrent(meters: Meters) -> int:
    """Requests that are in the pool."""
    return meters.statistics().pools[POOL].concurrent


def test_each_key_has_so_many_requests_a_minute_and_is_told_when_to_come_back() -> None:
    meters = Meters()
    assert dict(charged(meters, TWO).told(0.0)) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
    }
    charged(meters, TWO)
    error = refused(meters, TWO, now=10.5)
    assert error.retry_after == 20
    assert str(error) == (
        "This API key has reached its limit of requests a minute to m, which is 2. Try again in 20 s."
    )
    assert dict(error.headers)["x-ratelimit-remaining-requests"] == "0"
    assert dict(error.headers)["x-ratelimit-reset-requests"] == "49.5s"
    charged(meters, TWO, key="another")
    charged(meters, TWO, now=30.5)


def test_a_key_has_a_limit_for_each_model() -> None:
    meters = Meters()
    limits = Limits(keys=KeyLimits(requests=1), models={"free": KeyLimits(tokens=10**6)})
    for model in ("a", "b"):
        meters.charge(POOL, limits, "key", model, 10, 0.0)
        with pytest.raises(OverLimit):
            meters.charge(POOL, limits, "key", model, 10, 0.0)
    told = [dict(meters.charge(POOL, limits, "key", "free", 10, 0.0).told(0.0)) for _ in range(5)][-1]
    assert told["x-ratelimit-remaining-tokens"] == "999950"


def test_tokens_are_what_was_expected_and_at_the_end_what_was_used() -> None:
    meters = Meters()
    charge = charged(meters, TOKENS, tokens=900)
    error = refused(meters, TOKENS, tokens=200)
    assert str(error).startswith("This API key has reached its limit of tokens a minute of m, which is 1000; ")
    assert "this request is expected to use 200." in str(error)
    charge.ended(300.0, 0.0)
    assert dict(charged(meters, TOKENS, tokens=200).told(0.0))["x-ratelimit-remaining-tokens"] == "500"


def test_what_was_used_beyond_the_limit_is_waited_for() -> None:
    meters = Meters()
    charged(meters, TOKENS, tokens=100).ended(3000.0, 0.0)
    error = refused(meters, TOKENS, tokens=100)
    assert (error.retry_after, dict(error.headers)["x-ratelimit-reset-tokens"]) == (126, "3m0s")


def test_nobody_knows_what_it_used_so_it_is_what_was_expected() -> None:
    meters = Meters()
    charged(meters, TOKENS, tokens=1000).ended(None, 0.0)
    assert refused(meters, TOKENS, tokens=1).retry_after == 1


def test_a_request_that_nobody_serves_costs_nothing_and_one_that_is_refused_neither() -> None:
    meters, limits = Meters(), Limits(keys=KeyLimits(2, 1000))
    charge = charged(meters, limits, tokens=1000)
    refused(meters, limits, tokens=1)
    charge.refund(0.0)
    told = dict(charged(meters, limits, tokens=400).told(0.0))
    assert (told["x-ratelimit-remaining-requests"], told["x-ratelimit-remaining-tokens"]) == ("1", "600")


def test_a_pool_takes_so_many_at_once() -> None:
    meters, limits = Meters(), Limits(concurrent=2)
    first, _ = charged(meters, limits), charged(meters, limits, key="another")
    error = refused(meters, limits)
    assert str(error) == (
        "The pool default/llm has reached its limit of requests at once, which is 2. Try again in 1 s."
    )
    assert (error.retry_after, error.headers) == (1, ())
    first.ended(None, 0.0)
    charged(meters, limits)
    assert meters.statistics().pools[POOL].refused["pool-concurrent"] == 1


def test_a_pool_takes_so_many_a_second() -> None:
    meters, limits = Meters(), Limits(per_second=2)
    for _ in range(2):
        charged(meters, limits)
    assert str(refused(meters, limits)) == (
        "The pool default/llm has reached its limit of requests a second, which is 2. Try again in 1 s."
    )
    charged(meters, limits, now=0.5)
    assert meters.statistics().pools[POOL].refused["pool-requests"] == 1


def test_a_charge_is_closed_once() -> None:
    meters = Meters()
    charge = charged(meters, TOKENS, tokens=500)
    charge.ended(100.0, 0.0)
    charge.ended(0.0, 0.0)
    charge.refund(0.0)
    charge.leave()
    assert concurrent(meters) == 0
    assert dict(charged(meters, TOKENS, tokens=100).told(0.0))["x-ratelimit-remaining-tokens"] == "800"


def test_what_a_standby_takes_is_not_the_pools_and_its_key_pays_what_was_expected() -> None:
    meters = Meters()
    charge = charged(meters, TOKENS, tokens=500)
    charge.leave()
    charge.refund(0.0)
    assert concurrent(meters) == 0
    assert dict(charged(meters, TOKENS, tokens=100).told(0.0))["x-ratelimit-remaining-tokens"] == "400"


def test_pools_that_are_gone_are_forgotten() -> None:
    meters = Meters()
    charge = charged(meters, TWO)
    meters.keep(())
    assert meters.statistics().pools == {}
    charge.ended(None, 0.0)


def test_a_flood_of_keys_does_not_make_a_used_up_one_forgotten() -> None:
    """The table is full, and it is the flood's own keys that go."""
    meters = Meters(most_keys=100)
    for _ in range(2):
        charged(meters, TWO, key="used up")
    for number in range(5000):
        charged(meters, TWO, key=f"made up {number}", now=number / 1000)
    assert meters.statistics().keys == 100
    assert meters.statistics().forgotten > 4000
    assert refused(meters, TWO, key="used up", now=5.0).retry_after == 25


def test_keys_are_forgotten_when_they_are_like_new_ones() -> None:
    meters = Meters()
    for number in range(50):
        charged(meters, TWO, key=f"key {number}")
    charged(meters, TWO, key="last", now=30.0)
    assert (meters.statistics().keys, meters.statistics().forgotten) == (1, 0)


class _Sent(NamedTuple):
    """A request that has come in. `used` None: nobody will know."""

    charge: Charge
    key: str
    expected: int
    used: int | None
    is_served: bool


KEYS = st.sampled_from("abcdefgh")
# A request: its pause, key, tokens expected, tokens used or None, and whether it is served.
STEPS = st.lists(
    st.tuples(st.floats(0.0, 20.0), KEYS, st.integers(0, 300), st.none() | st.integers(0, 500), st.booleans()),
    max_size=120,
)


@settings(deadline=None)
@given(STEPS, st.integers(1, 20), st.integers(1, 400), st.integers(1, 4))
def test_no_key_has_more_requests_or_tokens_than_a_full_bucket_and_its_filling_but_for_what_could_not_be_foreseen(
    steps: list[tuple[float, str, int, int | None, bool]], requests: int, tokens: int, most: int
) -> None:
    meters, limits = Meters(), Limits(concurrent=most, keys=KeyLimits(requests, tokens))
    now, open_ = 0.0, list[_Sent]()
    served, used, beyond = Counter[str](), Counter[str](), Counter[str]()
    for pause, key, expected, really, is_served in steps:
        now += pause
        try:
            open_.append(_Sent(charged(meters, limits, key, expected, now), key, expected, really, is_served))
        except OverLimit as error:
            assert error.retry_after is not None and error.retry_after >= 1
        assert concurrent(meters) == len(open_) <= most
        if not open_ or (len(open_) < most and pause < 10.0):
            continue
        ended = open_.pop(0)
        if not ended.is_served:
            ended.charge.refund(now)
            continue
        ended.charge.ended(ended.used, now)
        served[ended.key] += 1
        used[ended.key] += ended.expected if ended.used is None else ended.used
        # More than was expected, or than a full bucket, is only known afterwards.
        beyond[ended.key] += max((ended.used or 0) - ended.expected, 0) + max(ended.expected - tokens, 0)
    for key in "abcdefgh":
        assert served[key] <= requests * (1 + now / 60.0) + 1e-6
        assert used[key] <= tokens * (1 + now / 60.0) + beyond[key] + 1e-3


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(0, 30)), max_size=200), st.integers(1, 10))
def test_the_table_never_has_more_keys_than_it_may(steps: list[tuple[float, int]], most: int) -> None:
    meters, now = Meters(most_keys=most), 0.0
    for pause, number in steps:
        now += pause
        try:
            charged(meters, TWO, key=str(number), now=now)
        except OverLimit:
            assert meters.statistics().keys
        assert meters.statistics().keys <= most
