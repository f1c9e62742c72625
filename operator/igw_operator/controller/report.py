"""Tells users what became of their objects: writes statuses, and posts an event where a condition has turned.

What is said is decided in `render.status`. A status is written into the version that was read, so that what other
controllers wrote meanwhile is not lost. An event that cannot be posted is dropped.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from igw_api.objects import Key
from igw_api.wire import FIELD_MANAGER
from igw_operator.controller.inventory import Inventory
from igw_operator.controller.kube import ApiError, Kube
from igw_operator.controller.resources import DECLARED, EVENT, Resource
from igw_operator.controller.store import Body, Store, View
from igw_operator.render.status.values import Declared, StatusPatch

AT_ONCE: Final = 8
AGAIN: Final = 1.0
# With hundreds of pools the pass after this one may have to lead requests past a picker that is ready by now.
PATIENCE: Final = 2.0
_LONGEST: Final = 1024

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reporter:
    """Writes statuses, for at most `patience` seconds at a time. `again`: some could not be written. `more`: some were
    left to the next pass, which knows better what to say."""

    kube: Kube
    store: Store
    instance: str
    patience: float = PATIENCE
    again: bool = field(default=False, init=False)
    more: bool = field(default=False, init=False)

    async def write(self, patches: tuple[StatusPatch, ...], now: float) -> None:
        """Each on its own. Nothing is raised for single objects. `now`: seconds since the epoch."""
        self.again = self.more = False
        limit = asyncio.Semaphore(AT_ONCE)
        loop = asyncio.get_running_loop()
        until = loop.time() + self.patience

        async def one_of_them(patch: StatusPatch) -> None:
            async with limit:
                if loop.time() < until:
                    await self._write(patch, now)
                else:
                    self.more = True

        async with asyncio.TaskGroup() as group:
            for patch in patches:
                group.create_task(one_of_them(patch))

    async def _write(self, patch: StatusPatch, now: float) -> None:
        resource, key = _resource(patch.declared), patch.declared.key
        live = self.store.get(resource, key)
        if live is None:
            return
        version = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"]}}
        try:
            answer = await self.kube.patch_status(resource, key, {**version, "status": patch.status})
        except ApiError as error:
            self.again = self.again or error.passing
            if error.status not in (404, 409):
                log.warning("status not written: object=%s/%s error=%s", resource.kind, key, error.message)
            return
        self.store.put(resource, answer)
        for condition in turned(patch.declared.status, answer.get("status") or {}):
            await self._post(resource, answer, condition, now)

    async def _post(self, resource: Resource, body: Body, condition: Mapping[str, Any], now: float) -> None:
        event = event_of(resource, body, condition, self.instance, now)
        try:
            await self.kube.create(EVENT, Key(event["metadata"]["namespace"], ""), event)
        except ApiError as error:
            log.info("event not posted: object=%s error=%s", resource.kind, error.message)


def declared(view: View, inventory: Inventory) -> Iterator[Declared]:
    """All objects that users declare, with what is wrong with them."""
    for resource in DECLARED:
        for key, body in view.of(resource).items():
            if "deletionTimestamp" not in body["metadata"]:
                yield Declared(
                    api_version=resource.api_version,
                    kind=resource.kind,
                    key=key,
                    generation=body["metadata"].get("generation", 0),
                    status=body.get("status") or {},
                    mistakes=inventory.mistakes.get((resource, key), ()),
                )


def turned(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The conditions of ours whose status or reason changed, each type once. What is merely pending is no news."""
    known = {name: (one["status"], one["reason"]) for name, one in _conditions(before).items()}
    return [
        one
        for name, one in _conditions(after).items()
        if one["status"] != "Unknown" and known.get(name) != (one["status"], one["reason"])
    ]


def _conditions(status: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """By type and Gateway. The alpha pools' summary only repeats the list."""
    entries = [one for name in ("parents", "parent") for one in status.get(name) or []]
    if not entries:
        entries = [{"conditions": status.get("conditions")}]
    return {
        (one["type"], str(entry.get("parentRef"))): one for entry in entries for one in entry.get("conditions") or []
    }


def event_of(resource: Resource, body: Body, condition: Mapping[str, Any], instance: str, now: float) -> dict[str, Any]:
    """A core Event about the object. `kubectl describe` shows it."""
    meta = body["metadata"]
    time = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    good = condition["status"] == "True"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{meta['name'][:200]}.", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            **{name: meta[name] for name in ("name", "namespace", "uid", "resourceVersion")},
        },
        "type": "Normal" if good else "Warning",
        "reason": condition["reason"],
        "message": f"{condition['type']}: {condition['message']}"[:_LONGEST],
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": instance,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }


def _resource(one: Declared) -> Resource:
    return next(
        resource for resource in DECLARED if (resource.api_version, resource.kind) == (one.api_version, one.kind)
    )
