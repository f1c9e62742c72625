"""The last requests and what became of them, for people who ask why. Pure: `now` is an argument.

Written by `conversation` for every request, so adding is cheap and all text waits until somebody asks (`explanation`).
Bounded in requests and in candidates that were weighed for them; no prompt, key or body is ever in here.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from igw_extproc.errors import RoutingError
from igw_extproc.flight import Flight
from igw_extproc.inflight import Ledger
from igw_extproc.overflow import Diverted
from igw_extproc.scheduling.framework import Weighed

MOST: Final = 1000
# Each takes about 50 bytes: with 1,000 endpoints, the last 65 requests are kept.
MOST_WEIGHED: Final = 65_536


class Course(NamedTuple):
    """A placed request as far as it has come. Times are the clock's; None: not yet, or never seen."""

    lease_id: str
    placed_at: float
    order: tuple[Ledger, ...]
    prefiller: Ledger | None
    weighed: tuple[Weighed, ...]
    cached_tokens: int
    first_token_s: float  # predicted
    first_byte_at: float | None
    status: int  # 0: not seen
    place: Ledger  # who answers, or would
    failed: tuple[Ledger, ...]
    prompt_tokens: int  # as the engine counted them; 0: not seen
    answer_tokens: int
    ended_at: float | None


class Refusal(NamedTuple):
    """What the client was told."""

    status: int
    code: str
    message: str


class Diversion(NamedTuple):
    """Who took it in the pool's place, and why."""

    standby: str
    reason: str


class Told:
    """One request. `flight` is set while it runs, `ended` after that."""

    __slots__ = ("arrived_at", "diversion", "ended", "explains", "flight", "model", "pool", "refusal", "request_id")

    def __init__(self, request_id: str, arrived_at: float, explains: bool = False) -> None:
        self.request_id = request_id
        self.explains = explains  # to the client
        self.arrived_at = arrived_at
        self.pool = self.model = ""
        self.flight: Flight | None = None
        self.ended: Course | None = None
        self.refusal: Refusal | None = None
        self.diversion: Diversion | None = None

    @property
    def course(self) -> Course | None:
        """Where it went. None: to none of our endpoints."""
        return course(self.flight, None) if self.flight is not None else self.ended

    def end(self, now: float) -> None:
        """It is over: what is kept from now on does not hold on to its prompt's hashes."""
        if self.flight is not None:
            self.ended, self.flight = course(self.flight, now), None


class History:
    """The last requests, oldest first."""

    def __init__(self, most: int = MOST, most_weighed: int = MOST_WEIGHED) -> None:
        self._most = most
        self._most_weighed = most_weighed
        self._told: deque[tuple[Told, int]] = deque()
        self._weight = 0

    def __iter__(self) -> Iterator[Told]:
        """The newest first."""
        return (told for told, _ in reversed(self._told))

    def placed(self, told: Told, flight: Flight) -> None:
        """It goes to one of our endpoints."""
        told.flight, told.pool, told.model = flight, flight.pool, flight.model
        self._add(told)

    def diverted(self, told: Told, diverted: Diverted) -> None:
        """A standby takes it."""
        told.pool, told.model, told.flight = diverted.pool, diverted.model, diverted.flight
        told.diversion = Diversion(diverted.standby, diverted.reason)
        self._add(told)

    def refused(self, told: Told, error: RoutingError) -> None:
        """The client was told why not. The error itself is not kept: it knows the body by its traceback."""
        told.refusal = Refusal(error.status, error.code, str(error))
        self._add(told)

    def find(self, name: str) -> Told | None:
        """The newest with this request id or lease."""
        return next((told for told in self if name in (told.request_id, lease_of(told))), None)

    def _add(self, told: Told) -> None:
        weight = sum([len(one.candidates) for one in told.flight.decision.weighed]) if told.flight is not None else 0
        self._told.append((told, weight))
        self._weight += weight
        while len(self._told) > self._most or (self._weight > self._most_weighed and len(self._told) > 1):
            self._weight -= self._told.popleft()[1]


def lease_of(told: Told) -> str | None:
    """The name of its share of an endpoint's load, which engines are told."""
    if told.flight is not None:
        return told.flight.lease_id
    return told.ended.lease_id if told.ended is not None else None


def course(flight: Flight, ended_at: float | None) -> Course:
    """What is to be known of a flight now."""
    decision = flight.decision
    return Course(
        lease_id=flight.lease_id,
        placed_at=flight.placed_at,
        order=decision.order,
        prefiller=decision.prefiller,
        weighed=decision.weighed,
        cached_tokens=decision.cached_tokens,
        first_token_s=decision.first_token_s,
        first_byte_at=flight.first_byte_at,
        status=flight.status,
        place=flight.place,
        failed=flight.failed,
        prompt_tokens=flight.prompt_tokens,
        answer_tokens=flight.answer_tokens,
        ended_at=ended_at,
    )
