"""What a standby may still be sent: requests a minute, and a share of its pool's. Pure: `now` is an argument.

Called by `overflow` for pools that have a standby. Exact over any 60 seconds, since it is somebody's bill; memory is
bounded by the budget itself.
"""

import math
from collections import deque
from typing import Final

MINUTE: Final = 60.0
# The share is of the pool's requests in this many seconds, counted in slots.
WINDOW: Final = 300.0
_SLOT: Final = 10.0


class Window:
    """How often something has happened in the last `WINDOW` seconds, to a slot."""

    __slots__ = ("_slots", "_total")

    def __init__(self) -> None:
        self._slots: deque[list[float]] = deque()  # number of the slot, count
        self._total = 0

    def add(self, now: float) -> None:
        """Once more."""
        number = now // _SLOT
        if not self._slots or self._slots[-1][0] != number:
            self._slots.append([number, 0])
        self._slots[-1][1] += 1
        self._total += 1

    def count(self, now: float) -> int:
        """How often."""
        while self._slots and self._slots[0][0] <= (now - WINDOW) // _SLOT:
            self._total -= int(self._slots.popleft()[1])
        return self._total


class Budget:
    """One standby's, for one pool. `seen` counts the pool's requests, the present one included."""

    __slots__ = ("_seen", "_sent", "_times", "per_minute", "share")

    def __init__(self, per_minute: int, share: float, seen: Window) -> None:
        self.per_minute = per_minute
        self.share = share
        self._seen = seen
        self._sent = Window()
        self._times: deque[float] = deque()

    def left(self, now: float) -> int:
        """Requests that it may be sent at once."""
        self._forget(now)
        by_share = math.ceil(self.share * self._seen.count(now)) - self._sent.count(now)
        return max(0, min(self.per_minute - len(self._times), by_share))

    def why_not(self, now: float) -> str | None:
        """Why it may not be sent another one, as the end of a sentence. None: it may."""
        self._forget(now)
        if len(self._times) >= self.per_minute:
            return f"its budget of {self.per_minute} requests a minute is used up"
        if self._sent.count(now) >= math.ceil(self.share * self._seen.count(now)):
            return f"it has had its share of {self.share:.0%} of the pool's requests"
        return None

    def spend(self, now: float) -> None:
        """It is sent one."""
        self._times.append(now)
        self._sent.add(now)

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] <= now - MINUTE:
            self._times.popleft()
