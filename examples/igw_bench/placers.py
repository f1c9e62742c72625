"""Who places requests in the offline benchmark: the seam that `offline` calls, and our own scheduler behind it.

Ours are the product's parts, fed as in the product: ledgers through the scraper's sink, leases as streams end, the
index through leases. `peers` has the others. Called by `offline` on its virtual clock.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Protocol

from igw_bench.workloads import Job, Workload, endpoints
from igw_extproc.answers import Answers, streamed_tokens
from igw_extproc.domain import Ask, Endpoint, EngineLoad
from igw_extproc.inflight import Ledger
from igw_extproc.ledgers import Ledgers
from igw_extproc.pacing import FIRST_BACKOFF, is_new_process, next_backoff, next_interval
from igw_extproc.scheduling.filters import candidates
from igw_extproc.scheduling.framework import Policy, Reservation, Scheduler
from igw_extproc.scheduling.prefix import PrefixIndex
from igw_extproc.scheduling.split import SplitScheduler

# Seconds between pages that nobody reads.
_SELDOM = 1.0
# How many leading blocks of these an engine's cache holds now: what a router learns that listens to cache events.
Holds = Callable[[int, tuple[int, ...]], int]


class Placer(Protocol):
    """Decides, and is told what it would hear behind a proxy. Endpoints are numbers, in the fleet's order."""

    def place(self, job: Job, now: float) -> Sequence[int] | None:
        """The choice, which counts as taken, and where retries go. Empty: nobody can take it. None: it waits."""

    def moved(self, job: Job, endpoint: int) -> None:
        """The proxy retried there."""

    def first_byte(self, job: Job, now: float) -> None:
        """The answer began."""

    def ended(self, job: Job, now: float, succeeded: bool) -> None:
        """The answer is complete, or was cut."""

    def scrape_started(self, endpoint: int) -> object:
        """A metrics page is asked for. What is returned comes back with the answer."""

    def scraped(self, endpoint: int, mark: object, load: EngineLoad, now: float) -> float:
        """The page of `endpoint`. Returns the seconds until it is asked again."""

    def unreachable(self, endpoint: int, now: float) -> float:
        """Nobody listened. Returns the seconds until it is asked again."""


class Ours:
    """One policy of the product."""

    def __init__(self, policy: Policy, workload: Workload, rng: Random) -> None:
        index = self.index = PrefixIndex()
        self._rng = rng
        self._addresses = tuple(endpoints(workload))
        self._number = {address: at for at, address in enumerate(self._addresses)}
        self._ledgers = Ledgers(index.forget)
        self._ledgers.sync([Endpoint(address) for address in self._addresses])
        self._all = self._ledgers.select(self._addresses)
        self._scheduler: Scheduler | SplitScheduler = Scheduler(policy, index)
        self._answers = Answers()
        self._leases: dict[int, Reservation] = {}
        self._first: dict[int, tuple[float, float | None]] = {}
        self._last: dict[int, EngineLoad] = {}
        self._backoff: dict[int, float] = {}

    def place(self, job: Job, now: float) -> Sequence[int] | None:
        """As `Director.place`, with the request read already."""
        return self.choose(job, self.able(), now)

    def able(self) -> list[Ledger]:
        """Who may be chosen now."""
        return candidates(self._all)

    def choose(self, job: Job, among: Sequence[Ledger], now: float) -> Sequence[int]:
        """One of those, which counts from now on, and where retries go."""
        decision = self._scheduler.pick(among, self._ask(job), now, self._rng)
        if decision is None:
            return ()
        self._leases[job.number] = decision.lease
        return [self._number[ledger.endpoint.address] for ledger in decision.order]

    def _ask(self, job: Job) -> Ask:
        """What the picker reads in the request."""
        expected = self._answers.expected("", "")
        output = expected if job.max_tokens is None else min(expected, job.max_tokens)
        prefix = job.prefix if self._scheduler.reads_prefixes else ()
        return Ask("", job.prompt_tokens, output, prefix, None, job.priority)

    def ledger(self, endpoint: int) -> Ledger:
        """What is known of an endpoint."""
        return self._all[endpoint]

    def lease(self, job: Job) -> Reservation | None:
        """A request's share of its endpoint. None: it has none, or has ended."""
        return self._leases.get(job.number)

    def withdraw(self, job: Job, now: float) -> None:
        """Give it back, if there is one: the request was not sent."""
        lease = self._leases.pop(job.number, None)
        if lease is not None:
            lease.close(now, succeeded=False)

    def moved(self, job: Job, endpoint: int) -> None:
        """As `Flight.responded`."""
        self._leases[job.number].moved_to(self._all[endpoint])

    def first_byte(self, job: Job, now: float) -> None:
        """As `Flight.first_byte`."""
        self._leases[job.number].first_byte(now)
        self._first[job.number] = now, self._leases[job.number].ledger.decode.step

    def ended(self, job: Job, now: float, succeeded: bool) -> None:
        """As `Flight.length` and `Flight.ended`, for answers that are streamed."""
        lease = self._leases.pop(job.number)
        first, step = self._first.pop(job.number, None), lease.ledger.decode.step
        if succeeded and first is not None and step:
            self._answers.ended("", "", streamed_tokens(now - first[0], first[1], step))
        lease.close(now, succeeded)

    def scrape_started(self, endpoint: int) -> object:
        """The ledger's mark."""
        return self._ledgers.scrape_started(self._addresses[endpoint])

    def scraped(self, endpoint: int, mark: object, load: EngineLoad, now: float) -> float:
        """Through the scraper's sink, at the scraper's pace."""
        previous = self._last.get(endpoint)
        self._last[endpoint] = load
        self._backoff.pop(endpoint, None)
        if previous is not None and is_new_process(load, previous):
            self._ledgers.restarted(self._addresses[endpoint])
        self._ledgers.scraped(self._addresses[endpoint], mark, load, now)
        return next_interval(load, previous, self._all[endpoint].requests)

    def unreachable(self, endpoint: int, now: float) -> float:
        """As the scraper, which tries again soon and then less often."""
        self._ledgers.unreachable(self._addresses[endpoint], "refused", now)
        before = self._backoff.get(endpoint)
        self._backoff[endpoint] = FIRST_BACKOFF if before is None else next_backoff(before)
        return self._backoff[endpoint]


class Recorded:
    """Places as somebody else did, by job number: what remains of a difference then is not placement's."""

    def __init__(self, placed: Mapping[int, int]) -> None:
        self._placed = placed

    def place(self, job: Job, now: float) -> Sequence[int]:
        """Where it went; nowhere if that is not known."""
        return (self._placed[job.number],) if job.number in self._placed else ()

    def moved(self, job: Job, endpoint: int) -> None:
        """Nothing."""

    def first_byte(self, job: Job, now: float) -> None:
        """Nothing."""

    def ended(self, job: Job, now: float, succeeded: bool) -> None:
        """Nothing."""

    def scrape_started(self, endpoint: int) -> object:
        """Nothing."""
        return None

    def scraped(self, endpoint: int, mark: object, load: EngineLoad, now: float) -> float:
        """Seldom enough to cost nothing."""
        return _SELDOM

    def unreachable(self, endpoint: int, now: float) -> float:
        """As often."""
        return _SELDOM
