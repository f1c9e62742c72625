"""Which request of a line is next: the highest priority first, within it fairly, and none left to starve.

Strict order alone would never serve the lower bands of a pool whose higher ones keep it full. So a request that has
waited for `aged_after` seconds is owed a share: of the tokens served while such a one was passed over, its like get one
in `AGED_SHARE + 1`, the oldest first. Sheddable requests (priority below zero) are owed nothing: to be refused is what
they are for.

Bands exist while somebody waits in them; priorities are declared by objects, so there are few. Every operation is
O(bands + log tenants). Pure; used by `lines`.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Final, Generic

from igw_extproc.flowcontrol.fairness import FairQueue
from igw_extproc.flowcontrol.waiters import Payload, Waiter

# Tokens of higher bands for one of aged requests below: these are slowed by an eighth at most.
AGED_SHARE: Final = 7


class Bands(Generic[Payload]):
    """All that may be served now. `aged_after` in seconds."""

    def __init__(self, aged_after: float) -> None:
        self.aged_after = aged_after
        self._bands: dict[int, FairQueue[Payload]] = {}
        self._order: list[int] = []  # highest first
        self._passed_over = 0  # tokens served while an aged request of a lower band waited

    def __len__(self) -> int:
        return sum(map(len, self._bands.values()))

    def __iter__(self) -> Iterator[Waiter[Payload]]:
        """The higher priorities first, in each as they came."""
        return chain.from_iterable(self._bands[priority] for priority in self._order)

    @property
    def highest(self) -> int | None:
        """The highest priority that waits. None: nobody does."""
        return self._order[0] if self._order else None

    def lengths(self) -> dict[int, int]:
        """How many wait, by priority."""
        return {priority: len(self._bands[priority]) for priority in self._order}

    def push(self, waiter: Waiter[Payload], front: bool = False) -> None:
        """Let it wait behind its tenant's others, or before them."""
        band = self._bands.get(waiter.priority)
        if band is None:
            band = self._bands[waiter.priority] = FairQueue()
            self._order = sorted(self._bands, reverse=True)
        band.push(waiter, front)

    def head(self, now: float) -> Waiter[Payload] | None:
        """The one to be served next."""
        if not self._order:
            return None
        aged = self._aged(now)
        if aged is not None and self._passed_over >= AGED_SHARE * aged.cost:
            return aged
        return self._bands[self._order[0]].head()

    def served(self, waiter: Waiter[Payload], now: float) -> None:
        """Remove the head and charge its tenant."""
        aged = self._aged(now)
        if waiter is aged:
            self._passed_over = max(0, self._passed_over - AGED_SHARE * waiter.cost)
        else:
            self._passed_over = self._passed_over + waiter.cost if aged is not None else 0
        self._bands[waiter.priority].served(waiter)
        self._removed(waiter)

    def remove(self, waiter: Waiter[Payload]) -> None:
        """It waits no longer; nobody is charged."""
        self._bands[waiter.priority].remove(waiter)
        self._removed(waiter)

    def last_sheddable(self) -> Waiter[Payload] | None:
        """The first to be refused when others need the place: of the lowest sheddable band, the newest."""
        lowest = self._order[-1] if self._order else 0
        return self._bands[lowest].newest() if lowest < 0 else None

    def _aged(self, now: float) -> Waiter[Payload] | None:
        """Of the requests that are next in a lower band and have aged, the oldest."""
        oldest: Waiter[Payload] | None = None
        for priority in self._order[1:]:
            if priority < 0:
                break
            head = self._bands[priority].head()
            if head is not None and (oldest is None or head.arrived_at < oldest.arrived_at):
                oldest = head
        return oldest if oldest is not None and now - oldest.arrived_at >= self.aged_after else None

    def _removed(self, waiter: Waiter[Payload]) -> None:
        if not self._bands[waiter.priority]:
            del self._bands[waiter.priority]
            self._order.remove(waiter.priority)
