"""Who is placed at once, who waits, and whose turn it is: the pools' queues, joined to the director.

Pure: no I/O, no clock; what an answer means to a stream is the `Applicant`'s business. Called by `conversation` for
each request, and by whoever sees that there may be room at an endpoint (a request has ended, a first byte has passed,
its engine was scraped, or no longer answers) or that the objects have changed. `expire` must be called at the time that
`due` names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from igw_api.limits import Limits as PoolLimits
from igw_api.objects import Queue
from igw_extproc.allowance import why_not
from igw_extproc.director import Director, Placed, Unseen, Wish
from igw_extproc.errors import NoEndpoints, RoutingError, Saturated
from igw_extproc.flight import Flight
from igw_extproc.flowcontrol.queue import FlowQueue, QueueStatistics
from igw_extproc.flowcontrol.room import is_open
from igw_extproc.flowcontrol.tenants import tenant
from igw_extproc.flowcontrol.turns import serve
from igw_extproc.flowcontrol.waiters import End, Limits, Refused, Waiter, held_bytes
from igw_extproc.inflight import Ledger
from igw_extproc.messages import Arrived
from igw_extproc.metering import Meters
from igw_extproc.overflow import SATURATED, Diverted, Overflow, in_time
from igw_extproc.request_headers import credential, fairness_id, without_credential

# Seconds after which the proxy knows the first endpoint of a pool that had none. We mostly hear of it before.
PROXY_LEARNS: Final = 1.0


class Applicant(Protocol):
    """Who waits for an answer: one of these is called, once, unless it leaves before. None may raise."""

    @property
    def held(self) -> bytes | None:
        """The request's body, where only we have it."""

    def placed(self, placed: Placed, now: float) -> None:
        """It goes there."""

    def passed(self, unseen: Unseen) -> None:
        """The proxy chooses."""

    def diverted(self, diverted: Diverted) -> None:
        """A standby takes it."""

    def refused(self, error: RoutingError) -> None:
        """The client is told why not."""


@dataclass(slots=True)
class _Waiting:
    """What a queue holds for us. `flight`: its share of the endpoint that it waits for; None: it waits for any.

    `request`: what a standby would be sent, where the pool has one.
    """

    applicant: Applicant
    wish: Wish
    flight: Flight | None
    request: Arrived | None = None


class _Line:
    """One pool's queue. `empty`: the pool had no endpoint when somebody began to wait.

    `looks_at`: when room is looked for at the latest. Mostly an event tells of it before; but time alone can make some.
    """

    __slots__ = ("empty", "looks_at", "opens_at", "queue")

    def __init__(self, limits: Limits) -> None:
        self.queue: FlowQueue[_Waiting] = FlowQueue(limits)
        self.empty = False
        self.opens_at = 0.0
        self.looks_at = 0.0


class Place(NamedTuple):
    """A place in a line: to be given back to `Admission.leave`. Opaque."""

    line: _Line
    waiter: Waiter[_Waiting]


