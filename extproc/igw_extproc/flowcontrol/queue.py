"""The requests of one pool that wait in the picker: who gets in, who is next, and who has waited too long.

Sans-I/O: the caller asks `offer` for a request that finds no room at the endpoint that it would best go to, and where
there may be room, takes the `head` of that endpoint's line and tells that it was `dispatched` (see `turns`). Those that
have no endpoint to wait for have a line of their own, where each gets one (`move`) or is `set_aside`. The caller tells
with `leave` that a client has gone, and calls `expire` at the time that `due` names. What must be answered with a
refusal is returned, never called back. Called on one event loop; `now` is an argument, in seconds of any one clock.

Every waiter ends exactly once (`waiters.End`), and its bytes are counted from `offer` to that end. Who has left stays
in no table for long, so memory is bounded by the limits, whatever clients do.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final, Generic

from igw_extproc.domain import Ask
from igw_extproc.flowcontrol.drain import Drain
from igw_extproc.flowcontrol.lines import Lines
from igw_extproc.flowcontrol.waiters import End, Limits, Payload, Refusal, Refused, Waiter
from igw_extproc.inflight import Ledger

# Of `wait_timeout`: early enough for a request that has aged to have its turn before it expires.
AGED: Final = 0.25


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """One queue's numbers at one moment."""

    waiting: Mapping[int, int]  # by priority
    aside: int
    bytes: int
    ends: Mapping[str, int]  # since the beginning, by `End`
    rate: float | None  # dispatches a second, of requests that had waited


