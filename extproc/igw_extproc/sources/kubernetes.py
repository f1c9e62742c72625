"""Objects from Kubernetes: what the operator wrote into one ConfigMap, with the Pods that its pools select.

Feeds the datastore with whole sets. A ConfigMap that makes no sense, or is gone, leaves the last good one in place. The
datastore gets nothing before the ConfigMap and all its Pods have been seen once: a picker that knows half would refuse
what others can serve. Pods that stay forbidden do not hold up the other pools: after a few seconds theirs is served as
unseen. Rights needed: get, list and watch of that ConfigMap, and of Pods in its pools' namespaces.
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
from igw_api.wire import ACTIVE_PORTS_ANNOTATION, HOSTNAME_LABEL, NODE_ADDRESS_LABEL, POD_LABEL
from igw_extproc.datastore import Datastore
from igw_extproc.sources.kube_api import KubeApi, Mirror, Pace, connected

log = logging.getLogger(__name__)
_Kept = TypeVar("_Kept")

CONFIG_KEY: Final = "objects.json"
# Seconds within which changes become one: a Deployment that scales is many.
_GATHER: Final = 0.02
# Seconds that a set waits for Pods that it selects anew. Longer than any list takes, and than rights that were granted
# together with the picker need to reach every API server (about a second).
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
        labels={**(metadata.get("labels") or {}), **_placed(metadata, pod.get("spec") or {}, status)},
        annotations={} if active is None else {ACTIVE_PORTS_ANNOTATION: active},
        # Once its deletion has begun it only finishes what it has, whatever it says of itself.
        ready=ready and metadata.get("deletionTimestamp") is None,
    )


def _placed(metadata: Any, spec: Any, status: Any) -> dict[str, str]:
    """What else is known of a Pod, as labels: its node, and its own name, by which exporters of GPUs call it."""
    known = {
        HOSTNAME_LABEL: spec.get("nodeName"),
        NODE_ADDRESS_LABEL: status.get("hostIP"),
        POD_LABEL: f"{metadata['namespace']}/{metadata['name']}",
    }
    return {name: value for name, value in known.items() if value}


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
        self._served: tuple[ObjectSet, frozenset[Key]] | None = None
        self._unseen: frozenset[Key] = frozenset()
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
        added = scopes - self._pods.keys()
        for new in added:
            self._pods[new] = self._mirror(new.namespace, "pods", {"labelSelector": new.selector}, member)
        if added:
            loop = asyncio.get_running_loop()
            self._wait_until = loop.time() + _PATIENCE
            # Timers may be early by a clock's tick.
            loop.call_at(self._wait_until + _GATHER, self._awake.set)

    def _publish(self) -> None:
        """Serve what is known, once it is whole or has been waited for."""
        if self._objects is None:
            return
        unlisted = {one for one, (mirror, _) in self._pods.items() if mirror.items is None}
        if unlisted and not self._may_do_without(unlisted):
            return
        members = self._members()
        unseen = frozenset(key for key, pool in self._objects.pools.items() if scope(pool) in unlisted)
        served = replace(self._objects, members=members), unseen
        if served == self._served:
            return
        self._served = served
        self._complain(unseen)
        self._datastore.replace(*served)
        ready = sum(one.ready for one in members.values())
        log.info("objects loaded pools=%d pods=%d ready=%d", len(self._objects.pools), len(members), ready)

    def _may_do_without(self, unlisted: set[Scope]) -> bool:
        """At the start, only where the rights to some Pods are missing; with rights to none, there is nothing to say.

        Later it would be worse to keep everything else as it was.
        """
        if asyncio.get_running_loop().time() < self._wait_until:
            return False
        forbidden = all(self._pods[one][0].forbidden for one in unlisted)
        return self._datastore.synced or (forbidden and len(unlisted) < len(self._pods))

    def _members(self) -> dict[Key, Member]:
        members: dict[Key, Member] = {}
        for mirror, _ in self._pods.values():
            for key, one in (mirror.items or {}).items():
                # Where two watches show one Pod, the one that has heard of its end is ahead.
                if key not in members or not one.ready:
                    members[key] = one
        return members

    def _complain(self, unseen: frozenset[Key]) -> None:
        """Once for each change: it may last for days."""
        if unseen and unseen != self._unseen:
            told = ",".join(map(str, sorted(unseen)))
            log.error("Pods cannot be listed, requests of these pools are not placed until they can pools=%s", told)
        self._unseen = unseen


def _text(config: Any) -> str | None:
    return (config.get("data") or {}).get(CONFIG_KEY)