class Admission:
    """The queues of all pools that have one. For the others nobody waits: whoever has no endpoint is refused.

    `salt`: 16 random bytes or more, which make tenants' names. `arm` is told when `expire` is to be called at the
    latest, each time that somebody begins to wait or is set aside.
    """

    def __init__(self, director: Director, salt: bytes, arm: Callable[[float], None]) -> None:
        self.waiting = 0  # in all lines together: with none, there is nothing to wake
        self._director = director
        self._salt = salt
        self._arm = arm
        self._lines: dict[str, _Line] = {}
        self.meters = Meters()
        self.overflow = Overflow(director, lambda pool: pool in self._lines and bool(len(self._lines[pool].queue)))

    def admit(self, request: Arrived, applicant: Applicant, now: float) -> Placed | Place | Diverted:
        """Place the request, let it wait, or let a standby have it. Raises RoutingError and Unseen."""
        wish = self._director.read(request)
        limits = wish.serving.view.limits
        if limits is not None:
            return self._admit_within(limits, wish, request, applicant, now)
        return self._let_in(wish, request, applicant, now)

    def _admit_within(
        self, limits: PoolLimits, wish: Wish, request: Arrived, applicant: Applicant, now: float
    ) -> Placed | Place | Diverted:
        """A key's limits hold everywhere; of what exceeds the pool's a standby may take some."""
        pool, ask = wish.serving.view.name, wish.ask
        key = tenant(None, credential(request), self._salt)
        charge = self.meters.charge(pool, limits, key, wish.model, ask.prompt_tokens + ask.output_tokens, now)
        wish = wish._replace(charge=charge)
        try:
            error = self.meters.enter(pool, limits, charge, now)
            if error is not None:
                return self.overflow.beyond(wish, request, error, now)
            return self._let_in(wish, request, applicant, now)
        except Unseen:
            charge.leave()  # the proxy chooses, and nobody tells us of the end
            raise
        except Exception:
            charge.refund(now)
            raise

    def _let_in(self, wish: Wish, request: Arrived, applicant: Applicant, now: float) -> Placed | Place | Diverted:
        if wish.serving.view.standbys or wish.serving.view.first_byte:
            return self._admit_or_divert(wish, request, applicant, now)
        return self._admit(wish, request, applicant, now)

    def _admit_or_divert(
        self, wish: Wish, request: Arrived, applicant: Applicant, now: float
    ) -> Placed | Place | Diverted:
        """A pool that nobody can wait for is not waited for, while a standby takes the request."""
        found = self.overflow.at_once(wish, request, now)
        if isinstance(found, Diverted):
            return found
        try:
            admitted = self._admit(wish, request, applicant, now)
            return in_time(wish, admitted) if isinstance(admitted, Placed) else admitted
        except (NoEndpoints, Saturated) as error:
            if isinstance(error, Saturated):
                found = self.overflow.divert(wish, request, SATURATED, now)
            if isinstance(found, Diverted):
                return found
            raise error.but(found.why) from None

    def _admit(self, wish: Wish, request: Arrived, applicant: Applicant, now: float) -> Placed | Place:
        view = wish.serving.view
        if view.queue is None:
            return self._director.fulfil(wish, now)
        line = self._lines.get(view.name)
        if line is None:
            line = self._lines[view.name] = _Line(_limits(view.queue))
        capacity = bool(wish.allowed or self._director.open_to(view.name))
        if not wish.allowed and (capacity or view.opens_unseen):
            # An empty pool may be starting up. That others than those allowed are there helps nobody.
            return self._director.fulfil(wish, now)
        flight = self._reserve(line, wish, now)
        if flight is not None and _goes(line.queue, flight, wish, now):
            flight.goes()
            return self._director.answer(wish, flight, now)
        kept = without_credential(request) if view.standbys else None
        waiting = _Waiting(applicant, wish._replace(allowed=[]), flight, kept)
        return self._wait(line, waiting, tenant(fairness_id(request), credential(request), self._salt), now, capacity)

    def leave(self, place: Place, now: float) -> None:
        """The client has gone. Nothing, if it has been answered."""
        if place.waiter.end is None:
            self.waiting -= 1
            waiting = place.waiter.payload
            self._withdraw(waiting, now)
            if waiting is not None and waiting.wish.charge is not None:
                waiting.wish.charge.ended(0.0, now)
            place.line.queue.leave(place.waiter, now)

    def wake(self, ledger: Ledger, now: float) -> None:
        """There may be room at `ledger`, or it has gone."""
        for pool, line in self._lines.items():
            if len(line.queue) and self._director.serves(pool, ledger):
                usable = ledger.available and not self._director.shuns(pool, ledger)
                if not usable:
                    self._place_anew(line, ledger, now)
                self._serve_anywhere(pool, line, now)
                if usable:
                    serve(line.queue, ledger, self, now)

    def refresh(self, now: float) -> None:
        """The objects have changed: refuse who waits for a pool that is gone; there may be room in others."""
        self.overflow.keep(self._director.chains())
        self.meters.keep(self._director.pools)
        for pool, line in list(self._lines.items()):
            view = self._director.view(pool)
            if view is None:
                del self._lines[pool]
                self._refuse(pool, line.queue.close(now), now)
                continue
            if view.queue is not None:
                line.queue.limits = _limits(view.queue)
            self._serve(pool, line, now)

    def due(self) -> float | None:
        """When `expire` has something to do. None: nobody waits."""
        lines = ((line.queue.due(), line.looks_at) for line in self._lines.values())
        return min((min(due, looks_at) for due, looks_at in lines if due is not None), default=None)

    def expire(self, now: float) -> None:
        """Refuse who has waited too long, and try the others again whose time has come."""
        for pool, line in self._lines.items():
            if not len(line.queue):
                continue
            self._refuse(pool, line.queue.expire(now, bool(self._director.open_to(pool))), now)
            if now < line.looks_at:
                self._serve_anywhere(pool, line, now)
            else:
                line.looks_at = now + line.queue.limits.retry_period
                self._serve(pool, line, now)

    def statistics(self, now: float) -> Mapping[str, QueueStatistics]:
        """Each queue's numbers, by pool."""
        return {pool: line.queue.statistics(now) for pool, line in self._lines.items()}

    # What `turns` asks of those who wait.

    def extra(self, payload: _Waiting, ledger: Ledger) -> int | None:
        """See `turns.Host`."""
        assert payload.flight is not None, "it waits for an endpoint"
        return self._director.extra(payload.wish, payload.flight, ledger)

    def chooses(self, payload: _Waiting, ledger: Ledger, now: float) -> bool:
        """See `turns.Host`."""
        assert payload.flight is not None, "it waits for an endpoint"
        payload.flight = self._director.between(payload.wish, payload.flight, ledger, now)
        payload.flight.hold()
        return ledger in payload.flight.places

    def goes(self, waiter: Waiter[_Waiting], now: float) -> None:
        """See `turns.Host`."""
        waiting = waiter.payload
        assert waiting is not None and waiting.flight is not None, "whoever goes has waited for an endpoint"
        self.waiting -= 1
        line = self._lines[waiting.wish.serving.view.name]
        line.queue.dispatched(waiter, now)
        waiting.flight.bill = waiter.used
        waiting.flight.sent(now)
        placed = self._director.answer(waiting.wish, waiting.flight, now)
        waiting.applicant.placed(in_time(waiting.wish, placed), now)

    def _reserve(self, line: _Line, wish: Wish, now: float) -> Flight | None:
        """Its share of the endpoint that is best for it. None: it may have none, or not yet."""
        if not wish.allowed or now < line.opens_at or line.empty:
            return None
        if len(line.queue) and line.queue.refuses(wish.ask, held_bytes(wish.ask, wish.unnamed or wish.body)):
            # A flood costs no picks: those who wait take whatever room there is.
            return None
        flight = self._director.reserve(wish, now)
        flight.hold()
        return flight

    def _wait(self, line: _Line, waiting: _Waiting, tenant: str, now: float, capacity: bool) -> Place:
        """Let it wait. Raises RoutingError where it may not."""
        wish, flight = waiting.wish, waiting.flight
        pool = wish.serving.view.name
        place, other = _waits_for(flight, wish, now) if flight is not None else (None, None)
        body = waiting.request.body if waiting.request is not None else None
        kept = held_bytes(wish.ask, wish.unnamed or wish.body or body or waiting.applicant.held)
        waiter, refused = line.queue.offer(waiting, wish.ask, tenant, kept, now, capacity, place)
        if waiter is None:
            self._withdraw(waiting, now)
            raise why_not(wish.serving.view, refused[0].refusal)
        line.queue.needs(waiter, other)
        self.waiting += 1
        if wish.serving.view.first_byte and wish.ask.streams:
            line.queue.hurry(waiter, now + wish.serving.view.first_byte)
        if len(line.queue) == 1:
            line.looks_at = now + line.queue.limits.retry_period
        line.empty = line.empty or not capacity
        self._refuse(pool, refused, now)
        self._arm(min(waiter.expires_at, line.looks_at))
        return Place(line, waiter)

    def _serve(self, pool: str, line: _Line, now: float) -> None:
        """The pool has changed: whoever waits for an endpoint that has gone looks for another, and all may go."""
        for place in line.queue.places():
            if place is not None and not self._is_usable(pool, place):
                self._place_anew(line, place, now)
        self._serve_anywhere(pool, line, now)
        for place in line.queue.places():
            if place is not None:
                serve(line.queue, place, self, now)

    def _is_usable(self, pool: str, place: Ledger) -> bool:
        return place.available and self._director.serves(pool, place) and not self._director.shuns(pool, place)

    def _place_anew(self, line: _Line, gone: Ledger, now: float) -> None:
        """Whoever waits for `gone`, or for another one together with it, waits for any endpoint."""
        for place in line.queue.places():
            for waiter in line.queue.waiting_for(place) if place is not None else ():
                assert waiter.payload is not None and waiter.payload.flight is not None, "it waits, and for an endpoint"
                if gone in waiter.payload.flight.places:
                    self._withdraw(waiter.payload, now)
                    line.queue.move(waiter, None)

    def _serve_anywhere(self, pool: str, line: _Line, now: float) -> None:
        """Find an endpoint for those that wait for any."""
        if line.queue.head(now) is None:
            return
        endpoints = self._director.open_to(pool)
        if line.empty and endpoints:
            line.empty, line.opens_at = False, now + PROXY_LEARNS
        if now < line.opens_at:
            self._arm(line.opens_at)
        if not endpoints or now < line.opens_at:
            return
        places: dict[Ledger, None] = {}
        while (head := line.queue.head(now)) is not None:
            place = self._find_place(line, head, now)
            if place is not None:
                places[place] = None
        for place in places:
            serve(line.queue, place, self, now)

    def _find_place(self, line: _Line, waiter: Waiter[_Waiting], now: float) -> Ledger | None:
        """An endpoint that it waits for from now on; or it is set aside."""
        waiting = waiter.payload
        assert waiting is not None, "whoever waits has not ended"
        wish = self._renewed(waiting.wish)
        if not wish.allowed:
            line.queue.set_aside(waiter, now)
            self._arm(now + line.queue.limits.retry_period)
            return None
        flight = waiting.flight = self._director.reserve(wish, now)
        waiting.wish = wish._replace(allowed=[])
        flight.hold()
        line.queue.move(waiter, *_waits_for(flight, wish, now))
        return waiter.place

    def _renewed(self, wish: Wish) -> Wish:
        """With whoever may serve it now: nobody, where it would be refused if it came now."""
        try:
            return self._director.renewed(wish)
        except NoEndpoints:
            return wish._replace(allowed=[])

    def _withdraw(self, waiting: _Waiting | None, now: float) -> None:
        """What it had reserved is given back."""
        if waiting is not None and waiting.flight is not None:
            self._director.withdraw(waiting.flight, now)
            waiting.flight = None

    def _refuse(self, pool: str, refused: list[Refused[_Waiting]], now: float) -> None:
        for one in refused:
            self.waiting -= 1
            self._withdraw(one.payload, now)
            error = why_not(self._director.view(pool) or one.payload.wish.serving.view, one.refusal)
            wish, request, refusal = one.payload.wish, one.payload.request, one.refusal
            # What was to be shed is shed.
            waited = request if refusal.reason is not End.SHED else None
            found = self.overflow.in_vain(wish, waited, refusal.capacity, now)
            if isinstance(found, Diverted):
                one.payload.applicant.diverted(found)
                continue
            if wish.charge is not None:
                wish.charge.refund(now)
            one.payload.applicant.refused(error.but(found.why))


def _goes(queue: FlowQueue[_Waiting], flight: Flight, wish: Wish, now: float) -> bool:
    """Whether its endpoints take it at once: there is room, and nobody waits there who goes first."""
    for place in flight.places:
        highest = queue.highest(place)
        if not ((highest is None or highest < wish.ask.priority) and is_open(place, wish.ask, now)):
            return False
    return True


def _waits_for(flight: Flight, wish: Wish, now: float) -> tuple[Ledger, Ledger | None]:
    """The endpoint that it waits for, and the other one, if it needs two: first for one that has no room."""
    place, *others = flight.places
    other = others[0] if others else None
    if other is not None and is_open(place, wish.ask, now):
        return other, place
    return place, other


def _limits(queue: Queue) -> Limits:
    return Limits(queue.max_size, queue.wait_timeout, queue.retry_period)
