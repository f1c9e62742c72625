"""The last requests and what became of them, for people who ask why. Pure.

Written by `conversation` for every request, so adding is one append, and all text waits until somebody asks
(`explanation`). A placed request is its flight, which lets go of what grows with its prompt when it ends. No prompt,
key or body is ever in here.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from igw_extproc.flight import Flight

MOST: Final = 1000
# Candidates that are kept for all of them together, with their costs: 20 bytes each.
MOST_WEIGHED: Final = 65_536


class Refused(NamedTuple):
    """What a client was told. Not the error itself, which knows the body by its traceback."""

    request_id: str
    arrived_at: float
    status: int
    code: str
    message: str


class Diverted(NamedTuple):
    """Who took a request in its pool's place, and why. `flight`: in another pool; None: it left us."""

    request_id: str
    arrived_at: float
    pool: str
    model: str
    standby: str
    reason: str
    flight: Flight | None


Told = Flight | Refused | Diverted


class History:
    """The last requests."""

    def __init__(self, most: int = MOST, most_weighed: int = MOST_WEIGHED) -> None:
        self._told: deque[Told] = deque(maxlen=most)
        self._most_weighed = most_weighed
        self._few = most_weighed // most

    def __iter__(self) -> Iterator[Told]:
        """The newest first."""
        return reversed(self._told)

    def add(self, told: Told) -> None:
        """It is the newest now."""
        self._told.append(told)
        if weight(told) > self._few:
            self._trim()

    def find(self, name: str) -> Told | None:
        """The newest with this request id or lease."""
        return next((told for told in self if name in (told.request_id, lease_of(told))), None)

    def _trim(self) -> None:
        weights = [weight(told) for told in self._told]
        excess = sum(weights) - self._most_weighed
        while excess > 0 and len(self._told) > 1:
            self._told.popleft()
            excess -= weights.pop(0)


def weight(told: Told) -> int:
    """Candidates that are kept for it."""
    flight = flight_of(told)
    return sum([len(one.candidates) for one in flight.decision.weighed]) if flight is not None else 0


def flight_of(told: Told) -> Flight | None:
    """Its way to one of our endpoints, if it went to any."""
    if isinstance(told, Flight):
        return told
    return told.flight if isinstance(told, Diverted) else None


def lease_of(told: Told) -> str | None:
    """The name of its share of an endpoint's load, which engines are told."""
    flight = flight_of(told)
    return flight.lease_id if flight is not None else None
