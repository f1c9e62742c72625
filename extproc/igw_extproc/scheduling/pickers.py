"""How costs become an order of at most three endpoints: the choice, then where retries go. Pure.

Each takes the candidates, their costs, the number of this pick and a source of randomness, and returns indices into
the candidates, best first.
"""

from collections.abc import Callable, Sequence
from heapq import nsmallest
from random import Random

from igw_extproc.inflight import Ledger

# The choice and two fallbacks: a second retry that fails too is a problem of more than endpoints.
LENGTH = 3

Picker = Callable[[Sequence[Ledger], Sequence[float], int, Random], list[int]]


# Up to here, sorting everything takes less time than looking for the lowest.
_FEW = 12


def cheapest(candidates: Sequence[Ledger], costs: Sequence[float], turn: int, rng: Random) -> list[int]:
    """Lowest cost first. Ties: fewer requests of ours in flight, then at random."""
    count = len(costs)
    if count <= _FEW:
        draw = rng.random
        ranked = [(costs[at], candidates[at].requests, draw(), at) for at in range(count)]
        ranked.sort()
        return [one[3] for one in ranked[:LENGTH]]
    return _cheapest_of_many(candidates, costs, rng)


def _cheapest_of_many(candidates: Sequence[Ledger], costs: Sequence[float], rng: Random) -> list[int]:
    lowest = nsmallest(LENGTH, costs)
    order: list[int] = []
    while len(order) < len(lowest):
        rank = len(order)
        low = lowest[rank]
        # A value followed by a higher one is alone. The last may have equals that did not fit into `lowest`.
        if rank + 1 < len(lowest) and low < lowest[rank + 1]:
            order.append(costs.index(low))
            continue
        ties = [at for at, cost in enumerate(costs) if cost == low]
        order += _fewest_requests(candidates, ties, len(lowest) - rank, rng)
    return order


def _fewest_requests(candidates: Sequence[Ledger], ties: list[int], wanted: int, rng: Random) -> list[int]:
    if len(ties) <= 1:
        return ties
    requests = [candidates[at].requests for at in ties]
    fewest = min(requests)
    first = [at for at, count in zip(ties, requests, strict=True) if count == fewest]
    if len(first) >= wanted:
        return _draw(first, wanted, rng)
    rest = [at for at, count in zip(ties, requests, strict=True) if count > fewest]
    return _draw(first, wanted, rng) + _fewest_requests(candidates, rest, wanted - len(first), rng)


def in_turn(candidates: Sequence[Ledger], costs: Sequence[float], turn: int, rng: Random) -> list[int]:
    """One after the other."""
    count = len(candidates)
    return [(turn + step) % count for step in range(min(LENGTH, count))]


def shuffled(candidates: Sequence[Ledger], costs: Sequence[float], turn: int, rng: Random) -> list[int]:
    """Any, all equally likely."""
    return _draw(range(len(candidates)), LENGTH, rng)


def _draw(among: Sequence[int], wanted: int, rng: Random) -> list[int]:
    """Up to `wanted` different ones at random: cheaper than `Random.sample` for so few."""
    if len(among) <= wanted:
        drawn = list(among)
        rng.shuffle(drawn)
        return drawn
    drawn = []
    while len(drawn) < wanted:
        one = among[int(rng.random() * len(among))]
        if one not in drawn:
            drawn.append(one)
    return drawn
