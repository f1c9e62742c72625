"""The joint choice of two endpoints for one request: who computes the prompt, and who the answer. Pure.

With `prompt[i]`, what the prompt costs at the i-th endpoint for prompts, and `answer[j]`, what moving the prompt to the
j-th endpoint for answers and answering there costs, a pair costs `prompt[i] + answer[j]`: moving a prompt takes as long
as it is, wherever it comes from. So the best pair of all is the best of each, which needs two passes and no product of
the two lists. The one exception is an endpoint that is on both lists and best on both, which is no pair: then the best
pair is the better of (best, second) and (second, best), since any other costs more than one of these two. Against it
stands the cost of one endpoint that does both, where that is allowed.
"""

from collections.abc import Sequence
from typing import NamedTuple

from igw_extproc.inflight import Ledger


class Pair(NamedTuple):
    """Indices: who computes the prompt among those for prompts (None: who answers), who answers among those for
    answers."""

    prefill: int | None
    decode: int
    cost: float


def best_pair(
    prefillers: Sequence[Ledger],
    decoders: Sequence[Ledger],
    prompt: Sequence[float],
    answer: Sequence[float],
    orders: tuple[Sequence[int], Sequence[int]],
) -> Pair | None:
    """The cheapest pair of two different endpoints; None: there is none.

    `orders`: the first two or more of each list, best first, as its policy ranks them.
    """
    first, second = orders
    if not first or not second:
        return None
    if prefillers[first[0]] is not decoders[second[0]]:
        ends = [(first[0], second[0])]
    else:
        ends = [(first[0], at) for at in second[1:2]] + [(at, second[0]) for at in first[1:2]]
    found = [Pair(i, j, prompt[i] + answer[j]) for i, j in ends]
    return min(found, key=_cost, default=None)


def cheaper(pair: Pair | None, single: Pair | None) -> Pair | None:
    """The pair, or the endpoint that does both if that costs no more."""
    if pair is None or single is None:
        return pair or single
    return single if single.cost <= pair.cost else pair


def _cost(pair: Pair) -> float:
    return pair.cost
