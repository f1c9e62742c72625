"""The placement step: match, cost, choose, reserve, before anything else runs on the event loop.

A burst therefore never sees the same state twice: each pick already counts the one before. Pure but for the ledgers
and the index it updates. The director calls `Scheduler.pick` with a pool's candidates.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, Protocol

from igw_api.split import PrefillFailure, Role
from igw_extproc.domain import Ask
from igw_extproc.inflight import Ledger
from igw_extproc.scheduling import filters
from igw_extproc.scheduling.pickers import Picker
from igw_extproc.scheduling.popularity import NOTHING_HELD, Held, Popularity
from igw_extproc.scheduling.prefix import PrefixIndex
from igw_extproc.scheduling.scorers import add_adapter, add_stay
from igw_extproc.speeds import Levelling, level

# Candidates, the request, what of it is held where -> one cost for each candidate.
Costs = Callable[[Sequence[Ledger], Ask, Held], list[float]]


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to place requests: what an endpoint costs, and how costs become an order.

    `second`: what a second is in the unit of its costs; 0: nothing, so that adapters and sessions do not matter.
    """

    name: str
    costs: Costs
    picker: Picker
    reuses_prefixes: bool = False
    second: float = 1.0


class Reservation(Protocol):
    """What a request holds until it ends: a lease, or one at each of two endpoints."""

    @property
    def ledger(self) -> Ledger:
        """Where the answer comes from."""

    @property
    def ask(self) -> Ask:
        """What is counted there."""

    @property
    def matched_tokens(self) -> int:
        """Of the prompt, what the prefix index expects in the cache there."""

    def first_byte(self, now: float, succeeded: bool = True) -> None:
        """The endpoint began to answer."""

    def counted(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The engine's own count of the prompt, and of what it found in its cache."""

    def close(self, now: float, succeeded: bool = True) -> None:
        """The request is over."""

    def forget(self) -> None:
        """It is over, and kept without what grows with its prompt."""

    def moved_to(self, other: Ledger) -> None:
        """The proxy retried there."""

    def hold(self) -> None:
        """The request waits in the picker for its place there."""

    def go(self) -> None:
        """It need not wait, as is known in the same step."""

    def send(self, now: float) -> None:
        """It waits no longer."""


class Onlooker(Protocol):
    """Who is told of each pick before it is reserved, and must change nothing: a shadow policy.

    `index`: the prefix index that it wants filled where the active policy has none.
    """

    @property
    def index(self) -> PrefixIndex | None: ...

    def look(
        self,
        candidates: Sequence[Ledger],
        ask: Ask,
        costs: Sequence[float],
        held: Held,
        chosen: int,
        now: float,
    ) -> None: ...


class Weighed(NamedTuple):
    """One choice as it was made, to be explained later: who could be chosen, what each cost, and had in its cache."""

    policy: str
    role: Role  # what the chosen one would do
    candidates: Sequence[Ledger]
    costs: Sequence[float]  # in their order
    cached: Mapping[int, int]  # tokens of the prompt, by slot


class Decision(NamedTuple):
    """Where a request goes. `order[0]` is chosen and already reserved by `lease`; retries walk the rest."""

    order: tuple[Ledger, ...]
    cached_tokens: int  # of the prompt, where it is computed
    lease: Reservation
    weighed: tuple[Weighed, ...]
    prefiller: Ledger | None = None  # who computes the prompt, if not `order[0]`
    first_token_s: float = 0.0  # predicted seconds until the first token


class Scheduler:
    """Places the requests of one pool by one policy. Replace it to change the policy; keep the index."""

    def __init__(self, policy: Policy, index: PrefixIndex) -> None:
        self.policy = policy
        self.onlooker: Onlooker | None = None
        # By slot, where engines find less in their caches than the index expects (`Ledgers.doubts`).
        self.doubts: Mapping[int, float] = {}
        self._index = index
        self._popularity = Popularity()
        self._turn = -1
        self._levelling = Levelling()
        self._endpoints = 1  # candidates of the last request that came

    @property
    def reads_prefixes(self) -> bool:
        """Whether an `Ask` needs its prefix: hashing a prompt for nobody would be waste."""
        return self._learning is not None

    @property
    def _learning(self) -> PrefixIndex | None:
        """The index that learns what was placed where."""
        if self.policy.reuses_prefixes:
            return self._index
        return self.onlooker.index if self.onlooker is not None else None

    def candidates(self, ledgers: Sequence[Ledger], subset: Container[str] | None = None) -> list[Ledger]:
        """Who of the pool may be chosen, as `filters` says."""
        return filters.candidates(ledgers, subset)

    def missing(self, candidates: Sequence[Ledger], ask: Ask | None = None) -> PrefillFailure | None:
        """What to do, since nobody among `candidates` can compute the prompt of `ask`, or any. None: somebody can."""
        return None

    def pick(
        self,
        candidates: Sequence[Ledger],
        ask: Ask,
        now: float,
        rng: Random,
        again: bool = False,
    ) -> Decision | None:
        """Choose among `candidates` and reserve at the choice. None: there are no candidates.

        `again`: for a request that had been chosen for already, among some of the candidates that it had then. The
        onlooker has seen it.
        """
        if not candidates:
            return None
        if not again:
            self._endpoints = len(candidates)
            if self._levelling.due(now):
                level(candidates)
        held = (
            self._popularity.held(self._index, ask.prefix, self.doubts, self._endpoints)
            if self.policy.reuses_prefixes
            else NOTHING_HELD
        )
        return self._choose(candidates, ask, held, now, rng, again)

    def _choose(
        self, candidates: Sequence[Ledger], ask: Ask, held: Held, now: float, rng: Random, again: bool
    ) -> Decision:
        policy = self.policy
        costs = costs_of(policy, candidates, ask, held)
        self._turn += 1
        order = policy.picker(candidates, costs, self._turn, rng)
        best = candidates[order[0]]
        if now >= best.stale_at:
            # Its engine has said nothing for too long, so it may only look idle. Ageing can only raise costs, and
            # happens once for each silence: a winner that is not stale needs no look at the others.
            _age(candidates, now)
            return self._choose(candidates, ask, held, now, rng, again)
        if self.onlooker is not None and not again:
            self.onlooker.look(candidates, ask, costs, held, order[0], now)
        hit = held.tokens.get(best.slot, 0)
        index = self._learning if ask.prefix else None
        expectation = index.expect(best.slot, ask.prefix, best.kv_capacity) if index is not None else None
        predicted = best.first_token_s(ask, hit)
        lease = best.reserve(ask, hit, now, expectation, held.matched.get(best.slot, 0))
        weighed = (Weighed(policy.name, Role.BOTH, candidates, costs, held.tokens),)
        return Decision(tuple([candidates[at] for at in order]), hit, lease, weighed, first_token_s=predicted)


def costs_of(policy: Policy, candidates: Sequence[Ledger], ask: Ask, held: Held) -> list[float]:
    """What each candidate costs by `policy`, the request's adapter and session included."""
    costs = policy.costs(candidates, ask, held)
    if ask.adapter is not None:
        add_adapter(costs, candidates, ask.adapter, policy.second)
    if ask.stay is not None and policy.second:
        counted = held if policy.reuses_prefixes else NOTHING_HELD
        add_stay(costs, candidates, ask.stay, ask.prompt_tokens, counted, policy.second)
    return costs


def _age(candidates: Sequence[Ledger], now: float) -> None:
    for ledger in candidates:
        ledger.age(now)
