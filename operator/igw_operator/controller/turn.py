"""Whose turn it is: asks the record of operators whether this one may write, and says so. Called by `reconcile`."""

from collections.abc import Callable
from dataclasses import dataclass, field

from igw_api.objects import Key
from igw_operator.controller.health import Health
from igw_operator.controller.kube import Kube
from igw_operator.controller.peers import is_alive, leader_besides
from igw_operator.controller.resources import PEERING


@dataclass(frozen=True, slots=True)
class Leadership:
    """Which operator may write. `peering` None: this one, alone."""

    peering: str | None
    identity: str
    priority: int


@dataclass(slots=True)
class Turn:
    """`mine`: what the last look said. `clock`: seconds since the epoch."""

    kube: Kube
    leadership: Leadership
    health: Health
    clock: Callable[[], float]
    mine: bool = field(default=False, init=False)

    async def look(self) -> bool:
        """Whether this operator may write, by a fresh look. Raises ApiError."""
        self.mine = await self._is_mine()
        self.health.active.set(self.mine)
        return self.mine

    async def _is_mine(self) -> bool:
        own = self.leadership
        if own.peering is None:
            return True
        record = await self.kube.get(PEERING, Key("", own.peering))
        if record is None:
            self.health.say(f"waiting for the ClusterKopfPeering {own.peering}, which does not exist", ready=False)
            return False
        status, now = record.get("status") or {}, self.clock()
        other = leader_besides(status, own.identity, own.priority, now)
        if other is not None:
            self.health.say(f"standing by: {other} is in charge", ready=True)
        elif not is_alive(status.get(own.identity), now):
            # Two that start at once would both believe to be alone; and one that cannot renew its record is believed
            # to be dead by the others.
            self.health.say(f"waiting for a record of this operator in ClusterKopfPeering {own.peering}", ready=False)
            return False
        return other is None
