"""Who goes to an endpoint that may have room: those who wait for it, or, when nobody does, one who waits elsewhere.

A request chooses its endpoint when it comes, as if there were no queue, by the policy's own costs, in which those that
wait count as much as those that were sent. So it waits for the engine that holds its prefix as long as that pays, and
not for whichever is free first: with one line for all, up to 0.025 of the hit rate was lost
(docs/benchmarks/queue.md). An endpoint with room and nobody to take it looks at the heads of a few other lines, and one
of them chooses anew between the two endpoints. That keeps engines busy whatever the choice was worth, and the work that
an event causes bounded however large the pool.

A request that two endpoints share goes when both have room. It waits for the one that has none, and where that is the
other one by now, turns there, before those of its tenant that came later.

Pure. Called by `admission`, and by the offline benchmark.
"""

from typing import Final, Protocol

from igw_extproc.flowcontrol.queue import FlowQueue
from igw_extproc.flowcontrol.room import is_open
from igw_extproc.flowcontrol.waiters import Payload, Waiter
from igw_extproc.inflight import Ledger

# Other lines that an endpoint with room looks at: enough to find one whose request loses little.
LOOK: Final = 8


class Host(Protocol[Payload]):
    """Who knows what a waiter's payload stands for."""

    def extra(self, payload: Payload, ledger: Ledger) -> int | None:
        """Prompt tokens that `ledger` would have to compute more than where it waits. None: it may not go there."""

    def chooses(self, payload: Payload, ledger: Ledger, now: float) -> bool:
        """Let it choose between where it waits and `ledger`. Whether it counts at `ledger` from now on."""

    def goes(self, waiter: Waiter[Payload], now: float) -> None:
        """It has been dispatched to where it counts; it has a payload no more than others."""


def serve(queue: FlowQueue[Payload], ledger: Ledger, host: Host[Payload], now: float) -> None:
    """Send all for whom `ledger` has room."""
    while True:
        head = queue.head(now, ledger)
        if head is None:
            head = _from_elsewhere(queue, ledger, host, now)
            if head is None:
                return
        elif not is_open(ledger, head.ask, now):
            return
        elif head.other is not None and not is_open(head.other, head.ask, now):
            # It waits there instead, so that it is in nobody's way who needs no more than this endpoint.
            queue.turn(head)
            continue
        host.goes(head, now)


def _from_elsewhere(
    queue: FlowQueue[Payload], ledger: Ledger, host: Host[Payload], now: float
) -> Waiter[Payload] | None:
    """One who waits elsewhere and would rather go here: of the highest priority the one that loses least by it."""
    best: tuple[int, int, float] | None = None
    found: Waiter[Payload] | None = None
    for head in queue.elsewhere(ledger, LOOK, now):
        assert head.payload is not None and head.place is not None, "it waits, and for an endpoint"
        takes = is_open(ledger, head.ask, now) and (head.other is None or is_open(head.other, head.ask, now))
        extra = host.extra(head.payload, ledger) if takes else None
        if extra is None:
            continue
        rank = (head.priority, -extra, head.place.wait_s)
        if best is None or rank > best:
            best, found = rank, head
    if found is None or found.payload is None or not host.chooses(found.payload, ledger, now):
        return None
    return found
