"""Waiting requests for tests of the picker's queue, and a line of them without limits or priorities."""

import itertools

from igw_extproc.domain import Ask
from igw_extproc.flowcontrol.fairness import FairQueue
from igw_extproc.flowcontrol.waiters import Waiter

_sequences = itertools.count(1)


def ask(cost: int = 100, priority: int = 0) -> Ask:
    """A request of so many tokens, half of them prompt."""
    return Ask("m", cost - cost // 2, cost // 2, priority=priority)


def waiter(tenant: str = "", cost: int = 100, priority: int = 0, now: float = 0.0) -> Waiter[object]:
    """A request that waits since `now` and holds 1 kB."""
    return Waiter(next(_sequences), ask(cost, priority), tenant, 1000, now, now + 10.0, object())


class Line:
    """The requests of one priority."""

    def __init__(self) -> None:
        self.queue: FairQueue[object] = FairQueue()

    def comes(self, tenant: str, cost: int) -> Waiter[object]:
        """One more waits."""
        made = waiter(tenant, cost)
        self.queue.push(made)
        return made

    def leaves(self, gone: Waiter[object]) -> None:
        """It waits no longer."""
        self.queue.remove(gone)

    def served(self) -> Waiter[object] | None:
        """The next one."""
        head = self.queue.head()
        if head is not None:
            self.queue.served(head)
        return head

    def all_served(self, count: int) -> list[Waiter[object]]:
        """The next `count`, which must be there."""
        served = [self.served() for _ in range(count)]
        return [one for one in served if one is not None]

    def tenants(self, count: int) -> str:
        """Whose the next `count` are, one after the other."""
        return "".join(one.tenant for one in self.all_served(count))
