"""Objects from Kubernetes: what the operator wrote into one ConfigMap, with the Pods that its pools select.

Feeds the datastore with whole sets. A ConfigMap that makes no sense, or is gone, leaves the last good one in place. The
datastore gets nothing before the ConfigMap and all its Pods have been seen once: a picker that knows half would refuse
what others can serve. Rights needed: get, list and watch of that ConfigMap, and of Pods in its pools' namespaces.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from igw_api.objects import Key, Member, Pool
from igw_api.objectset import NotADump, ObjectSet
from igw_api.objectset import load as load_dump
from igw_api.wire import ACTIVE_PORTS_ANNOTATION
from igw_extproc.datastore import Datastore
from igw_extproc.sources.kube_api import KubeApi, Mirror, Pace, connected

log = logging.getLogger(__name__)
_Kept = TypeVar("_Kept")

CONFIG_KEY: Final = "objects.json"
# Seconds within which changes become one: a Deployment that scales is many.
_GATHER: Final = 0.02
# Seconds that a changed set waits for Pods that it selects anew. Longer than any list takes, unless it is forbidden.
_PATIENCE: Final = 5.0


class Scope(NamedTuple):
    """Pods that are watched together. `selector` in the form of a query: "app=llm,tier=gpu"."""

    namespace: str
    selector: str


def scope(pool: Pool) -> Scope | None:
    """The Pods that a pool may select. None: its selector is empty, and selects none."""
    if not pool.selector:
        return None
    return Scope(pool.key.namespace, ",".join(f"{name}={value}" for name, value in sorted(pool.selector.items())))


def member(pod: Any) -> Member | None:
    """A Pod as placement sees it. None: it has no address yet, or its process has ended for good."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    address = status.get("podIP")
    if not address or status.get("phase") in ("Succeeded", "Failed"):
        return None
    conditions = status.get("conditions") or ()
    ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
    active = (metadata.get("annotations") or {}).get(ACTIVE_PORTS_ANNOTATION)
    return Member(
        Key(metadata["namespace"], metadata["name"]),
        address,
        labels=metadata.get("labels") or {},
        annotations={} if active is None else {ACTIVE_PORTS_ANNOTATION: active},
        # Once its deletion has begun it only finishes what it has, whatever it says of itself.
        ready=ready and metadata.get("deletionTimestamp") is None,
    )


async def watch(
    name: Key, kubeconfig: Path | None, datastore: Datastore, rng: random.Random, pace: Pace | None = None
) -> None:
    """Keep `datastore` equal to what the ConfigMap `name` says, until cancelled. Raises NoAccess, at the start only."""
    async with connected(kubeconfig, pace or Pace()) as api, asyncio.TaskGroup() as group:
        await _Source(name, api, datastore, group, rng).run()


class _Source:
    """One ConfigMap and its Pods."""

    def __init__(
        self, name: Key, api: KubeApi, datastore: Datastore, group: asyncio.TaskGroup, rng: random.Random
    ) -> None:
        self._name = name
        self._api = api
        self._datastore = datastore
        self._group = group
        self._rng = rng
        self._awake = asyncio.Event()
        self._text: str | None = None  # of the ConfigMap, as it was when last looked at
        self._objects: ObjectSet | None = None
        self._served: ObjectSet | None = None
        self._pods: dict[Scope, tuple[Mirror[Member], asyncio.Task[None]]] = {}
        self._wait_until = float("inf")

    async def run(self) -> None:
        select = {"fieldSelector": f"metadata.name={self._name.name}"}
        config, _ = self._mirror(self._name.namespace, "configmaps", select, _text)
        while True:
            await self._awake.wait()
            self._awake.clear()
            if config.items is not None:
                await self._take(config.items.get(self._name))
            self._publish()
            await asyncio.sleep(_GATHER)

    def _mirror(
        self, namespace: str, kind: str, select: dict[str, str], read: Callable[[Any], _Kept | None]
    ) -> tuple[Mirror[_Kept], asyncio.Task[None]]:
        path = f"/api/v1/namespaces/{namespace}/{kind}"
        made = Mirror(self._api, path, select, read, self._awake.set, self._rng)
        return made, self._group.create_task(made.run(), name=f"watch {namespace} {kind}")

    async def _take(self, text: str | None) -> None:
        """The ConfigMap's text, if it is new and makes sense."""
        if text == self._text:
            return
        self._text = text
        if text is None:
            log.error("the ConfigMap is gone or empty, the last good objects stay name=%s", self._name)
            return
        try:
            # A few hundred models take tens of milliseconds.
            self._objects = await asyncio.to_thread(load_dump, text.encode())
        except NotADump as error:
            log.error("objects not loaded, the last good ones stay name=%s reason=%s", self._name, error)
            return
        self._follow({found for pool in self._objects.pools.values() if (found := scope(pool)) is not None})

    def _follow(self, scopes: set[Scope]) -> None:
        """Watch exactly these Pods from now on."""
        for gone in self._pods.keys() - scopes:
            _, task = self._pods.pop(gone)
            task.cancel()
        for new in scopes - self._pods.keys():
            self._pods[new] = self._mirror(new.namespace, "pods", {"labelSelector": new.selector}, member)
        loop = asyncio.get_running_loop()
        self._wait_until = loop.time() + _PATIENCE
        loop.call_at(self._wait_until, self._awake.set)

    def _publish(self) -> None:
        """Serve what is known, once it is whole; later changes wait for their Pods for a while only."""
        if self._objects is None:
            return
        lists = [mirror.items for mirror, _ in self._pods.values()]
        late = asyncio.get_running_loop().time() >= self._wait_until
        if None in lists and not (self._datastore.synced and late):
            return
        members: dict[Key, Member] = {}
        for items in lists:
            for key, one in (items or {}).items():
                # Where two watches show one Pod, the one that has heard of its end is ahead.
                if key not in members or not one.ready:
                    members[key] = one
        served = replace(self._objects, members=members)
        if served == self._served:
            return
        self._served = served
        self._datastore.replace(served)
        ready = sum(one.ready for one in members.values())
        log.info("objects loaded pools=%d pods=%d ready=%d", len(self._objects.pools), len(members), ready)


def _text(config: Any) -> str | None:
    return (config.get("data") or {}).get(CONFIG_KEY)
