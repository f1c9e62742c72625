"""From manifests to the files of Envoy and the picker, and what to say about it.

Used by `standalone`. It decides and writes; it starts nothing and prints nothing. Whatever is wrong with an update,
the files stay as they were or get all of the update that is right.
"""

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from igw_api.manifests import collect
from igw_api.objects import AnyObject, AttachTo, Key
from igw_api.objectset import ObjectSet, dump
from igw_operator import envoy, state
from igw_operator.machine import memory, open_files
from igw_operator.plan.build import build_plan
from igw_operator.plan.certificates import secrets_of
from igw_operator.plan.model import Condition, GatewayPlan, ProviderCluster
from igw_operator.plan.standbys import only_led_to
from igw_operator.ports import Bind, Binds, Places
from igw_operator.render.bootstrap import BOOTSTRAP_FILE, bootstrap, everything, resource_files
from igw_operator.render.files import MOST_CONNECTIONS, Address, Surroundings
from igw_operator.render.providers import credential_files
from igw_operator.render.routes import leads
from igw_operator.render.tls import pem_files
from igw_operator.settings import UpSettings
from igw_operator.sources import Manifests

OBJECTS_FILE = "objects.json"
CHECK_FILE = "check.json"


@dataclass(frozen=True, slots=True)
class Intent:
    """What the manifests ask for, and what is wrong with it.

    `problems` are mistakes to correct; `warnings` may pass by themselves, as when an endpoint comes later.
    """

    objects: ObjectSet
    plan: GatewayPlan
    binds: Mapping[Bind, Address]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(slots=True)
