"""The price of computing what another endpoint holds: high for a tenant's own prefix, low for everybody's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.scheduling.popularity import HIGHEST, NOTHING_HELD, WINDOW, Popularity
from igw_extproc.scheduling.prefix import Prefix, PrefixIndex, chain, seed


def a_prefix(word: str, size: int = 4_096) -> Prefix:
    return chain((word * size)[:size].encode(), seed("llama"))


def an_index(*held: Prefix) -> PrefixIndex:
    """At endpoint 0."""
    index = PrefixIndex()
    for prefix in held:
        index.expect(0, prefix, 1_000_000).confirm()
    return index


def test_what_nobody_holds_has_no_price() -> None:
    assert Popularity().held(an_index(), a_prefix("one "), {}, 4) is NOTHING_HELD


def test_a_prefix_that_nobody_else_asked_for_has_the_highest_price() -> None:
    prefix = a_prefix("one ")
    assert Popularity().held(an_index(prefix), prefix, {}, 8).price == HIGHEST


def test_the_price_falls_with_the_endpoints_worth_of_traffic_that_a_prefix_has() -> None:
    hot, popularity = a_prefix("hot "), Popularity()
    cold = [a_prefix(f"cold {at} ") for at in range(100)]
    index = an_index(hot, *cold)
    for at in range(WINDOW):
        popularity.held(index, hot if at % 2 else cold[at % 100], {}, 8)
    # Half of all hits over 8 endpoints: four endpoints' worth.
    assert popularity.held(index, hot, {}, 8).price == pytest.approx(1 + (HIGHEST - 1) / 5, rel=0.01)
    assert popularity.held(index, cold[0], {}, 8).price > 0.9 * HIGHEST
    assert popularity.held(index, hot, {}, 80).price == pytest.approx(1 + (HIGHEST - 1) / 41, rel=0.01)


def test_a_prefix_that_is_no_longer_asked_for_gets_dear_again() -> None:
    hot, other = a_prefix("hot "), a_prefix("other ")
    popularity, index = Popularity(), an_index(hot, other)
    for _ in range(WINDOW):
        popularity.held(index, hot, {}, 8)
    for _ in range(WINDOW):
        popularity.held(index, other, {}, 8)
    assert popularity.held(index, hot, {}, 8).price == HIGHEST


def test_requests_with_the_same_beginning_count_together_whatever_follows() -> None:
    system = "you are helpful " * 100
    index, popularity = an_index(chain(system.encode(), seed("llama"))), Popularity()
    for at in range(WINDOW):
        popularity.held(index, chain(f"{system}{at:06} and so on {at}".encode(), seed("llama")), {}, 4)
    assert popularity.held(index, chain(f"{system}last".encode(), seed("llama")), {}, 4).price < 0.4 * HIGHEST


def test_a_cache_that_cannot_be_relied_on_holds_less_but_what_the_index_has_is_told() -> None:
    prefix = a_prefix("one ")
    held = Popularity().held(an_index(prefix), prefix, {0: 0.25}, 4)
    assert held.tokens == {0: 256}
    assert held.matched == {0: 1_024}


@given(st.lists(st.integers(0, 5), max_size=1_500), st.integers(1, 50))
def test_the_price_stays_between_one_and_the_highest_and_memory_is_bounded(asked: list[int], endpoints: int) -> None:
    prefixes = [a_prefix(f"tenant {at} ") for at in range(6)]
    popularity, index = Popularity(), an_index(*prefixes)
    for at in asked:
        assert 1.0 < popularity.held(index, prefixes[at], {}, endpoints).price <= HIGHEST
    assert popularity.remembered <= WINDOW
