"""How fast a queue drains, and so when a refused client should come back. Pure; used by `queue`.

Only time in which somebody waits counts: what a pool takes when nobody waits is what came, not what it can take.
"""

from math import ceil, exp
from typing import Final

# Seconds of waiting time after which a measurement has lost two thirds of its weight. Engines' speed changes with what
# they are given, so not many; long requests end seldom, so not few.
MEMORY: Final = 10.0
# Below this many seconds of waiting time nothing has been measured.
ENOUGH: Final = 1.0
SHORTEST, LONGEST = 1, 60


class Drain:
    """Dispatches a second, as a decaying mean: both the dispatches and the seconds fade alike."""

    __slots__ = ("_at", "_dispatches", "_seconds")

    def __init__(self) -> None:
        self._dispatches = 0.0
        self._seconds = 0.0
        self._at: float | None = None  # None: nobody waits

    def begins(self, now: float) -> None:
        """Somebody waits from now on."""
        if self._at is None:
            self._at = now

    def ends(self, now: float) -> None:
        """Nobody waits any more."""
        self._advance(now)
        self._at = None

    def dispatched(self, now: float) -> None:
        """One that had waited was dispatched."""
        self._advance(now)
        self._dispatches += 1.0

    def rate(self, now: float) -> float | None:
        """Dispatches a second; None while too little has been measured."""
        self._advance(now)
        return self._dispatches / self._seconds if self._seconds >= ENOUGH else None

    def retry_after(self, waiting: int, unmeasured: float, now: float) -> int:
        """Seconds until `waiting` requests and one more are dispatched, 1 to 60; `unmeasured` while nobody knows."""
        rate, all_of_them = self.rate(now), waiting + 1
        if rate is None:
            return min(max(ceil(unmeasured), SHORTEST), LONGEST)
        return max(ceil(all_of_them / rate), SHORTEST) if rate * LONGEST > all_of_them else LONGEST

    def _advance(self, now: float) -> None:
        if self._at is None or now <= self._at:
            return
        kept = exp((self._at - now) / MEMORY)
        self._dispatches *= kept
        self._seconds = self._seconds * kept + MEMORY * (1.0 - kept)
        self._at = now
