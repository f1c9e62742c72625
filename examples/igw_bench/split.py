"""Workload E offline: the same engines once mixed, each computing prompts and answers, and once divided by roles.

Divided, a request goes as in the product: the picker's scheduler names a pair, the sidecar beside the decode engine has
the prompt computed elsewhere, and the KV moves over both engines' links, which carry one transfer at a time. The
engines are those of `igw sim`; what they share with the other workloads is in `offline`. Called by `prefill_decode`.
"""

from collections.abc import Sequence
from random import Random

from igw_api.split import Role, Split
from igw_api.wire import ROLE_LABELS
from igw_bench.offline import HOP, Host, Outcome, Record, Simulation
from igw_bench.placers import Ours, Placer
from igw_bench.queued import Queued
from igw_bench.workloads import Job, Workload
from igw_extproc.domain import Endpoint
from igw_extproc.flowcontrol.waiters import Limits
from igw_extproc.inflight import Ledger
from igw_extproc.scheduling.policies import POLICIES
from igw_extproc.scheduling.split import PairLease, SplitScheduler
from igw_sim.model import Fetch, Request, StepResult
from igw_sim.transfer import Link, move


class Divided(Ours):
    """The product's choice of pairs. `roles` has a role for each engine of the fleet."""

    def __init__(self, split: Split, roles: Sequence[Role], workload: Workload, rng: Random) -> None:
        super().__init__(POLICIES[split.prefill], workload, rng)
        labelled = zip(self._addresses, roles, strict=True)
        self._ledgers.sync([Endpoint(address, {ROLE_LABELS[0]: role}) for address, role in labelled])
        self._scheduler = self._split = SplitScheduler(split, self.index)
        self._split.serve(self._all)

    def able(self) -> list[Ledger]:
        """Who may answer now."""
        return self._split.candidates(self._all)

    def prefiller(self, job: Job) -> int | None:
        """The engine that computes the prompt, if not the one that answers."""
        lease = self._leases[job.number]
        return self._number[lease.prefill.ledger.endpoint.address] if isinstance(lease, PairLease) else None

    def prefilled(self, job: Job, now: float) -> None:
        """As `Flight.prefilled`: the sidecar's answer has begun."""
        lease = self._leases[job.number]
        if isinstance(lease, PairLease):
            lease.prefilled(now)


class DividedSimulation(Simulation):
    """A workload whose requests may be divided. Engines do not die here. Use `run` once.

    `placer`: who is asked, if not `divided` itself: a queue before it.
    """

    def __init__(
        self, workload: Workload, divided: Divided, rng: Random, hop: float = HOP, placer: Placer | None = None
    ) -> None:
        super().__init__(workload, lambda _: placer or divided, rng, hop)
        self._divided = divided
        self._links = [Link(preset.transfer) for preset in workload.fleet]
        self._prompts: dict[str, Host] = {}  # who computes it, or keeps its KV until that has moved
        self._computing: set[str] = set()

    def _reach(self, record: Record) -> None:
        """The sidecar has it: the prompt goes to another engine first, if the picker said so."""
        at = self._divided.prefiller(record.job)
        if at is None:
            super()._reach(record)
        else:
            self._at(self._now + self._hop, self._compute, record, self._hosts[at])

    def _compute(self, record: Record, host: Host) -> None:
        job, name = record.job, str(record.job.number)
        self._prompts[name] = host
        self._computing.add(name)
        self._flying[name] = record
        host.engine.submit(Request(name, job.prompt_tokens, 1, job.blocks, keep_kv=True), self._now)
        self._wake(host)

    def _answer(self, record: Record) -> None:
        """The prompt is computed: the engine beside the sidecar fetches its KV and goes on."""
        host, job, name = self._hosts[record.endpoint], record.job, str(record.job.number)
        self._divided.prefilled(job, self._now)
        host.engine.submit(Request(name, job.prompt_tokens, job.output_tokens, job.blocks, remote_kv=True), self._now)
        self._wake(host)

    def _wake(self, host: Host) -> None:
        if not host.stepping:
            self._step(host)

    def _step(self, host: Host) -> None:
        host.stepping = host.engine.busy
        if host.stepping:
            result = host.engine.step(self._now)
            for fetch in result.fetches:
                self._fetch(host, fetch)
            self._at(self._now + result.duration, self._stepped, host, host.process, result)

    def _fetch(self, host: Host, fetch: Fetch) -> None:
        source = self._prompts.pop(fetch.id)
        there = move(fetch.tokens, self._now, self._links[source.number], self._links[host.number])
        self._at(there, self._moved, host, source, fetch.id)

    def _moved(self, host: Host, source: Host, name: str) -> None:
        source.engine.release(name)
        host.engine.deliver(name, self._now)
        self._wake(source)
        self._wake(host)

    def _stepped(self, host: Host, process: int, result: StepResult) -> None:
        self._steps += 1
        host.read = host.engine.occupancy
        host.fullest = max(host.fullest, host.read.kv_used_blocks / host.engine.limits.kv_blocks)
        for name, _ in result.emitted[result.decode_sequences :]:
            record = self._flying[name]
            if name not in self._computing and record.first_at < 0.0:
                record.first_at = self._now
                self._placer.first_byte(record.job, self._now)
        for finished in result.finished:
            if finished.id in self._computing:
                self._computing.remove(finished.id)
                self._at(self._now + self._hop, self._answer, self._flying[finished.id])
            else:
                self._finished(self._flying.pop(finished.id), finished)
        self._step(host)


def simulate(
    workload: Workload, split: Split, roles: Sequence[Role], seed: int, hop: float = HOP, limits: Limits | None = None
) -> Outcome:
    """One run of the divided fleet. `limits`: with the picker's queue."""
    divided = Divided(split, roles, workload, Random(seed))
    if limits is None:
        return DividedSimulation(workload, divided, Random(seed), hop).run()
    queued = Queued(divided, limits)
    return queued.run(DividedSimulation(workload, divided, Random(seed), hop, queued))
