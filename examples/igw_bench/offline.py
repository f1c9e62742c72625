"""A workload on simulated engines and a virtual clock: no sockets, no waiting, the same result for the same seed.

The engines are those of `igw sim`, step by step; who places is told only what it would hear behind the proxy: metrics
pages at its own pace, first bytes, ends, retries. An engine's page shows it as of the end of its last complete step.
Not modelled: the proxy's and the network's share of time, but for one fixed hop. Called by `policies`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any

from igw_bench.placers import Holds, Placer
from igw_bench.workloads import Change, Job, Workload
from igw_extproc.domain import EngineKind, EngineLoad
from igw_sim.engine import Engine
from igw_sim.model import Finished, Occupancy, Request, StepResult

# From the pick to the engine's queue, in seconds: proxy and network.
HOP = 0.001
# From the reading of a metrics page to the picker's knowing it.
PAGE_DELAY = 0.004
# A client of a closed loop waits this long after a failure before its next request, as load generators do.
AFTER_FAILURE = 0.1
# Tries of one request: the first, and the retries that the gateway makes before the first byte.
TRIES = 3
_IDLE = Occupancy(0, 0, 0, 0)


@dataclass(slots=True)
class Record:
    """What became of one request. Times are seconds on the virtual clock; below zero: it did not happen."""

    job: Job
    sent_at: float
    endpoint: int = -1
    first_at: float = -1.0
    ended_at: float = -1.0
    cached_tokens: int = 0
    preemptions: int = 0
    tries: int = 0
    failed: bool = False
    refused: bool = False  # by the engine, which it does not fit into
    order: tuple[int, ...] = ()


@dataclass(slots=True)
class Host:
    """One engine's machine. Each process that runs there has a number, so that what a dead one left is told apart."""

    number: int
    engine: Engine
    process: int = 0
    up: bool = True
    stepping: bool = False
    read: Occupancy = _IDLE
    started_at: float = 0.0
    fullest: float = 0.0
    scrape: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run: a record for each request, in the order of their being sent, and the fullest that each engine's KV was.

    `engine_queue`: requests that waited in an engine, the mean of all its pages and of all engines.
    """

    workload: Workload
    records: list[Record]
    fullest: tuple[float, ...]
    most_in_flight: int
    steps: int
    engine_queue: float = 0.0


class Simulation:
    """One workload under one placer. `rng` is for the engines' jitter, if they have any; `hop`: see HOP. `run` once."""

    def __init__(self, workload: Workload, placer: Callable[[Holds], Placer], rng: Random, hop: float = HOP) -> None:
        self._hop = hop
        self._workload = workload
        self._placer = placer(self._holds)
        self._rng = rng
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = count()
        self._now = self._begun = 0.0
        self._records: list[Record] = []
        self._flying: dict[str, Record] = {}
        self._waiting: dict[int, Record] = {}
        self._unsent = iter(workload.jobs)
        self._in_flight = self._most_in_flight = self._ended = self._followed = self._steps = 0
        self._told_waiting = self._pages = 0
        self._closed = False
        self._hosts = [Host(at, self._new_engine(at)) for at in range(len(workload.fleet))]

    def run(self) -> Outcome:
        """Until every request has ended."""
        for host in self._hosts:
            self._at(0.0, self._scrape, host, host.scrape)
        for change in self._workload.changes:
            self._at(change.at, self._change, change)
        # After the first pages, as a gateway that has been up for a while.
        self._at(2 * PAGE_DELAY, self._begin)
        jobs = len(self._workload.jobs)
        events = self._events
        # Nothing is owed that nobody will send: turns after one that failed, requests after the end.
        while self._ended < jobs + self._followed and not (self._closed and not self._in_flight):
            self._now, _, call, arguments = heappop(events)
            call(*arguments)
        fullest = tuple(host.fullest for host in self._hosts)
        queue = self._told_waiting / self._pages
        return Outcome(self._workload, self._records, fullest, self._most_in_flight, self._steps, queue)

    def _at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        heappush(self._events, (when, next(self._order), call, arguments))

    # Requests.

    def _begin(self) -> None:
        workload = self._workload
        self._begun = self._now
        if workload.clients:
            for _ in range(workload.clients):
                self._send_next()
            return
        for arrival in workload.arrivals:
            self._at(self._now + arrival, self._send_next)

    def _send_next(self) -> None:
        job = next(self._unsent, None)
        if job is not None:
            self._send(job)

    def _send(self, job: Job) -> None:
        self._closed = self._closed or self._now - self._begun >= self._workload.until
        if self._closed:
            return
        record = Record(job, self._now)
        self._records.append(record)
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        order = self._placer.place(job, self._now)
        if order is None:
            self._waiting[job.number] = record
            return
        record.order = tuple(order)
        self._try(record)

    def answered(self, job: Job, order: Sequence[int]) -> None:
        """One that has waited is told where it goes. Empty: it is refused."""
        record = self._waiting.pop(job.number)
        record.order = tuple(order)
        self._try(record)

    def alarm(self, when: float, call: Callable[[], None]) -> None:
        """Call at that time."""
        self._at(when, call)

    def _try(self, record: Record) -> None:
        """Send it to the next endpoint of its list."""
        if record.tries == min(len(record.order), TRIES):
            self._end(record, failed=True)
            return
        record.endpoint = record.order[record.tries]
        record.tries += 1
        self._at(self._now + self._hop, self._reach, record)

    def _reach(self, record: Record) -> None:
        host, job = self._hosts[record.endpoint], record.job
        if not host.up:
            self._try(record)
            return
        if record.tries > 1:
            self._answered_elsewhere(record)
        if job.prompt_tokens + job.output_tokens > host.engine.limits.longest:
            record.refused = True
            self._end(record, failed=True)
            return
        name = str(job.number)
        self._flying[name] = record
        host.engine.submit(Request(name, job.prompt_tokens, job.output_tokens, job.blocks), self._now)
        if not host.stepping:
            self._step(host)

    def _answered_elsewhere(self, record: Record) -> None:
        """The response's headers tell who serves it; the picker then looks at once at the one that it had chosen."""
        self._placer.moved(record.job, record.endpoint)
        chosen = self._hosts[record.order[0]]
        chosen.scrape += 1
        self._scrape(chosen, chosen.scrape)

    def _end(self, record: Record, failed: bool) -> None:
        record.ended_at, record.failed = self._now, failed
        self._in_flight -= 1
        self._ended += 1
        if record.order:
            self._placer.ended(record.job, self._now, not failed)
        following = None if failed else self._workload.follow.get(record.job.number)
        if following is not None:
            self._followed += 1
            self._at(self._now + following.think, self._send, following.job)
        elif self._workload.clients:
            self._at(self._now + (AFTER_FAILURE if failed else 0.0), self._send_next)

    # Engines.

    def _new_engine(self, number: int) -> Engine:
        preset = self._workload.fleet[number]
        return Engine(preset.limits, preset.speed, self._rng)

    def _holds(self, endpoint: int, blocks: tuple[int, ...]) -> int:
        return self._hosts[endpoint].engine.holds(blocks)

    def _step(self, host: Host) -> None:
        host.stepping = host.engine.busy
        if host.stepping:
            result = host.engine.step(self._now)
            self._at(self._now + result.duration, self._stepped, host, host.process, result)

    def _stepped(self, host: Host, process: int, result: StepResult) -> None:
        if process != host.process:
            return
        self._steps += 1
        host.read = host.engine.occupancy
        host.fullest = max(host.fullest, host.read.kv_used_blocks / host.engine.limits.kv_blocks)
        # Those of which the step computed the prompt; again, if it had lost its blocks.
        for name, _ in result.emitted[result.decode_sequences :]:
            record = self._flying[name]
            if record.first_at < 0.0:
                record.first_at = self._now
                self._placer.first_byte(record.job, self._now)
        for finished in result.finished:
            self._finished(self._flying.pop(finished.id), finished)
        self._step(host)

    def _finished(self, record: Record, finished: Finished) -> None:
        record.cached_tokens = finished.cached_tokens
        record.preemptions = finished.preemptions
        self._end(record, failed=False)

    def _change(self, change: Change) -> None:
        host = self._hosts[change.endpoint]
        if change.slowness is None:
            self._die(host)
            return
        if not host.up:
            host.engine, host.up = self._new_engine(host.number), True
            host.read, host.started_at = _IDLE, self._now
        host.engine.speed = self._workload.fleet[host.number].speed.faster(1.0 / change.slowness)

    def _die(self, host: Host) -> None:
        """Answers that have begun are cut. The others are tried elsewhere, as the proxy may."""
        host.up = host.stepping = False
        host.process += 1
        for name in [name for name, record in self._flying.items() if record.endpoint == host.number]:
            record = self._flying.pop(name)
            if record.first_at < 0.0:
                self._try(record)
            else:
                self._end(record, failed=True)

    # Metrics pages.

    def _scrape(self, host: Host, number: int) -> None:
        if number != host.scrape:
            return  # another one was started since
        if not host.up:
            self._at(self._now + self._placer.unreachable(host.number, self._now), self._scrape, host, number)
            return
        mark = self._placer.scrape_started(host.number)
        self._at(self._now + PAGE_DELAY, self._scraped, host, number, mark, self._page(host))

    def _scraped(self, host: Host, number: int, mark: object, load: EngineLoad) -> None:
        wait = self._placer.scraped(host.number, mark, load, self._now)
        self._at(self._now + wait, self._scrape, host, number)

    def _page(self, host: Host) -> EngineLoad:
        read, limits = host.read, host.engine.limits
        self._told_waiting, self._pages = self._told_waiting + read.waiting, self._pages + 1
        return EngineLoad(
            EngineKind.VLLM,
            running=read.running,
            waiting=read.waiting,
            kv_usage=read.kv_used_blocks / limits.kv_blocks,
            kv_capacity_tokens=limits.kv_tokens,
            generation_tokens_total=read.generation_tokens,
            started_at=host.started_at,
        )
