"""The loop: after every change, once things are quiet, make the cluster what the users' objects say. One pass at once.

Level-triggered: a pass reads all there is and writes only what differs, so that it may be repeated at any time, and a
restart changes nothing. Nothing is written before every kind is known completely, or while another operator leads.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from igw_operator.controller.apply import Applier
from igw_operator.controller.changes import Settled
from igw_operator.controller.decisions import Decision, Rules, decide, observe, pickers, with_failures
from igw_operator.controller.health import Health
from igw_operator.controller.inventory import Reader
from igw_operator.controller.kube import ApiError, Kube
from igw_operator.controller.patience import Patience
from igw_operator.controller.report import AGAIN, Reporter, declared
from igw_operator.controller.resources import WATCHED, Resource
from igw_operator.controller.store import Store, View
from igw_operator.controller.turn import Turn
from igw_operator.render.envoy_gateway.values import Identity
from igw_operator.render.status.patches import statuses
from igw_operator.render.status.values import Facts, StatusPatch

QUIET: Final = 0.075  # a pass starts when nothing changed for this long,
PATIENCE: Final = 0.5  # or when something waits since this long
AUDIT_PAUSE: Final = 0.1
TURN_PAUSE: Final = 1.0  # one that stands by looks as often whether it is its turn,
TURN_AGAIN: Final = 5.0  # and one whose turn it is, whether it still is
KINDS_PAUSE: Final = 5.0
# A listing that started anew and found nothing at all leaves no trace in the watch.
AUDIT_EVERY: Final = 600.0


@dataclass(slots=True)
class Reconciler:
    """Owns the passes. `clock`: seconds since the epoch."""

    kube: Kube
    store: Store
    reader: Reader
    rules: Rules
    turn: Turn
    patience: Patience
    health: Health
    clock: Callable[[], float]
    dirty: asyncio.Event
    settled: Settled = field(default_factory=Settled)
    applier: Applier = field(init=False)
    reporter: Reporter = field(init=False)
    _present: frozenset[Resource] = field(default=frozenset(), init=False)
    _audits: int = field(default=0, init=False)  # in a row that were not complete
    _next_audit: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.applier = Applier(self.kube, self.store, self.settled)
        self.reporter = Reporter(self.kube, self.store, self.turn.leadership.identity)

    async def run(self) -> None:
        """Until cancelled. Whatever fails is tried again."""
        due = 0.0
        while True:
            changed = await self._quiet(min(due - self._now(), TURN_AGAIN))
            try:
                if changed or self._now() >= due or not await self._may_write():
                    due = self._now() + await self._pass()
            except ApiError as error:
                self._say(f"waiting for the API server: {error.message}", ready=False)
                due = self._now() + KINDS_PAUSE

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _quiet(self, pause: float) -> bool:
        """Return `pause` seconds from now, or soon after a change. Returns whether there was one."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(pause):
                await self.dirty.wait()
        except TimeoutError:
            return False
        latest = loop.time() + PATIENCE
        while self.dirty.is_set() and loop.time() < latest:
            self.dirty.clear()
            try:
                async with asyncio.timeout(min(QUIET, max(latest - loop.time(), 0.0))):
                    await self.dirty.wait()
            except TimeoutError:
                break
        self.dirty.clear()
        return True

    async def _pass(self) -> float:
        """One pass. Returns after how many seconds the next is due without a change."""
        started = self._now()
        if not await self._are_kinds_there():
            return KINDS_PAUSE
        if not (self.turn.mine or await self._may_write()):
            return TURN_PAUSE
        if not await self._is_complete():
            return await self._audit_again()
        self._audits = 0
        decision = await asyncio.to_thread(self._decide, self.store.view(), self.applier.foreign(started), started)
        if decision.changes and not await self._may_write():
            return TURN_PAUSE
        # Also when there is nothing to write: what failed before may be of no concern any more.
        await self.applier.carry_out(decision.changes)
        patches = await asyncio.to_thread(
            self._judge, decision, self.store.view(), self.applier.foreign(self._now()), self._now()
        )
        if patches and not await self._may_write():
            return TURN_PAUSE
        await self.reporter.write(patches, self.clock())
        self._account(started)
        return max(self._due(decision) - self._now(), QUIET)

    def _due(self, decision: Decision) -> float:
        """When the next pass must come, in loop time."""
        ends = self.applier.next_try(), self.patience.end(decision.observed.awaited)
        times = [self._next_audit, *(one for one in ends if one is not None)]
        if self.reporter.again or self.reporter.more:
            times.append(self._now() + (0.0 if self.reporter.more else AGAIN))
        return min(times)

    def _decide(self, view: View, taken: frozenset[Identity], now: float) -> Decision:
        inventory = self.reader.read(view)
        return decide(
            inventory, taken, view, self.settled, self.rules, lambda keys: self.patience.waits_for(keys, view, now)
        )

    def _judge(self, decision: Decision, view: View, taken: frozenset[Identity], now: float) -> tuple[StatusPatch, ...]:
        """What to tell users, now that the changes were made."""
        conditions = with_failures(decision, self.applier.stubborn)
        observed = observe(view, taken, self.patience.waits_for(pickers(decision.plan), view, now))
        facts = Facts(decision.inventory.objects, decision.plan, conditions, observed)
        return statuses(declared(view, decision.inventory), facts, self.clock())

    async def _are_kinds_there(self) -> bool:
        """Whether the API server knows the kinds that are needed."""
        if not self._present or self._now() >= self._next_audit:
            await self._look_for_kinds()
            self._next_audit = self._now() + AUDIT_EVERY
        missing = [one for one in WATCHED if one.required and one not in self._present]
        if missing:
            self._next_audit = 0.0
            self._say(f"waiting for kinds that the API server does not know: {told_missing(missing)}", ready=False)
        return not missing

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
        """Pauses grow. The watch may be paused, because another operator is in charge by now."""
        self._audits += 1
        await self._may_write()
        return float(min(AUDIT_PAUSE * self._audits, KINDS_PAUSE))

    async def _may_write(self) -> bool:
        """Whether it is this operator's turn, by a fresh look. When its turn begins, all kinds are audited anew."""
        before = self.turn.mine
        if await self.turn.look() and not before:
            self.store.suspect |= self._present
            self._audits = 0
        return self.turn.mine

    def _account(self, started: float) -> None:
        failures = self.applier.failures
        self.health.reconciles.labels("incomplete" if failures else "ok").inc()
        self.health.seconds.observe(self._now() - started)
        self.health.failing.set(len(failures))
        for resource, objects in self.store.view().objects.items():
            self.health.objects.labels(resource.name).set(len(objects))
        if not failures:
            self.health.last_success.set(self.clock())
        self._say("serving", ready=True)

    def _say(self, state: str, *, ready: bool) -> None:
        self.health.say(state, ready=ready)


def told_missing(missing: list[Resource]) -> str:
    """Which kinds are missing, and what brings them."""
    providers = dict.fromkeys(one.provider for one in missing)
    return "; ".join(
        f"{', '.join(one.name for one in missing if one.provider == provider)}: install {provider}"
        for provider in providers
    )
