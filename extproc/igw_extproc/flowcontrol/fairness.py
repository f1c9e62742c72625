"""One band's waiting requests, fair between tenants by tokens: start-time fair queueing.

(P. Goyal, H. Vin, H. Cheng: Start-time Fair Queueing, SIGCOMM 1996, with equal weights.) Each tenant waits in order of
arrival and has a start tag: the tokens it was served, on the band's virtual clock. The lowest tag is next; being served
adds the request's tokens to its tenant's tag. The virtual clock is the tag of the last one served, and who comes back
starts there at the earliest: idleness saves nothing up. What a request really used is known at its end: more is added
then, and less is taken off what its tenant is charged next.

So while two tenants both wait, what they are served differs by at most the largest request, counted from a moment when
their tags were equal, and by twice that over any other stretch of time. Requests that leave unserved cost nothing.

Every operation is O(log tenants). Pure; used by `bands`.
"""

from collections import OrderedDict
from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Final, Generic

from igw_extproc.flowcontrol.waiters import Payload, Waiter

# Tenants that are remembered though none of their requests waits, so that leaving the queue empty for a moment is no
# way to be served again at once. Whoever falls out gains one request.
IDLE_TENANTS: Final = 1024


class _Flow(Generic[Payload]):
    """One tenant's requests, in order. `listed`: the heap has an entry for it, whose tag may be behind.

    `credit`: tokens that it was charged and has not used. Tags never fall, since the heap would not notice.
    """

    __slots__ = ("credit", "listed", "start", "waiting")

    def __init__(self, start: float) -> None:
        self.start = start
        self.credit = 0.0
        self.listed = False
        self.waiting: OrderedDict[int, Waiter[Payload]] = OrderedDict()

    def charge(self, tokens: float) -> None:
        """Add to what it was served; below zero: it used fewer than it was charged."""
        paid = min(self.credit, tokens)
        self.credit -= paid
        self.start += tokens - paid


class FairQueue(Generic[Payload]):
    """The requests of one priority."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[int, Waiter[Payload]] = OrderedDict()  # in the order they were added
        self._flows: dict[str, _Flow[Payload]] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._heads: list[tuple[float, int, _Flow[Payload]]] = []
        self._entries = count()  # equal tags: who came first
        self._virtual = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiter[Payload]]:
        """In the order they were added."""
        return iter(self._waiting.values())

    def push(self, waiter: Waiter[Payload], front: bool = False) -> None:
        """Let it wait behind its tenant's others, or before them."""
        flow = self._flows.get(waiter.tenant)
        if flow is None:
            flow = self._flows[waiter.tenant] = _Flow(self._virtual)
        if not flow.waiting:
            self._idle.pop(waiter.tenant, None)
            flow.credit = min(flow.credit, max(flow.start - self._virtual, 0.0))
            flow.start = max(flow.start, self._virtual)
            if not flow.listed:
                flow.listed = True
                heappush(self._heads, (flow.start, next(self._entries), flow))
        flow.waiting[waiter.sequence] = waiter
        if front:
            flow.waiting.move_to_end(waiter.sequence, last=False)
        self._waiting[waiter.sequence] = waiter

    def head(self) -> Waiter[Payload] | None:
        """The one to be served next."""
        heads = self._heads
        while heads:
            start, _, flow = heads[0]
            if not flow.waiting:
                flow.listed = False
                heappop(heads)
            elif start < flow.start:
                heapreplace(heads, (flow.start, next(self._entries), flow))
            else:
                return next(iter(flow.waiting.values()))
        return None

    def newest(self) -> Waiter[Payload] | None:
        """The one that was added last."""
        return next(reversed(self._waiting.values()), None)

    def served(self, waiter: Waiter[Payload]) -> None:
        """Remove the head and charge its tenant."""
        flow = self._flows[waiter.tenant]
        self._virtual = max(self._virtual, flow.start)
        flow.charge(waiter.cost)
        waiter.account = flow
        self.remove(waiter)

    def remove(self, waiter: Waiter[Payload]) -> None:
        """It waits no longer, for whatever reason; its tenant is not charged."""
        flow = self._flows[waiter.tenant]
        del flow.waiting[waiter.sequence]
        del self._waiting[waiter.sequence]
        if not self._waiting:
            # Nobody waits, so nobody was kept waiting by anybody: all begin anew.
            self._flows, self._heads, self._virtual = {}, [], 0.0
            self._idle.clear()
        elif not flow.waiting:
            self._idle[waiter.tenant] = None
            self._forget()

    def _forget(self) -> None:
        """Bound what is remembered of tenants that do not wait."""
        while len(self._idle) > IDLE_TENANTS:
            del self._flows[self._idle.popitem(last=False)[0]]
        if len(self._heads) > 2 * len(self._flows) + 64:
            live = set(map(id, self._flows.values()))
            self._heads = [entry for entry in self._heads if id(entry[2]) in live]
            heapify(self._heads)