class FlowQueue(Generic[Payload]):
    """A pool's queue. `payload` is the caller's own: it comes back when the waiter ends."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lines: Lines[Payload] = Lines(AGED * limits.wait_timeout)
        self._drain = Drain()
        self._deadlines: list[tuple[float, int, Waiter[Payload]]] = []
        self._retries: list[tuple[float, int, Waiter[Payload]]] = []
        self._sequence = 0
        self._size = 0
        self._bytes = 0
        self._ends = dict.fromkeys((end.value for end in End), 0)

    def __len__(self) -> int:
        return self._size

    @property
    def limits(self) -> Limits:
        """May be replaced at any time. Requests that wait keep their deadlines, and their places even above a size."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._lines.age_after(AGED * limits.wait_timeout)

    def refuses(self, ask: Ask, size: int) -> bool:
        """Whether `offer` would not let it wait."""
        return self._why_not(ask, size) is not None

    def offer(
        self,
        payload: Payload,
        ask: Ask,
        tenant: str,
        size: int,
        now: float,
        capacity: bool,
        place: Ledger | None = None,
    ) -> tuple[Waiter[Payload] | None, list[Refused[Payload]]]:
        """Let a request wait that holds `size` bytes: its waiter, and what must be refused now, itself or others.

        `capacity`: whether the pool has endpoints at all. `place`: the one that it waits for.
        """
        reason = self._why_not(ask, size)
        if reason is not None:
            self._ends[reason.value] += 1
            return None, [Refused(payload, self._refusal(reason, now, capacity))]
        shed = self._shed_for(size, now, capacity)
        self._sequence += 1
        expires_at = now + self._limits.wait_timeout
        waiter = Waiter(self._sequence, ask, tenant, size, now, expires_at, payload, place)
        self._lines.push(waiter)
        heappush(self._deadlines, (expires_at, waiter.sequence, waiter))
        self._size += 1
        self._bytes += size
        self._drain.begins(now)
        return waiter, shed

    def hurry(self, waiter: Waiter[Payload], expires_at: float) -> None:
        """It waits until then at the latest. Nothing, if it may not wait as long anyway."""
        if expires_at < waiter.expires_at:
            waiter.expires_at = expires_at
            heappush(self._deadlines, (expires_at, waiter.sequence, waiter))

    def head(self, now: float, place: Ledger | None = None) -> Waiter[Payload] | None:
        """Whose turn it is at `place`; None: of those without one. None: nobody's now."""
        return self._lines.head(place, now)

    def elsewhere(self, place: Ledger, most: int, now: float) -> Iterator[Waiter[Payload]]:
        """Whose turn it is at up to `most` other places: others each time, where there are more."""
        return self._lines.elsewhere(place, most, now)

    def highest(self, place: Ledger) -> int | None:
        """The highest priority that waits for `place`. None: nobody does."""
        return self._lines.highest(place)

    def places(self) -> list[Ledger | None]:
        """What somebody waits for; None: for any endpoint."""
        return self._lines.places()

    def waiting_for(self, place: Ledger | None) -> list[Waiter[Payload]]:
        """Everybody who does: the higher priorities first, in each as they came."""
        return self._lines.waiting_for(place)

    def move(self, waiter: Waiter[Payload], place: Ledger | None, other: Ledger | None = None) -> None:
        """It waits for another endpoint from now on, behind its tenant's others there."""
        self._lines.remove(waiter)
        waiter.place, waiter.other = place, other
        self._lines.push(waiter)

    def needs(self, waiter: Waiter[Payload], other: Ledger | None) -> None:
        """Where it waits, it needs room at `other` as well."""
        waiter.other = other

    def turn(self, waiter: Waiter[Payload]) -> None:
        """It waits for its other endpoint from now on, before its tenant's others there."""
        self._lines.remove(waiter)
        waiter.place, waiter.other = waiter.other, waiter.place
        self._lines.push(waiter, front=True)

    def dispatched(self, waiter: Waiter[Payload], now: float) -> Payload:
        """The head of a line goes to an endpoint: its payload."""
        self._lines.served(waiter, now)
        self._drain.dispatched(now)
        return self._end(waiter, End.DISPATCHED, now)

    def set_aside(self, waiter: Waiter[Payload], now: float) -> None:
        """None of the head's own candidates can take it: others go first, until it is tried again."""
        self._lines.remove(waiter)
        waiter.aside = True
        heappush(self._retries, (now + self._limits.retry_period, waiter.sequence, waiter))

    def leave(self, waiter: Waiter[Payload], now: float) -> None:
        """The client has gone. Nothing, if the waiter had ended."""
        if waiter.end is None:
            self._remove(waiter)
            self._end(waiter, End.GONE, now)

    def due(self) -> float | None:
        """When `expire` has something to do. None: nobody waits."""
        times = [heap[0][0] for heap in (_live(self._deadlines), _live(self._retries)) if heap]
        return min(times, default=None)

    def expire(self, now: float, capacity: bool) -> list[Refused[Payload]]:
        """Refuse who has waited too long, and let those set aside have their turn again."""
        refused: list[Refused[Payload]] = []
        while _live(self._deadlines) and self._deadlines[0][0] <= now:
            waiter = self._deadlines[0][2]
            self._remove(waiter)
            refused.append(self._refuse(waiter, End.UNPLACED if waiter.aside else End.EXPIRED, now, capacity))
        while _live(self._retries) and self._retries[0][0] <= now:
            waiter = heappop(self._retries)[2]
            waiter.aside = False
            self._lines.push(waiter, front=True)
        return refused

    def close(self, now: float) -> list[Refused[Payload]]:
        """The pool is gone: refuse everybody."""
        refused: list[Refused[Payload]] = []
        while _live(self._deadlines):
            waiter = self._deadlines[0][2]
            self._remove(waiter)
            refused.append(self._refuse(waiter, End.UNPLACED, now, capacity=False))
        return refused

    def statistics(self, now: float) -> QueueStatistics:
        """The numbers now."""
        waiting = self._lines.lengths()
        aside = self._size - sum(waiting.values())
        return QueueStatistics(waiting, aside, self._bytes, dict(self._ends), self._drain.rate(now))

    def _why_not(self, ask: Ask, size: int) -> End | None:
        """Why a newcomer may not wait; None: it may, perhaps in a sheddable one's place."""
        limits, lines = self._limits, self._lines
        places, room = self._size, self._bytes
        if ask.priority >= 0:
            places, room = places - lines.sheddable, room - lines.sheddable_bytes
        elif len(lines) > lines.sheddable:
            return End.SHED  # behind others, whom it would only be refused for
        return End.FULL if places >= limits.max_size or room + size > limits.max_bytes else None

    def _shed_for(self, size: int, now: float, capacity: bool) -> list[Refused[Payload]]:
        """Refuse as many sheddable ones as it takes; `_why_not` has seen that they suffice, or that none need go."""
        shed: list[Refused[Payload]] = []
        limits = self._limits
        while self._size >= limits.max_size or self._bytes + size > limits.max_bytes:
            victim = self._lines.last_sheddable()
            assert victim is not None, "there was room but for the sheddable"
            self._lines.remove(victim)
            shed.append(self._refuse(victim, End.SHED, now, capacity))
        return shed

    def _remove(self, waiter: Waiter[Payload]) -> None:
        if not waiter.aside:
            self._lines.remove(waiter)

    def _refuse(self, waiter: Waiter[Payload], reason: End, now: float, capacity: bool) -> Refused[Payload]:
        refusal = self._refusal(reason, now, capacity)
        return Refused(self._end(waiter, reason, now), refusal)

    def _refusal(self, reason: End, now: float, capacity: bool) -> Refusal:
        wait = self._drain.retry_after(self._size, self._limits.wait_timeout, now)
        return Refusal(reason, capacity, wait)

    def _end(self, waiter: Waiter[Payload], end: End, now: float) -> Payload:
        """Once and for all; it is in no band any more."""
        assert waiter.end is None and waiter.payload is not None, "a waiter ends once"
        payload, waiter.payload, waiter.end = waiter.payload, None, end
        self._size -= 1
        self._bytes -= waiter.size
        self._ends[end.value] += 1
        if not self._size:
            self._drain.ends(now)
        for heap in (self._deadlines, self._retries):
            _trim(heap, self._size)
        return payload


def _live(heap: list[tuple[float, int, Waiter[Payload]]]) -> list[tuple[float, int, Waiter[Payload]]]:
    """The heap, without ended waiters at its top."""
    while heap and heap[0][2].end is not None:
        heappop(heap)
    return heap


def _trim(heap: list[tuple[float, int, Waiter[Payload]]], waiting: int) -> None:
    """Throw ended waiters out once they are the most: O(1) for each that ends."""
    if len(heap) > 2 * waiting + 64:
        heap[:] = [entry for entry in heap if entry[2].end is None]
        heapify(heap)
