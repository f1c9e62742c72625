"""Makes changes happen: step by step, several at once within a step, each object on its own.

What fails is told and tried again later, longer and longer; it holds back only what builds on it. Called by
`reconcile`, one pass at a time.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from igw_api import wire
from igw_operator.controller.changes import Application, Changes, Deletion, Settled
from igw_operator.controller.kube import ApiError, Kube
from igw_operator.controller.resources import Whose
from igw_operator.controller.store import Store, is_ours
from igw_operator.render.envoy_gateway.values import Identity

AT_ONCE: Final = 8
FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 30.0
# Somebody else's object that has our name may go without a word: its kind is watched only where it is ours.
FOREIGN_PAUSE: Final = 10.0

Group = tuple[str, ...]
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Trouble:
    message: str
    tries: int
    again: float  # loop time


@dataclass(slots=True)
class Applier:
    """Writes to the API server, and remembers what did not work."""

    kube: Kube
    store: Store
    settled: Settled
    troubles: dict[Identity, _Trouble] = field(default_factory=dict)
    _foreign: dict[Identity, float] = field(default_factory=dict)  # when to look again, loop time

    @property
    def failures(self) -> Mapping[Identity, str]:
        """What could not be written, and why."""
        return {identity: trouble.message for identity, trouble in self.troubles.items()}

    @property
    def stubborn(self) -> Mapping[Identity, str]:
        """Those of them that failed more than once in a row: worth telling users."""
        return {identity: trouble.message for identity, trouble in self.troubles.items() if trouble.tries > 1}

    def foreign(self, now: float) -> frozenset[Identity]:
        """Somebody else's objects that have our names. After a while they are looked at again."""
        self._foreign = {identity: again for identity, again in self._foreign.items() if again > now}
        return frozenset(self._foreign)

    def next_try(self) -> float | None:
        """When something is due again, in loop time."""
        return min((*(one.again for one in self.troubles.values()), *self._foreign.values()), default=None)

    async def carry_out(self, changes: Changes) -> None:
        """Apply, then delete. Nothing is raised for single objects."""
        identities = {one.identity for one in changes.applications} | {one.identity for one in changes.deletions}
        self.troubles = {identity: one for identity, one in self.troubles.items() if identity in identities}
        broken: set[Group] = set()
        for _, step in groupby(changes.applications, key=lambda one: one.step):
            await self._side_by_side(((one, self._apply) for one in step), broken)
        broken.clear()
        for _, leaving in groupby(changes.deletions, key=lambda one: one.step):
            await self._side_by_side(((one, self._delete) for one in leaving), broken)

    async def _side_by_side(
        self, step: Iterable[tuple[Application | Deletion, Callable[..., Awaitable[None]]]], broken: set[Group]
    ) -> None:
        limit = asyncio.Semaphore(AT_ONCE)
        failed: set[Group] = set()

        async def one_of_them(one: Application | Deletion, write: Callable[..., Awaitable[None]]) -> None:
            async with limit:
                if not await self._tried(one, write):
                    failed.add(self._groups(one)[0])

        async with asyncio.TaskGroup() as group:
            for one, write in step:
                if broken.isdisjoint(self._groups(one)):
                    group.create_task(one_of_them(one, write))
        broken |= failed

    async def _tried(self, one: Application | Deletion, write: Callable[..., Awaitable[None]]) -> bool:
        now = asyncio.get_running_loop().time()
        trouble = self.troubles.get(one.identity)
        if trouble is not None and trouble.again > now:
            return False
        try:
            await write(one)
        except ApiError as error:
            tries = trouble.tries + 1 if trouble else 1
            pause = min(FIRST_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE)
            self.troubles[one.identity] = _Trouble(error.message, tries, now + pause)
            kind, key = one.identity
            log.warning("write failed: object=%s/%s tries=%d error=%s", kind, key, tries, error.message)
            return False
        self.troubles.pop(one.identity, None)
        return one.identity not in self._foreign

    async def _apply(self, one: Application) -> None:
        kind, key = one.identity
        known = one.known
        if not known and one.resource.whose is Whose.OURS:
            # The watch shows only what is ours already.
            live = await self.kube.get(one.resource, key)
            if live is not None and not is_ours(live):
                self._foreign[one.identity] = asyncio.get_running_loop().time() + FOREIGN_PAUSE
                log.warning("name is taken: object=%s/%s", kind, key)
                self.store.changed()  # a pass that knows it may say so, and do without it
                return
            known = live is not None
        # Without force nothing is taken from whoever was faster to create it.
        answer = await self.kube.apply(one.resource, one.manifest, force=known)
        self.settled.remember(one.identity, one.manifest, answer)
        self.store.put(one.resource, answer)

    async def _delete(self, one: Deletion) -> None:
        answer = await self.kube.delete(one.resource, one.key, one.uid)
        if answer is None:
            self.store.drop(one.resource, one.key, one.uid)
        else:
            self.store.put(one.resource, answer)

    def _groups(self, one: Application | Deletion) -> tuple[Group, ...]:
        """What the object belongs to, the narrowest first. A failure breaks that; a break anywhere holds it back."""
        live = one.manifest if isinstance(one, Application) else self.store.get(one.resource, one.key)
        labels: Mapping[str, str] = ((live or {}).get("metadata", {}).get("labels")) or {}
        names = (
            (wire.POOL_NAMESPACE_LABEL, wire.POOL_LABEL),
            (wire.GATEWAY_NAMESPACE_LABEL, wire.GATEWAY_LABEL, wire.LISTENER_LABEL),
        )
        found = tuple(tuple(labels[name] for name in part) for part in names if all(name in labels for name in part))
        return found or (one.identity[0:1],)
