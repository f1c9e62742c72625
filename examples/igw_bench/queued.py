"""The product's queue in the picker, on the offline benchmark's virtual clock. Called by `policies` and `split`.

The parts are those of `Admission`; here the queue is told what happens, and others hear of what it decides. One thing
is left out: a pool without any endpoint refuses, where the product waits for one.
"""

from collections.abc import Callable, Sequence
from functools import partial

from igw_bench.offline import Outcome, Simulation
from igw_bench.placers import Ours
from igw_bench.workloads import Job
from igw_extproc.domain import EngineLoad
from igw_extproc.flowcontrol.queue import FlowQueue
from igw_extproc.flowcontrol.room import is_open
from igw_extproc.flowcontrol.turns import serve
from igw_extproc.flowcontrol.waiters import Limits, Refused, Waiter
from igw_extproc.inflight import Ledger
from igw_extproc.scheduling.framework import Reservation


class Queued:
    """One policy of the product with its queue: a `Placer`. Use `run`, once."""

    def __init__(self, ours: Ours, limits: Limits) -> None:
        self._ours = ours
        self._queue: FlowQueue[Job] = FlowQueue(limits)
        self._orders: dict[int, Sequence[int]] = {}  # of those that wait: where they would go
        self._answer: Callable[[Job, Sequence[int]], None]
        self._alarm: Callable[[float, Callable[[], None]], None]

    def run(self, simulation: Simulation) -> Outcome:
        """The simulation whose placer this is, to its end."""
        self._answer, self._alarm = simulation.answered, simulation.alarm
        return simulation.run()

    def place(self, job: Job, now: float) -> Sequence[int] | None:
        """As `Admission.admit`. None: it waits."""
        order = self._ours.choose(job, self._ours.able(), now)
        if not order:
            return order
        lease = self._lease(job)
        lease.hold()
        highest = self._queue.highest(lease.ledger)
        if (highest is None or highest < job.priority) and is_open(lease.ledger, lease.ask, now):
            lease.send(now)
            return order
        waiter, refused = self._queue.offer(job, lease.ask, str(job.tenant), 0, now, True, lease.ledger)
        if waiter is None:
            self._ours.withdraw(job, now)
            return ()
        self._orders[job.number] = order
        self._refuse(refused, now)
        self._alarm(waiter.expires_at, partial(self._expire, waiter.expires_at))
        return None

    def moved(self, job: Job, endpoint: int) -> None:
        """As it is."""
        self._ours.moved(job, endpoint)

    def first_byte(self, job: Job, now: float) -> None:
        """There may be room."""
        self._ours.first_byte(job, now)
        serve(self._queue, self._lease(job).ledger, self, now)

    def ended(self, job: Job, now: float, succeeded: bool) -> None:
        """There may be room."""
        ledger = self._lease(job).ledger
        self._ours.ended(job, now, succeeded)
        serve(self._queue, ledger, self, now)

    def scrape_started(self, endpoint: int) -> object:
        """As it is."""
        return self._ours.scrape_started(endpoint)

    def scraped(self, endpoint: int, mark: object, load: EngineLoad, now: float) -> float:
        """There may be room."""
        wait = self._ours.scraped(endpoint, mark, load, now)
        serve(self._queue, self._ours.ledger(endpoint), self, now)
        return wait

    def unreachable(self, endpoint: int, now: float) -> float:
        """Whoever waits for it waits for another one from now on."""
        wait = self._ours.unreachable(endpoint, now)
        places = [self._place_anew(waiter, now) for waiter in self._queue.waiting_for(self._ours.ledger(endpoint))]
        for place in dict.fromkeys(places):
            if place is not None:
                serve(self._queue, place, self, now)
        return wait

    # What `serve` asks (`turns.Host`).

    def extra(self, payload: Job, ledger: Ledger) -> int | None:
        """As `Director.extra`."""
        lease = self._lease(payload)
        cached = self._ours.index.match(lease.ask.prefix)
        return cached.get(lease.ledger.slot, 0) - cached.get(ledger.slot, 0)

    def chooses(self, payload: Job, ledger: Ledger, now: float) -> bool:
        """As `Admission.chooses`."""
        place = self._lease(payload).ledger
        self._ours.withdraw(payload, now)
        self._orders[payload.number] = self._ours.choose(payload, [ledger, place], now)
        lease = self._lease(payload)
        lease.hold()
        return lease.ledger is ledger

    def goes(self, waiter: Waiter[Job], now: float) -> None:
        """Over to its engine."""
        job = self._queue.dispatched(waiter, now)
        self._lease(job).send(now)
        self._answer(job, self._orders.pop(job.number))

    def _lease(self, job: Job) -> Reservation:
        lease = self._ours.lease(job)
        assert lease is not None, "it has been placed, and has not ended"
        return lease

    def _place_anew(self, waiter: Waiter[Job], now: float) -> Ledger | None:
        """None: there is nobody; it keeps its deadline."""
        job = waiter.payload
        assert job is not None, "whoever waits has not ended"
        self._ours.withdraw(job, now)
        self._orders[job.number] = self._ours.choose(job, self._ours.able(), now)
        lease = self._ours.lease(job)
        if lease is not None:
            lease.hold()
        self._queue.move(waiter, lease.ledger if lease is not None else None)
        return waiter.place

    def _expire(self, now: float) -> None:
        self._refuse(self._queue.expire(now, capacity=True), now)

    def _refuse(self, refused: Sequence[Refused[Job]], now: float) -> None:
        for one in refused:
            self._ours.withdraw(one.payload, now)
            self._orders.pop(one.payload.number, None)
            self._answer(one.payload, ())
