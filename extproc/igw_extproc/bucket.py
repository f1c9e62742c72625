"""How much of a limit is left: a bucket that is full at first, is taken from, and fills evenly. Pure.

The generic cell rate algorithm (ITU-T I.371, annex A): all that is kept is the time at which the bucket will be full
again. In any `t` seconds no more than its size and `t` seconds' filling can be taken out. Called by `metering`.
"""

import math
from typing import Final, NamedTuple

# Times of a clock that has run for months are exact to that.
_EXACT: Final = 1e-6


class Size(NamedTuple):
    """What a full bucket holds, and the seconds in which an empty one is full again."""

    most: int
    seconds: float


class Bucket:
    """One bucket. Its size comes with each call, and may be another each time: then the time to full stays."""

    __slots__ = ("full_at",)

    def __init__(self) -> None:
        self.full_at = -math.inf

    def wait(self, size: Size, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken, 0 for now. What is more than a full bucket needs a full one."""
        after = max(self.full_at - now, 0.0) + min(amount, size.most) * size.seconds / size.most
        return after - size.seconds if after > size.seconds + _EXACT else 0.0

    def take(self, size: Size, amount: float, now: float) -> None:
        """Take that out, whether it is there or not; below zero: put it back."""
        self.full_at = max(self.full_at, now) + amount * size.seconds / size.most

    def left(self, size: Size, now: float) -> int:
        """What is in it, in whole units."""
        return max(math.floor(size.most - self.fills_in(now) * size.most / size.seconds + _EXACT), 0)

    def fills_in(self, now: float) -> float:
        """Seconds until it is full."""
        return max(self.full_at - now, 0.0)
