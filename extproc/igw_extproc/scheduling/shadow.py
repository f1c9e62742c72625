"""A second policy beside the one that places: asked about the same candidates at the same moment, and never obeyed.

Pure. It reads ledgers and changes none, and it has a turn, a source of chance and, where it needs one that the active
policy does not keep, a prefix index of its own: live decisions are the same with and without it. It judges a state
that the active policy has made: what its own choices would have led to, it cannot know. `Scheduler` calls `look` for
each pick, before the reservation.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from igw_extproc.domain import Ask
from igw_extproc.inflight import Ledger
from igw_extproc.scheduling.framework import Policy, costs_of
from igw_extproc.scheduling.pickers import cheapest
from igw_extproc.scheduling.popularity import Held, Popularity
from igw_extproc.scheduling.prefix import PrefixIndex

log = logging.getLogger(__name__)

# Entries of a shadow's own prefix index: a quarter of the live one's, about 70 MB at most.
MAX_ENTRIES: Final = 250_000


@dataclass(slots=True)
class Side:
    """One of the two policies, over all compared picks.

    `gain`: what its choices cost less than the other's by its own formula, so in its own unit; a policy that does not
    compare gains nothing. `cached_tokens`: prompt tokens that its choices were expected to hold.
    """

    policy: str
    choices: Counter[str] = field(default_factory=Counter)  # by address
    gain: float = 0.0
    cached_tokens: int = 0

    def chose(self, ledger: Ledger, gain: float, cached: Mapping[int, int]) -> None:
        """Count one choice."""
        self.choices[ledger.endpoint.address] += 1
        self.gain += gain
        self.cached_tokens += cached.get(ledger.slot, 0)

    def keep(self, addresses: Collection[str]) -> None:
        """Forget the choices of all other endpoints."""
        for address in self.choices.keys() - addresses:
            del self.choices[address]


@dataclass(frozen=True, slots=True)
class ShadowStatistics:
    """What a shadow has seen so far, for telemetry."""

    compared: int
    agreed: int
    active: Side
    shadow: Side


class Shadow:
    """One pool's shadow policy and what came of comparing it. `sampling`: the share of picks that it looks at."""

    def __init__(self, pool: str, active: Policy, policy: Policy, sampling: float, rng: Random) -> None:
        self.active = active
        self.policy = policy
        self.sampling = sampling
        # Where the active policy keeps no index, there is none to read. Feeding the live one would change what other
        # pools at the same engines find there.
        own = policy.reuses_prefixes and not active.reuses_prefixes
        self.index = PrefixIndex(MAX_ENTRIES) if own else None
        self._popularity = Popularity()
        self._pool = pool
        self._rng = rng
        self._turn = -1
        self._compared = self._agreed = 0
        self._sides = Side(active.name), Side(policy.name)

    def look(
        self,
        candidates: Sequence[Ledger],
        ask: Ask,
        costs: Sequence[float],
        held: Held,
        chosen: int,
        now: float,
    ) -> None:
        """Choose as well, and compare. `costs` and `held` are the active policy's, `chosen` its choice."""
        if self.sampling < 1.0 and self._rng.random() >= self.sampling:
            return
        if self.index is not None:
            held = self._popularity.held(self.index, ask.prefix, {}, len(candidates))
        own = costs_of(self.policy, candidates, ask, held)
        self._turn += 1
        other = self.policy.picker(candidates, own, self._turn, self._rng)[0]
        if now >= candidates[other].stale_at:
            # It may only look idle. An active policy would let the ledgers age and choose again; we may change none.
            return
        self._compared += 1
        self._agreed += other == chosen
        active, shadow = self._sides
        active.chose(candidates[chosen], _less(self.active, costs, chosen, other), held.tokens)
        shadow.chose(candidates[other], _less(self.policy, own, other, chosen), held.tokens)
        if log.isEnabledFor(logging.DEBUG):
            live, seen = (candidates[at].endpoint.address for at in (chosen, other))
            log.debug("shadow pool=%s policy=%s would=%s does=%s", self._pool, self.policy.name, seen, live)

    def keep_endpoints(self, addresses: Collection[str]) -> None:
        """Forget the counts of all other endpoints."""
        for side in self._sides:
            side.keep(addresses)

    def forget(self, slot: int) -> None:
        """What the endpoint held is lost."""
        if self.index is not None:
            self.index.forget(slot)

    def statistics(self) -> ShadowStatistics:
        """The counts so far. The sides are live: read, do not keep."""
        return ShadowStatistics(self._compared, self._agreed, *self._sides)


def _less(policy: Policy, costs: Sequence[float], chosen: int, other: int) -> float:
    """What the choice costs less than the other, as `policy` sees it. Its own choice is never dearer."""
    return costs[other] - costs[chosen] if policy.picker is cheapest else 0.0


class Shadows:
    """The shadows of all pools, kept over changes of the rest."""

    def __init__(self) -> None:
        self._by_pool: dict[str, Shadow] = {}

    def of(self, pool: str, active: Policy, policy: Policy, sampling: float) -> Shadow:
        """The pool's shadow. A new one, with counts of its own, when either policy is another than before."""
        known = self._by_pool.get(pool)
        if known is None or known.active is not active or known.policy is not policy:
            # Seeded by the name: repeatable, and no draw from the live source of chance.
            known = self._by_pool[pool] = Shadow(pool, active, policy, sampling, Random(pool))
        known.sampling = sampling
        return known

    def keep(self, addresses: Mapping[str, Collection[str]]) -> None:
        """Forget all other pools, and what was counted for all other endpoints of these."""
        for pool in self._by_pool.keys() - addresses.keys():
            del self._by_pool[pool]
        for pool, shadow in self._by_pool.items():
            shadow.keep_endpoints(addresses[pool])

    def forget(self, slot: int) -> None:
        """What the endpoint held is lost."""
        for shadow in self._by_pool.values():
            shadow.forget(slot)

    def statistics(self) -> dict[str, ShadowStatistics]:
        """By pool."""
        return {pool: shadow.statistics() for pool, shadow in self._by_pool.items()}
