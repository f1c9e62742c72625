"""Who is placed at once, who waits, and whose turn it is: the pools' queues, joined to the director.

Pure: no I/O, no clock; what an answer means to a stream is the `Applicant`'s business. Called by `conversation` for
each request, and by whoever sees that there may be room: a request has ended, a first byte has passed, an engine was
scraped, the objects have changed. `expire` must be called at the time that `due` names.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from igw_api import wire
from igw_api.objects import Queue
from igw_extproc.director import Director, Placed, Unseen, Wish
from igw_extproc.errors import NoEndpoints, RoutingError, Saturated
from igw_extproc.flowcontrol.queue import FlowQueue, QueueStatistics
from igw_extproc.flowcontrol.room import Room
from igw_extproc.flowcontrol.tenants import tenant
from igw_extproc.flowcontrol.waiters import End, Limits, Refused, Waiter, held_bytes
from igw_extproc.messages import Arrived

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

    def refused(self, error: RoutingError) -> None:
        """The client is told why not."""


class _Waiting(NamedTuple):
    """What a queue holds for us."""

    applicant: Applicant
    wish: Wish


class _Line:
    """One pool's queue, and whether its endpoints have room. `empty`: there were none when somebody began to wait."""

    __slots__ = ("empty", "opens_at", "queue", "room")

    def __init__(self, limits: Limits) -> None:
        self.queue: FlowQueue[_Waiting] = FlowQueue(limits)
        self.room = Room()
        self.empty = False
        self.opens_at = 0.0


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

    def admit(self, request: Arrived, applicant: Applicant, now: float) -> Placed | Place:
        """Place the request, or let it wait. Raises RoutingError and Unseen."""
        wish = self._director.read(request)
        view = wish.serving.view
        if view.queue is None:
            return self._director.fulfil(wish, now)
        pool = view.name
        line = self._lines.get(pool)
        if line is None:
            line = self._lines[pool] = _Line(_limits(view.queue))
        capacity = True
        if not len(line.queue) or not wish.allowed:
            capacity = bool(wish.allowed or self._director.open_to(pool))
            if self._goes_now(line, wish, capacity, now):
                return self._director.fulfil(wish, now)
        waiting, kept = _Waiting(applicant, wish), held_bytes(wish.ask, wish.unnamed or wish.body or applicant.held)
        waiter, refused = line.queue.offer(waiting, wish.ask, self._tenant(request), kept, now, capacity)
        if waiter is None:
            raise _error(pool, refused[0])
        self.waiting += 1
        line.empty = line.empty or not capacity
        self._refuse(pool, refused)
        self._arm(waiter.expires_at)
        return Place(line, waiter)

    def leave(self, place: Place, now: float) -> None:
        """The client has gone. Nothing, if it has been answered."""
        if place.waiter.end is None:
            self.waiting -= 1
            place.line.queue.leave(place.waiter, now)

    def wake(self, now: float) -> None:
        """There may be room."""
        for pool, line in self._lines.items():
            if len(line.queue):
                self._serve(pool, line, now)

    def refresh(self, now: float) -> None:
        """The objects have changed: refuse who waits for a pool that is gone; there may be room in others."""
        for pool, line in list(self._lines.items()):
            view = self._director.view(pool)
            if view is None:
                del self._lines[pool]
                self._refuse(pool, line.queue.close(now))
            elif view.queue is not None:
                line.queue.limits = _limits(view.queue)
        self.wake(now)

    def due(self) -> float | None:
        """When `expire` has something to do. None: nobody waits."""
        return min((due for line in self._lines.values() if (due := line.queue.due()) is not None), default=None)

    def expire(self, now: float) -> None:
        """Refuse who has waited too long, and try again those who were set aside."""
        for pool, line in self._lines.items():
            if len(line.queue):
                self._refuse(pool, line.queue.expire(now, bool(self._director.open_to(pool))))
                self._serve(pool, line, now)

    def statistics(self, now: float) -> Mapping[str, QueueStatistics]:
        """Each queue's numbers, by pool."""
        return {pool: line.queue.statistics(now) for pool, line in self._lines.items()}

    def _goes_now(self, line: _Line, wish: Wish, capacity: bool, now: float) -> bool:
        """Whether not to wait: there is room, or an answer that waiting would not change."""
        if not wish.allowed:
            # An empty pool may be starting up. That others than those allowed are there helps nobody.
            return capacity or wish.serving.view.opens_unseen
        return line.room.has(wish.allowed, wish.ask, now)

    def _serve(self, pool: str, line: _Line, now: float) -> None:
        """Whoever's turn it is, as long as there is room."""
        endpoints = self._director.open_to(pool)
        if line.empty and endpoints:
            line.empty, line.opens_at = False, now + PROXY_LEARNS
        if now < line.opens_at:
            self._arm(line.opens_at)
            return
        while (head := line.queue.head(now)) is not None and line.room.has(endpoints, head.ask, now):
            assert head.payload is not None, "whoever waits has not ended"
            wish = self._director.renewed(head.payload.wish)
            if not wish.allowed:
                refused = line.queue.set_aside(head, now, capacity=True)
                self._refuse(pool, [refused] if refused is not None else [])
                self._arm(now + line.queue.limits.retry_period)
                continue
            self.waiting -= 1
            applicant = line.queue.dispatched(head, now).applicant
            try:
                placed = self._director.fulfil(wish, now)
            except RoutingError as error:
                applicant.refused(error)
            except Unseen as unseen:
                applicant.passed(unseen)
            else:
                applicant.placed(placed, now)

    def _refuse(self, pool: str, refused: list[Refused[_Waiting]]) -> None:
        for one in refused:
            self.waiting -= 1
            one.payload.applicant.refused(_error(pool, one))

    def _tenant(self, request: Arrived) -> str:
        headers = request.headers
        if headers:
            return tenant(headers.get(wire.FAIRNESS_HEADER), headers.get("authorization"), self._salt)
        return tenant(request.attributes.get(_FAIRNESS), None, self._salt)


def _limits(queue: Queue) -> Limits:
    return Limits(queue.max_size, queue.wait_timeout, queue.retry_period, queue.retries)


_FAIRNESS: Final = f"request.headers['{wire.FAIRNESS_HEADER}']"

_WHY: Final = {
    End.EXPIRED: "No engine of the pool {} could take the request in time.",
    End.FULL: "As many requests as may wait for the pool {} do.",
    End.SHED: "All engines of the pool {} are busy, and this request is sheddable.",
    End.UNPLACED: "None of the endpoints allowed for this request in the pool {} could take it.",
}


def _error(pool: str, refused: Refused[_Waiting]) -> RoutingError:
    """What the client is told."""
    refusal = refused.refusal
    text = f"{_WHY[refusal.reason].format(pool)} Try again in {refusal.retry_after} s."
    error = Saturated(text) if refusal.capacity else NoEndpoints(text)
    error.retry_after = refusal.retry_after
    return error
