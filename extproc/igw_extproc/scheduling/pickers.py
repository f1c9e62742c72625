"""How costs become an order of at most three endpoints: the choice, then where retries go. Pure.

Each takes the candidates, their costs, the number of this pick and a source of randomness, and returns indices into
the candidates, best first. Costs may be overwritten.
"""

from collections.abc import Callable, Sequence
from random import Random

from igw_extproc.inflight import Ledger

# The choice and two fallbacks: a second retry that fails too is a problem of more than endpoints.
LENGTH = 3
_TAKEN = float("inf")

Picker = Callable[[Sequence[Ledger], list[float], int, Random], list[int]]


def cheapest(candidates: Sequence[Ledger], costs: list[float], turn: int, rng: Random) -> list[int]:
    """Lowest cost first. Ties: fewer requests of ours in flight, then at random."""
    order: list[int] = []
    wanted = min(LENGTH, len(costs))
    while len(order) < wanted:
        low = min(costs)
        if costs.count(low) == 1:
            order.append(costs.index(low))
        else:
            ties = [at for at, cost in enumerate(costs) if cost == low]
            order += _fewest_requests(candidates, ties, wanted - len(order), rng)
        for at in order:
            costs[at] = _TAKEN
    return order


def _fewest_requests(candidates: Sequence[Ledger], ties: list[int], wanted: int, rng: Random) -> list[int]:
    requests = [candidates[at].requests for at in ties]
    fewest = min(requests)
    if requests.count(fewest) < len(ties):
        ties = [at for at, count in zip(ties, requests, strict=True) if count == fewest]
    return _draw(ties, wanted, rng)


def in_turn(candidates: Sequence[Ledger], costs: list[float], turn: int, rng: Random) -> list[int]:
    """One after the other."""
    count = len(candidates)
    return [(turn + step) % count for step in range(min(LENGTH, count))]


def shuffled(candidates: Sequence[Ledger], costs: list[float], turn: int, rng: Random) -> list[int]:
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