class Configuration:
    """The current intent and its files."""

    settings: UpSettings
    manifests: Manifests
    places: Places
    binary: Path
    binds: Binds = field(init=False)
    intent: Intent | None = field(default=None, init=False)
    _connections: int = field(init=False)
    _heap: int = field(init=False)
    _reads: int = field(default=0, init=False)
    _wishes: dict[tuple[Key, AttachTo | None], int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        own = frozenset((self.places.admin, self.places.picker, self.places.metrics))
        self.binds = Binds(self.settings.listen_host, self.settings.listens, own)
        # A request takes two sockets, and half of the memory is for others.
        self._connections, self._heap = min(MOST_CONNECTIONS, open_files() // 2), memory() // 2

    @property
    def current(self) -> Intent:
        """What was written last."""
        assert self.intent is not None, "write() comes first"
        return self.intent

    @property
    def directory(self) -> Path:
        """The state directory, absolute."""
        return self.settings.state_dir

    def read(self) -> Intent:
        """What the manifests say now. What only a mistake has taken away stays as it was."""
        objects, found = self._objects()
        plan, conditions = self._plan(objects)
        mistakes = [str(one) for one in conditions if _is_mistake(one)]
        objects = self._without_mistakes(objects, conditions)
        plan, conditions = self._plan(objects)
        binds, refused = self.binds.assign(plan.listeners)
        # With a mistake in a file, what is missing may be in that file.
        found += [*mistakes, *refused.values(), *(() if found else _nothing_exposed(plan))]
        return Intent(
            objects=objects,
            plan=replace(plan, listeners=tuple(one for one in plan.listeners if (one.gateway, one.port) in binds)),
            binds=binds,
            problems=tuple(found),
            warnings=(*_unused(self.settings.listens, plan), *_doubts(conditions)),
        )

    def _objects(self) -> tuple[ObjectSet, list[str]]:
        """All objects, and the problems so far."""
        objects, problems = collect(self.manifests.read())
        found = [str(problem) for problem in problems]
        if self.intent and not objects.gateways:
            # Most likely the files are being replaced. Who wants the ports closed stops us.
            found.append("there is no Gateway in the manifests any more; everything stays as it was")
            return self.intent.objects, found
        return self._aged(objects.merge(ObjectSet.of(self.settings.members))), found

    def _plan(self, objects: ObjectSet) -> tuple[GatewayPlan, tuple[Condition, ...]]:
        return build_plan(objects, first_byte=self.settings.first_byte)

    def _aged(self, objects: ObjectSet) -> ObjectSet:
        """The oldest pool has a port; files tell no age, so it is since when we know the pool and its wish."""
        before, self._wishes = self._wishes, {}
        self._reads += 1
        for key, pool in objects.pools.items():
            self._wishes[key, pool.attach_to] = before.get((key, pool.attach_to), self._reads)
        pools = {
            key: replace(pool, created=pool.created or float(self._wishes[key, pool.attach_to]))
            for key, pool in objects.pools.items()
        }
        return replace(objects, pools=pools)

    def _without_mistakes(self, objects: ObjectSet, conditions: Iterable[Condition]) -> ObjectSet:
        """With the running version of each object whose new version is refused."""
        running = self.intent.objects if self.intent else ObjectSet()
        refused = {(one.kind, one.key) for one in conditions if _is_mistake(one)}
        kept: list[AnyObject] = [
            *(pool for pool in running.pools.values() if ("InferencePool", pool.key) in refused),
            *(route for route in running.routes.values() if ("HTTPRoute", route.key) in refused),
        ]
        for gateway in running.gateways.values():
            if ("Gateway", gateway.key) in refused:
                kept += [gateway, *(running.secrets[key] for key in secrets_of(gateway) if key in running.secrets)]
        return objects.merge(ObjectSet.of(kept)) if kept else objects

    async def check(self, intent: Intent) -> None:
        """Ask Envoy about it. Raises ConfigRefused."""
        path = self.directory / CHECK_FILE
        # Envoy takes no file for granted that is not there.
        state.replace_all(self.directory, _private_files(intent), private=True)
        state.replace(path, everything(intent.plan, self._surroundings(intent)).encode())
        await envoy.validate(self.binary, path)

    def write(self, intent: Intent) -> bool:
        """Make it so. Clusters that are no longer led to stay until `settle`. Returns whether any file changed."""
        before = self.intent.plan.clusters if self.intent else ()
        names = {cluster.name for cluster in intent.plan.clusters}
        leaving = tuple(cluster for cluster in before if cluster.name not in names)
        around = self._surroundings(intent)
        policies = only_led_to(intent.objects, intent.plan.standbys)
        told = replace(intent.objects, leads=leads(intent.plan), policies=policies)
        changed = state.replace(self.directory / OBJECTS_FILE, dump(told))
        plan = replace(
            intent.plan, clusters=(*intent.plan.clusters, *leaving), providers=_with_former(self.intent, intent)
        )
        state.replace(self.directory / BOOTSTRAP_FILE, bootstrap(around).encode())
        changed = bool(state.replace_all(self.directory, resource_files(plan, around))) or changed
        self.intent, self.binds.given = intent, dict(intent.binds)
        return changed

    def settle(self) -> None:
        """Remove what no route leads to any more. Called some time after `write`, when Envoy has the new routes."""
        if self.intent is not None:
            files = resource_files(self.intent.plan, self._surroundings(self.intent))
            state.replace_all(self.directory, files)
            state.remove_others(self.directory, (*files, *_private_files(self.intent)))

    def _surroundings(self, intent: Intent) -> Surroundings:
        return Surroundings(
            directory=str(self.directory),
            admin=self.places.admin,
            picker=self.places.picker,
            binds=intent.binds,
            access_log=self.settings.access_log,
            authorities=authorities(),
            picker_tls=str(self.settings.picker_tls) if self.settings.picker_tls else None,
            connections=self._connections,
            heap=self._heap,
        )


def _private_files(intent: Intent) -> dict[str, str]:
    """What Envoy alone may read: keys of providers, keys of certificates."""
    secrets = intent.objects.secrets
    return {**credential_files(intent.plan, secrets), **pem_files(intent.plan, secrets)}


def _with_former(before: Intent | None, now: Intent) -> tuple[ProviderCluster, ...]:
    """The providers, with those that routes of Envoy's may still lead to."""
    names = {one.name for one in now.plan.providers}
    former = before.plan.providers if before is not None else ()
    return (*now.plan.providers, *(one for one in former if one.name not in names))


def authorities() -> str:
    """The file with the certificates that this machine trusts."""
    known = ssl.get_default_verify_paths()
    return known.cafile or known.openssl_cafile


def _is_mistake(condition: Condition) -> bool:
    """What must be corrected before it is taken over. Of objects that belong to pools, the others serve on."""
    kinds = ("InferencePool", "HTTPRoute", "Gateway")
    return condition.kind in kinds and condition.type == "Accepted" and not condition.status


def _doubts(conditions: Iterable[Condition]) -> list[str]:
    return [str(one) for one in conditions if not one.status and not _is_mistake(one)]


def _unused(listens: Mapping[int, Address], plan: GatewayPlan) -> list[str]:
    ports = {listener.port for listener in plan.listeners}
    known = ", ".join(map(str, sorted(ports)))
    return [
        f"--listen {port}=...: no Gateway has that port (they have {known})" for port in listens if port not in ports
    ]


def _nothing_exposed(plan: GatewayPlan) -> tuple[str, ...]:
    if not plan.listeners:
        return ("there is no Gateway in the manifests, so no port would be opened; add one with a listener",)
    if not any(listener.hosts for listener in plan.listeners):
        return ("no route leads anywhere: annotate an InferencePool with attach-to, or add an HTTPRoute",)
    return ()
