"""The cheapest pair of two endpoints is found without trying all pairs."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.inflight import Ledger
from igw_extproc.scheduling.nearby import Choice, Level, Nearby
from igw_extproc.scheduling.pairs import Pair, best_pair, cheaper
from igw_extproc.scheduling.pickers import cheapest
from igw_testing.builders import ledger

ENDPOINTS = [ledger(host) for host in range(1, 8)]
# Few different values, so that there are ties.
COSTS = st.sampled_from([0.0, 1.0, 1.5, 4.0, 100.0])
SIDES = st.lists(st.tuples(st.sampled_from(range(len(ENDPOINTS))), COSTS), unique_by=lambda one: one[0], max_size=6)


def side(chosen: list[tuple[int, float]]) -> tuple[list[Ledger], list[float], list[int]]:
    """Endpoints, their costs, and the picker's order of them."""
    ledgers, costs = [ENDPOINTS[at] for at, _ in chosen], [cost for _, cost in chosen]
    return ledgers, costs, cheapest(ledgers, costs, 0, Random(0)) if ledgers else []


@given(SIDES, SIDES)
def test_no_pair_of_two_different_endpoints_is_cheaper(
    prefill: list[tuple[int, float]], decode: list[tuple[int, float]]
) -> None:
    """Lists may share endpoints: those that are for both roles."""
    (prefillers, prompt, starts), (decoders, answer, ends) = side(prefill), side(decode)
    every = [p + d for (i, p) in prefill for (j, d) in decode if i != j]
    found = best_pair(prefillers, decoders, prompt, answer, (starts, ends))
    if not every:
        assert found is None
        return
    assert found is not None and found.prefill is not None
    assert prefillers[found.prefill] is not decoders[found.decode]
    assert found.cost == min(every) == prompt[found.prefill] + answer[found.decode]


@given(SIDES, SIDES, st.lists(st.sampled_from([None, "a", "b"]), min_size=7, max_size=7), st.sampled_from([0.0, 1.0]))
def test_where_a_domains_pairs_cost_less_the_cheapest_is_found_too(
    prefill: list[tuple[int, float]], decode: list[tuple[int, float]], of: list[str | None], saved: float
) -> None:
    """`saved`: what a pair within a domain costs less than the same pair would across."""
    (prefillers, prompt, starts), (decoders, far, ends) = side(prefill), side(decode)
    near = Nearby([], [])
    near.levels.append(Level(0.0, {one.slot: name for one, name in zip(ENDPOINTS, of, strict=True)}))
    best = best_pair(prefillers, decoders, prompt, far, (starts, ends))
    choice = Choice(prefillers, decoders, prompt, (cheapest, cheapest), 0, Random(0))
    found = near.cheaper(best, choice, lambda _: [cost - saved for cost in far])
    together = [(i, j) for i, _ in prefill for j, _ in decode if of[i] is not None and of[i] == of[j]]
    every = [p + d - (saved if (i, j) in together else 0.0) for i, p in prefill for j, d in decode if i != j]
    assert (found.cost if found is not None else None) == min(every, default=None)
    if found is not None and found.prefill is not None:
        assert prefillers[found.prefill] is not decoders[found.decode]


@given(COSTS, COSTS)
def test_one_endpoint_alone_is_preferred_where_a_pair_gains_nothing(pair: float, single: float) -> None:
    divided, whole = Pair(1, 0, pair), Pair(None, 0, single)
    assert cheaper(divided, whole) is (whole if single <= pair else divided)
    assert cheaper(None, whole) is whole and cheaper(divided, None) is divided
