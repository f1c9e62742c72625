"""Pairs whose way to each other is shorter: endpoints with the same value of a label, a host's or a zone's. Pure.

`split` asks for a pair that costs less than the best of all, for which moving is counted as between any two.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from igw_extproc.inflight import Ledger
from igw_extproc.scheduling.pairs import Domain, Pair, best_pair, cheaper, domains
from igw_extproc.scheduling.pickers import Picker


class Choice(NamedTuple):
    """What a pair is chosen from: both lists, what the prompt costs at the first, how each is ranked, and chance."""

    prefill: Sequence[Ledger]
    decode: Sequence[Ledger]
    prompt: Sequence[float]
    pickers: tuple[Picker, Picker]
    turn: int
    rng: Random


class Level(NamedTuple):
    """Domains of one size: what moving a token within one takes, and each endpoint's domain by slot."""

    transfer: float
    domains: dict[int, str | None]


class Nearby:
    """One pool's endpoints by what they share: `labels` with what moving takes then, nearest first."""

    def __init__(self, labels: Sequence[tuple[str, float]], ledgers: Sequence[Ledger]) -> None:
        self.levels = [
            Level(transfer, {one.slot: one.endpoint.labels.get(label) for one in ledgers}) for label, transfer in labels
        ]

    def transfer(self, prefiller: Ledger, decoder: Ledger, otherwise: float) -> float:
        """What moving a token between these two takes, as a share of computing it."""
        for transfer, of in self.levels:
            shared = of.get(prefiller.slot)
            if shared is not None and shared == of.get(decoder.slot):
                return transfer
        return otherwise

    def cheaper(self, best: Pair | None, choice: Choice, answer: Callable[[float], Sequence[float]]) -> Pair | None:
        """`best`, or a pair within a domain that costs no more. `answer`: what answers cost where moving takes that."""
        for transfer, of in self.levels:
            costs = answer(transfer)
            first, second = ([of.get(one.slot) for one in side] for side in (choice.prefill, choice.decode))
            for domain in domains(first, second, choice.prompt, costs):
                if best is not None and domain.least >= best.cost:
                    break
                best = cheaper(best, _within(domain, choice, costs))
        return best


def _within(domain: Domain, choice: Choice, costs: Sequence[float]) -> Pair | None:
    """The best pair in a domain, by the policies' own ranks."""
    prefill, prompt = [choice.prefill[at] for at in domain.prefill], [choice.prompt[at] for at in domain.prefill]
    decode, answer = [choice.decode[at] for at in domain.decode], [costs[at] for at in domain.decode]
    first, second = choice.pickers
    orders = first(prefill, prompt, choice.turn, choice.rng), second(decode, answer, choice.turn, choice.rng)
    found = best_pair(prefill, decode, prompt, answer, orders)
    if found is None or found.prefill is None:
        return None
    return Pair(domain.prefill[found.prefill], domain.decode[found.decode], found.cost)
