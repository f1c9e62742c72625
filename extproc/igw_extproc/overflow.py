"""Where a request goes that its pool cannot take: along the pool's chain of standbys, decided for each request anew.

Pure: `now` is an argument. Called by `admission` for pools that have a standby, and only when they refuse: when they
have no endpoint that answers, or have kept a request waiting as long as they may. A pool of the chain takes a request
if it has room at once. A provider takes what it can be asked, within its budget; what is sheddable is worth no bill.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from igw_api import wire
from igw_api.standby import VERSION_PATH, Standby
from igw_extproc import openai
from igw_extproc.budget import Budget, Window
from igw_extproc.director import Director, Placed, Wish
from igw_extproc.errors import OverLimit, RoutingError
from igw_extproc.flight import Flight
from igw_extproc.flowcontrol.room import is_open
from igw_extproc.messages import ROUTE_ATTRIBUTE, Arrived, Placement
from igw_extproc.request_headers import RequestHeaders

# Why a pool could not take a request: metric labels.
SATURATED: Final = "saturated"
EMPTY: Final = "empty"
OUT: Final = "out"
LATE: Final = "late"
LIMITED: Final = "limited"
REASONS: Final = (SATURATED, EMPTY, OUT, LATE, LIMITED)

_OPAQUE: Final = "this request is none that could be sent there"


class Diverted(NamedTuple):
    """A request goes elsewhere. `flight`: its share of another pool's endpoint; None: it leaves us."""

    placement: Placement
    pool: str
    model: str
    standby: str
    reason: str
    flight: Flight | None = None


class Declined(NamedTuple):
    """No standby takes it; `why` is whole sentences for the client, or empty."""

    why: str


_NOT_ASKED: Final = Declined("")


@dataclass(frozen=True, slots=True)
class StandbyStatistics:
    """One standby's numbers for one pool. `left` None: it has no budget."""

    pool: str
    standby: str
    taken: dict[str, int]  # by reason
    declined: int
    left: int | None


