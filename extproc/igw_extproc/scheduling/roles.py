"""Which of a dynamic pool's endpoints for both roles computes prompts, and which answers, for the time being. Pure.

`balance` weighs the pool's demand for each role, in endpoints' worth of work, against the endpoints that have it. Where
engines or exporters tell how busy GPUs are, prompts are worth at least the share of the time in which those for prompts
compute: a prefiller that is just not overrun has no queue, and yet nothing to spare. Of answers it tells nothing: one
that runs keeps a GPU as busy as a hundred do, and what they run out of is the cache. One
endpoint changes its role if that lowers the higher of the two pressures by a clear margin. The demands are of the whole
pool, whoever serves them, so they stay as they are when a role changes: each change lowers the pressure by at least
that margin, and under a constant load there cannot be a circle. Real loads vary, so demands are smoothed, and each
endpoint keeps a role for at least `dwell`. Only when nobody is left for a role, one changes at once.

Requests that an endpoint has when its role changes end there as they began.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from igw_api.split import Role
from igw_extproc.inflight import Ledger

log = logging.getLogger(__name__)

# Seconds between two looks: often enough for a smoothed demand, too seldom to cost anything.
REVIEW: Final = 1.0
# One endpoint's worth of prompts: uncached tokens that wait for about a second. And of answers: its KV cache, less what
# an engine keeps free so that it need not throw requests out.
PROMPTS: Final = 16_384.0
ANSWERS: Final = 0.8
# Below this share of an endpoint's worth nothing is gained by a change.
BUSY: Final = 0.5
# What a change must gain.
MARGIN: Final = 0.05
# Changes in one `dwell`, of different endpoints: a fleet that starts with the wrong roles should not take an hour.
PACE: Final = 6


class Demand(NamedTuple):
    """Work of each kind in a pool, in endpoints' worth."""

    prefill: float
    decode: float


def pressure(demand: Demand, prefill: int, decode: int) -> float:
    """The higher load of an endpoint, of those that many. Nobody for a role: infinite."""
    if not prefill or not decode:
        return math.inf
    return max(demand.prefill / prefill, demand.decode / decode)


def balance(demand: Demand, prefill: int, decode: int) -> Role | None:
    """Which role one more endpoint should have, of those that many have now. None: all is well."""
    now = pressure(demand, prefill, decode)
    if now < BUSY:
        return None
    best, gains = now * (1 - MARGIN), None
    for role, step in ((Role.PREFILL, 1), (Role.DECODE, -1)):
        then = pressure(demand, prefill + step, decode - step)
        if then < best:
            best, gains = then, role
    return gains


class Roles:
    """One pool's roles. `now`: of the endpoints for both, by slot. `changes` counts since the start."""

    def __init__(self, dwell: float) -> None:
        self.dwell = dwell
        self.now: dict[int, Role] = {}
        self.changes = 0
        self.gpus: Mapping[int, float] = {}  # by slot: the share of the time in which they compute, where that is told
        self._all: tuple[tuple[Ledger, Role], ...] = ()
        self._demand: Demand | None = None
        self._reviewed_at = -math.inf
        self._may_change_at: float | None = None
        self._changed_at: dict[int, float] = {}  # by slot

    def serve(self, endpoints: Sequence[tuple[Ledger, Role]]) -> None:
        """The pool has these endpoints, with what they are for. Newcomers for both begin with answers."""
        self._all = tuple(endpoints)
        both = [one.slot for one, role in endpoints if role is Role.BOTH]
        self.now = {slot: self.now.get(slot, Role.DECODE) for slot in both}
        # Whether they answer or not: the roles should be there before the first request.
        self._fill(self._by_role(only_available=False))

    def review(self, now: float) -> None:
        """Look whether an endpoint should change its role. Cheap when called too often."""
        if now < self._reviewed_at + REVIEW:
            return
        demand = self._smoothed(now)
        self._reviewed_at = now
        if self._may_change_at is None:
            self._may_change_at = now + self.dwell / PACE
        there = self._by_role(only_available=True)
        changed = self._fill(there)
        if changed is None and now >= self._may_change_at and all(there.values()):
            wanted = balance(demand, len(there[Role.PREFILL]), len(there[Role.DECODE]))
            changed = self._change(there, wanted, now) if wanted is not None else None
        if changed is not None:
            self._changed_at[changed] = now
            self._may_change_at = now + self.dwell / PACE

    def _by_role(self, *, only_available: bool) -> dict[Role, list[Ledger]]:
        there: dict[Role, list[Ledger]] = {Role.PREFILL: [], Role.DECODE: []}
        for ledger, role in self._all:
            if ledger.available or not only_available:
                there[self.now.get(ledger.slot, role)].append(ledger)
        return there

    def _fill(self, there: Mapping[Role, Sequence[Ledger]]) -> int | None:
        """If nobody has a role, one takes it from those of whom there are two or more. Answers go before prompts."""
        for role, other in ((Role.DECODE, Role.PREFILL), (Role.PREFILL, Role.DECODE)):
            enough = 1 if role is Role.DECODE else 2
            if not there[role] and len(there[other]) >= enough:
                return self._change(there, role, math.inf)
        return None

    def _change(self, there: Mapping[Role, Sequence[Ledger]], role: Role, now: float) -> int | None:
        """Give `role` to the endpoint with least to do that may have it, and has had its own for `dwell`.

        Returns its slot; None: there is none.
        """
        other = Role.DECODE if role is Role.PREFILL else Role.PREFILL
        settled, before = now - self.dwell, self._changed_at
        movable = [one for one in there[other] if one.slot in self.now and before.get(one.slot, -math.inf) <= settled]
        if not movable:
            return None
        chosen = min(movable, key=lambda one: (one.queued, one.backlog_tokens, self.gpus.get(one.slot, 0.0), one.slot))
        self.now[chosen.slot] = role
        self.changes += 1
        prefill, decode = self._demand if self._demand is not None else (0.0, 0.0)
        log.info(
            "role changed endpoint=%s role=%s prefill_demand=%.2f decode_demand=%.2f",
            chosen.endpoint.address,
            role.value,
            prefill,
            decode,
        )
        return chosen.slot

    def _smoothed(self, now: float) -> Demand:
        """The demand now, and what is remembered of it: over about half of `dwell`."""
        there = self._by_role(only_available=True)
        busy = sum(self.gpus.get(one.slot, 0.0) for one in there[Role.PREFILL])
        seen = measure([*there[Role.PREFILL], *there[Role.DECODE]], busy)
        before = self._demand
        if before is not None:
            gain = -math.expm1((self._reviewed_at - now) / (self.dwell / 2))
            seen = Demand(*(old + gain * (new - old) for old, new in zip(before, seen, strict=True)))
        self._demand = seen
        return seen


def measure(ledgers: Sequence[Ledger], busy: float = 0.0) -> Demand:
    """What a pool's endpoints have to do, by their ledgers. `busy`: how much GPUs compute of those that do prompts."""
    prompts = sum(one.backlog_tokens for one in ledgers) / PROMPTS
    return Demand(max(prompts, busy), sum(one.kv_load for one in ledgers) / ANSWERS)
