"""The loop: after every change, once things are quiet, make the cluster what the users' objects say. One pass at once.

Level-triggered: a pass reads all there is and writes only what differs, so that it may be repeated at any time, and a
restart changes nothing. Nothing is written before every kind is known completely, or while another operator leads.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from igw_api.objects import Key
from igw_operator.controller.apply import Applier
from igw_operator.controller.changes import Settled
from igw_operator.controller.decisions import Decision, decide, observe, with_failures
from igw_operator.controller.health import Health
from igw_operator.controller.inventory import Reader
from igw_operator.controller.kube import ApiError, Kube
from igw_operator.controller.peers import leader_besides
from igw_operator.controller.report import AGAIN, Reporter, declared
from igw_operator.controller.resources import PEERING, WATCHED, Resource
from igw_operator.controller.store import Store, View
from igw_operator.render.envoy_gateway.values import Identity, Options
from igw_operator.render.status.patches import statuses
from igw_operator.render.status.values import Facts, StatusPatch

QUIET: Final = 0.075  # a pass starts when nothing changed for this long,
PATIENCE: Final = 0.5  # or when something waits since this long
AUDIT_PAUSE: Final = 0.1
PATIENT_AUDITS: Final = 20
KINDS_PAUSE: Final = 5.0
# A listing that started anew and found nothing at all leaves no trace in the watch.
AUDIT_EVERY: Final = 600.0
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Leadership:
    """Which operator may write. `peering` None: this one, alone."""

    peering: str | None
    identity: str
    priority: int


@dataclass(slots=True)
class Reconciler:
    """Owns the passes. `clock`: seconds since the epoch."""

    kube: Kube
    store: Store
    reader: Reader
    options: Options
    controller_name: str
    leadership: Leadership
    health: Health
    clock: Callable[[], float]
    dirty: asyncio.Event
    settled: Settled = field(default_factory=Settled)
    applier: Applier = field(init=False)
    reporter: Reporter = field(init=False)
    _present: frozenset[Resource] = field(default=frozenset(), init=False)
    _leads: bool = field(default=False, init=False)
    _audits: int = field(default=0, init=False)  # in a row that were not complete
    _next_audit: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.applier = Applier(self.kube, self.store, self.settled)
        self.reporter = Reporter(self.kube, self.store, self.leadership.identity)

    async def run(self) -> None:
        """Until cancelled. Whatever fails is tried again."""
        pause: float | None = 0.0
        while True:
            await self._quiet(pause)
            try:
                pause = await self._pass()
            except ApiError as error:
                self._say(f"waiting for the API server: {error.message}", ready=False)
                pause = KINDS_PAUSE

    async def _quiet(self, pause: float | None) -> None:
        """Return `pause` seconds from now, or soon after a change; None: only after a change."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(pause):
                await self.dirty.wait()
        except TimeoutError:
            return
        latest = loop.time() + PATIENCE
        while self.dirty.is_set() and loop.time() < latest:
            self.dirty.clear()
            try:
                async with asyncio.timeout(min(QUIET, max(latest - loop.time(), 0.0))):
                    await self.dirty.wait()
            except TimeoutError:
                break
        self.dirty.clear()

    async def _pass(self) -> float | None:
        """One pass. Returns after how many seconds the next is due without a change."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        if not await self._is_prepared():
            return KINDS_PAUSE
        if not await self._is_complete():
            return await self._audit_again()
        self._audits = 0
        decision = await asyncio.to_thread(self._decide, self.store.view(), self.applier.foreign(started))
        if decision.changes:
            if not await self._may_write():
                return KINDS_PAUSE
            await self.applier.carry_out(decision.changes)
        patches = await asyncio.to_thread(self._judge, decision, self.store.view(), self.applier.foreign(loop.time()))
        if patches:
            if not await self._may_write():
                return KINDS_PAUSE
            await self.reporter.write(patches, self.clock())
        self._account(started)
        return max(self._due() - loop.time(), QUIET)

    def _due(self) -> float:
        """When the next pass must come, in loop time."""
        times = [self._next_audit, *filter(None, [self.applier.next_try()])]
        if self.reporter.again:
            times.append(asyncio.get_running_loop().time() + AGAIN)
        return min(times)

    def _decide(self, view: View, taken: frozenset[Identity]) -> Decision:
        inventory = self.reader.read(view)
        return decide(inventory, observe(view, taken), view, self.settled, self.controller_name, self.options)

    def _judge(self, decision: Decision, view: View, taken: frozenset[Identity]) -> tuple[StatusPatch, ...]:
        """What to tell users, now that the changes were made."""
        conditions = with_failures(decision, self.applier.stubborn)
        facts = Facts(decision.inventory.objects, decision.plan, conditions, observe(view, taken))
        return statuses(declared(view, decision.inventory), facts, self.clock())

    async def _is_prepared(self) -> bool:
        """Whether the kinds that are needed exist, and it is our turn."""
        loop = asyncio.get_running_loop()
        if not self._present or loop.time() >= self._next_audit:
            await self._look_for_kinds()
            self._next_audit = loop.time() + AUDIT_EVERY
        missing = [one for one in WATCHED if one.required and one not in self._present]
        if missing:
            self._next_audit = 0.0
            self._say(f"waiting for kinds that the API server does not know: {told_missing(missing)}", ready=False)
            return False
        return self._leads or await self._may_write()

    async def _look_for_kinds(self) -> None:
        served = await self.kube.served()
        self._present = frozenset(
            one for one in WATCHED if not one.group or (one.group, one.version, one.plural) in served
        )
        for resource in WATCHED:
            if resource in self._present:
                self.store.suspect.add(resource)
            else:
                self.store.forget(resource)

    async def _is_complete(self) -> bool:
        """Whether the store has all that the API server has, of every kind that may have gaps."""
        for resource in WATCHED:
            if resource not in self.store.suspect:
                continue
            before = self.store.listing(resource)
            missing = self.store.audit(resource, before, await self.kube.uids(resource))
            if missing:
                self._say(f"waiting for the watch of {resource.name}", ready=False)
                return False
        return True

    async def _audit_again(self) -> float:
        """Pauses grow: the watch may be paused because another operator leads by now."""
        self._audits += 1
        if self._audits > PATIENT_AUDITS:
            await self._may_write()
        return float(min(AUDIT_PAUSE * self._audits, KINDS_PAUSE))

    async def _may_write(self) -> bool:
        """Whether no other operator leads, by a fresh look. When leadership changes, all kinds are audited anew."""
        mine = self.leadership
        if mine.peering is None:
            self._leads = True
        else:
            record = await self.kube.get(PEERING, Key("", mine.peering))
            if record is None:
                self._say(f"waiting for the ClusterKopfPeering {mine.peering}, which does not exist", ready=False)
                return False
            other = leader_besides(record.get("status") or {}, mine.identity, mine.priority, self.clock())
            if other is None and not self._leads:
                self._suspect_all()
            self._leads = other is None
            if other is not None:
                self._say(f"standing by: {other} is in charge", ready=True)
        self.health.active.set(self._leads)
        return self._leads

    def _suspect_all(self) -> None:
        self.store.suspect |= self._present

    def _account(self, started: float) -> None:
        loop = asyncio.get_running_loop()
        failures = self.applier.failures
        self.health.reconciles.labels("incomplete" if failures else "ok").inc()
        self.health.seconds.observe(loop.time() - started)
        self.health.failing.set(len(failures))
        for resource, objects in self.store.view().objects.items():
            self.health.objects.labels(resource.name).set(len(objects))
        if not failures:
            self.health.last_success.set(self.clock())
        self._say("serving", ready=True)

    def _say(self, state: str, *, ready: bool) -> None:
        if self.health.say(state, ready=ready):
            log.log(logging.INFO if ready else logging.WARNING, "state: %s", state)


def told_missing(missing: list[Resource]) -> str:
    """Which kinds are missing, and what brings them."""
    providers = dict.fromkeys(one.provider for one in missing)
    return "; ".join(
        f"{', '.join(one.name for one in missing if one.provider == provider)}: install {provider}"
        for provider in providers
    )