class Overflow:
    """The chains of all pools. `crowded` tells by its name whether somebody waits for a pool."""

    def __init__(self, director: Director, crowded: Callable[[str], bool]) -> None:
        self._director = director
        self._crowded = crowded
        self._seen: dict[str, Window] = {}
        self._budgets: dict[tuple[str, str], Budget] = {}
        self._taken: Counter[tuple[str, str, str]] = Counter()
        self._declined: Counter[tuple[str, str]] = Counter()

    def saw(self, pool: str, now: float) -> None:
        """A request for a pool that has standbys."""
        window = self._seen.get(pool)
        if window is None:
            window = self._seen[pool] = Window()
        window.add(now)
        window.count(now)

    def at_once(self, wish: Wish, request: Arrived, now: float) -> Diverted | Declined:
        """What is not worth waiting for: a pool without endpoints, or without one that would be in time."""
        view, director = wish.serving.view, self._director
        self.saw(view.name, now)
        nobody = not wish.allowed and not director.open_to(view.name)
        if not view.opens_unseen and (nobody or director.health.has_all(wish.allowed)):
            return self.divert(wish, request, OUT if view.endpoints else EMPTY, now)
        if view.first_byte is None or not (wish.ask.streams and wish.allowed and view.standbys):
            return _NOT_ASKED
        flight = director.reserve(wish, now, again=True)
        director.withdraw(flight, now)
        late = flight.decision.first_token_s > view.first_byte
        return self.divert(wish, request, LATE, now) if late else _NOT_ASKED

    def beyond(self, wish: Wish, request: Arrived, error: OverLimit, now: float) -> Diverted:
        """It exceeds a limit of its pool. Raises that error where no standby takes it."""
        self.saw(wish.serving.view.name, now)
        found = self.divert(wish, request, LIMITED, now)
        if isinstance(found, Declined):
            raise error.but(found.why)
        return found

    def in_vain(self, wish: Wish, request: Arrived | None, capacity: bool, now: float) -> Diverted | Declined:
        """It has waited for nothing. `capacity`: the pool has endpoints. `request` None: it goes nowhere."""
        if request is None:
            return _NOT_ASKED
        view = wish.serving.view
        full = LATE if view.first_byte and wish.ask.streams else SATURATED
        return self.divert(wish, request, full if capacity else OUT if view.endpoints else EMPTY, now)

    def divert(self, wish: Wish, request: Arrived, reason: str, now: float) -> Diverted | Declined:
        """Along the chain of the request's pool, as it is now."""
        view = self._director.view(wish.serving.view.name)
        told = []
        for standby in view.standbys if view is not None else ():
            takes = self._to_pool if standby.pool is not None else self._to_provider
            found = takes(wish, request, standby, now)
            if isinstance(found, str):
                self._declined[(wish.serving.view.name, standby.name)] += 1
                told.append(f"Its standby {standby.name} does not take it: {found}.")
                continue
            placement, flight = found
            pool = wish.serving.view.name
            self._taken[(pool, standby.name, reason)] += 1
            if wish.charge is not None:
                wish.charge.leave()
            return Diverted(placement, pool, wish.model, standby.name, reason, flight)
        return Declined(" ".join(told))

    def keep(self, pools: dict[str, tuple[Standby, ...]]) -> None:
        """Forget what is about other pools and standbys. `pools`: their chains."""
        wanted = {(pool, one.name) for pool, chain in pools.items() for one in chain}
        self._seen = {pool: window for pool, window in self._seen.items() if pools.get(pool)}
        self._budgets = {key: budget for key, budget in self._budgets.items() if key in wanted}
        self._taken = Counter({key: count for key, count in self._taken.items() if key[:2] in wanted})
        self._declined = Counter({key: count for key, count in self._declined.items() if key in wanted})

    def statistics(self, now: float) -> list[StandbyStatistics]:
        """Of every standby of every pool."""
        return [
            StandbyStatistics(
                pool=pool,
                standby=standby.name,
                taken={reason: self._taken[(pool, standby.name, reason)] for reason in REASONS},
                declined=self._declined[(pool, standby.name)],
                left=self._budget(pool, standby, now).left(now) if standby.provider is not None else None,
            )
            for pool, chain in self._director.chains().items()
            for standby in chain
        ]

    def _to_pool(
        self, wish: Wish, request: Arrived, standby: Standby, now: float
    ) -> tuple[Placement, Flight | None] | str:
        assert standby.pool is not None, "asked of pools only"
        if not request.headers or wish.previous:
            return _OPAQUE
        if self._crowded(standby.pool):
            return "others wait there"
        try:
            return self._placed(_moved(request, standby), standby, wish.serving.view.first_byte, now)
        except RoutingError as error:
            return str(error).rstrip(".")

    def _placed(
        self, request: Arrived, standby: Standby, first_byte: float | None, now: float
    ) -> tuple[Placement, Flight | None] | str:
        """In another pool, where there is room at once. Raises RoutingError."""
        director = self._director
        if director.view(standby.pool or "") is None:
            return "it is not served on this port"
        wish = director.read(request)
        if not wish.allowed:
            return "none of its endpoints answers"
        flight = director.reserve(wish, now)
        late = first_byte is not None and wish.ask.streams and flight.decision.first_token_s > first_byte
        if late or not is_open(flight.place, wish.ask, now):
            director.withdraw(flight, now)
            return "its first byte would be late too" if late else "it has no room"
        placed = in_time(wish, director.answer(wish._replace(announced=standby.key), flight, now))
        body = placed.placement.body
        # Its model may have been called otherwise before it came here.
        return placed.placement._replace(body=body if body is not None else request.body), flight

    def _to_provider(
        self, wish: Wish, request: Arrived, standby: Standby, now: float
    ) -> tuple[Placement, Flight | None] | str:
        if wish.ask.priority < 0:
            return "it is not for sheddable requests"
        budget = self._budget(wish.serving.view.name, standby, now)
        refusal = budget.why_not(now)
        if refusal is not None:
            return refusal
        placement = _placement(wish, request, standby)
        if placement is None:
            return _OPAQUE
        budget.spend(now)
        return placement, None

    def _budget(self, pool: str, standby: Standby, now: float) -> Budget:
        seen = self._seen.get(pool)
        if seen is None:
            seen = self._seen[pool] = Window()
        budget = self._budgets.get((pool, standby.name))
        if budget is None:
            budget = self._budgets[(pool, standby.name)] = Budget(standby.per_minute, standby.share, seen)
        budget.per_minute, budget.share = standby.per_minute, standby.share
        return budget


def in_time(wish: Wish, placed: Placed) -> Placed:
    """With how long an engine may take to answer, where the pool limits that. Only streams answer before they end."""
    limit = wish.serving.view.first_byte
    if limit is None or not wish.ask.streams:
        return placed
    told = (*placed.placement.headers, (wire.TRY_TIMEOUT_HEADER, str(round(limit * 1000))))
    return placed._replace(placement=placed.placement._replace(headers=told))


def _moved(request: Arrived, standby: Standby) -> Arrived:
    """As if it had come on the route of a standby's pool, for its model."""
    header = RequestHeaders(request)
    reading = openai.read(header.path, header.content_type, request.body, request.complete)
    body = request.body
    if reading.document is not None and reading.model is not None:
        target = standby.model_for(reading.model)
        body = openai.rewrite_model(reading.document, target) if target != reading.model else body
    return request._replace(attributes={**request.attributes, ROUTE_ATTRIBUTE: standby.pool or ""}, body=body)


def _placement(wish: Wish, request: Arrived, standby: Standby) -> Placement | None:
    """What makes the proxy send it to the provider. None: it cannot be asked this.

    Only a whole body that we could read; nothing about what an engine keeps; and the proxy must show us the headers,
    else it has chosen its route already.
    """
    header = RequestHeaders(request)
    path = header.path or ""
    if not request.headers or not request.complete or wish.previous or not path.startswith(f"{VERSION_PATH}/"):
        return None
    reading = openai.read(path, header.content_type, request.body, request.complete)
    if reading.document is None or reading.model is None:
        return None
    target = standby.model_for(reading.model)
    body = openai.rewrite_model(reading.document, target) if target != reading.model else None
    return Placement((), "", body, pool=standby.key)
