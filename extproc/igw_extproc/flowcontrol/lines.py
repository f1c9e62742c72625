"""A pool's waiting requests, in a line for each endpoint that they wait for, and one for those that wait for any.

Each line has its own order (`bands`); nothing is compared between lines but heads. A line exists while somebody waits
in it. Every operation is O(bands + log tenants), but for those that are told to look at all lines. Pure; used by
`queue`.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Generic

from igw_extproc.flowcontrol.bands import Bands
from igw_extproc.flowcontrol.waiters import Payload, Waiter
from igw_extproc.inflight import Ledger


class Lines(Generic[Payload]):
    """All that may be served now. `aged_after` in seconds."""

    def __init__(self, aged_after: float) -> None:
        self.sheddable = 0  # how many of them wait
        self.sheddable_bytes = 0
        self._aged_after = aged_after
        self._length = 0
        self._lines: OrderedDict[Ledger | None, Bands[Payload]] = OrderedDict()

    def __len__(self) -> int:
        return self._length

    def lengths(self) -> Mapping[int, int]:
        """How many wait, by priority. Looks at all lines."""
        found: Counter[int] = Counter()
        for line in self._lines.values():
            found.update(line.lengths())
        return found

    def age_after(self, seconds: float) -> None:
        """See `Bands.aged_after`."""
        self._aged_after = seconds
        for line in self._lines.values():
            line.aged_after = seconds

    def places(self) -> list[Ledger | None]:
        """What somebody waits for."""
        return list(self._lines)

    def waiting_for(self, place: Ledger | None) -> list[Waiter[Payload]]:
        """Everybody in that line: the higher priorities first, in each as they came."""
        line = self._lines.get(place)
        return list(line) if line is not None else []

    def push(self, waiter: Waiter[Payload], front: bool = False) -> None:
        """Let it wait where its `place` says, behind its tenant's others, or before them."""
        line = self._lines.get(waiter.place)
        if line is None:
            line = self._lines[waiter.place] = Bands(self._aged_after)
        line.push(waiter, front)
        self._count(waiter, 1)

    def head(self, place: Ledger | None, now: float) -> Waiter[Payload] | None:
        """The one to be served next there."""
        line = self._lines.get(place)
        return line.head(now) if line is not None else None

    def highest(self, place: Ledger | None) -> int | None:
        """The highest priority that waits there. None: nobody does."""
        line = self._lines.get(place)
        return line.highest if line is not None else None

    def elsewhere(self, place: Ledger, most: int, now: float) -> Iterator[Waiter[Payload]]:
        """The heads of up to `most` other endpoints' lines: other ones each time, where there are more."""
        others = [one for one in islice(self._lines, most + 2) if one is not None and one is not place][:most]
        for other in others:
            self._lines.move_to_end(other)
            head = self._lines[other].head(now)
            assert head is not None, "a line exists while somebody waits in it"
            yield head

    def served(self, waiter: Waiter[Payload], now: float) -> None:
        """Remove the head of a line and charge its tenant."""
        self._lines[waiter.place].served(waiter, now)
        self._removed(waiter)

    def remove(self, waiter: Waiter[Payload]) -> None:
        """It waits no longer; nobody is charged."""
        self._lines[waiter.place].remove(waiter)
        self._removed(waiter)

    def last_sheddable(self) -> Waiter[Payload] | None:
        """The first to be refused when others need the place: of the lowest priority below zero, the newest.

        Looks at all lines.
        """
        lasts = [last for line in self._lines.values() if (last := line.last_sheddable()) is not None]
        return min(lasts, key=lambda last: (last.priority, -last.sequence), default=None)

    def _removed(self, waiter: Waiter[Payload]) -> None:
        if not self._lines[waiter.place]:
            del self._lines[waiter.place]
        self._count(waiter, -1)

    def _count(self, waiter: Waiter[Payload], sign: int) -> None:
        self._length += sign
        if waiter.priority < 0:
            self.sheddable += sign
            self.sheddable_bytes += sign * waiter.size
