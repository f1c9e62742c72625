"""The joint choice of two endpoints for one request: who computes the prompt, and who the answer. Pure.

With `prompt[i]`, what the prompt costs at the i-th endpoint for prompts, and `answer[j]`, what moving the prompt to the
j-th endpoint for answers and answering there costs, a pair costs `prompt[i] + answer[j]`: moving a prompt takes as long
as it is, wherever it comes from. So the best pair of all is the best of each, which needs two passes and no product of
the two lists. The one exception is an endpoint that is on both lists and best on both, which is no pair: then the best
pair is the better of (best, second) and (second, best), since any other costs more than one of these two. Against it
stands the cost of one endpoint that does both, where that is allowed.

Where moving takes less within a domain (a host, a zone), the same holds in each domain by itself. Nobody takes more
within one than across, so the best of all is the best of these and of the whole, counted as if it were far.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
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


class Domain(NamedTuple):
    """The members of a domain: indices of each list. No pair of theirs costs less than `least`."""

    least: float
    prefill: list[int]
    decode: list[int]


def domains(
    of_prefill: Sequence[Hashable], of_decode: Sequence[Hashable], prompt: Sequence[float], answer: Sequence[float]
) -> list[Domain]:
    """Those that have members in both lists, the one with the least first. An endpoint in None is in no domain."""
    first, second = _members(of_prefill), _members(of_decode)
    found = [
        Domain(min(prompt[at] for at in members) + min(answer[at] for at in second[name]), members, second[name])
        for name, members in first.items()
        if name in second
    ]
    return sorted(found, key=lambda one: one.least)


def _members(of: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    found: dict[Hashable, list[int]] = defaultdict(list)
    for at, name in enumerate(of):
        if name is not None:
            found[name].append(at)
    return found


def cheaper(pair: Pair | None, single: Pair | None) -> Pair | None:
    """The pair, or the endpoint that does both if that costs no more."""
    if pair is None or single is None:
        return pair or single
    return single if single.cost <= pair.cost else pair


def _cost(pair: Pair) -> float:
    return pair.cost
