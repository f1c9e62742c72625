"""The home on Kubernetes: the chart on the test cluster, engines and a standby as Pods, the real Envoy Gateway.

Processes are killed and held on the node, past Kubernetes, which starts what has ended. All calls of kubectl block, so
each is made in a thread.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import aiohttp
import psutil

from igw_bench.chaos.faults import Choice, Kind, Planned
from igw_bench.chaos.load import Load
from igw_bench.chaos.standalone import BROKEN, ENGINE_OPTIONS, ENVOY, MODEL, PICKER, STANDBY, of_servers, placed, policy
from igw_cluster import apiserver, gateway
from igw_testing import operator_manifests as manifests
from igw_testing.bench_cluster.operators import process_of, running
from igw_testing.product import OPERATOR, SYSTEM, Product, Space, engine_pods, service

ENGINES: Final = 4
PORT: Final = 8081
OPERATORS, ENVOY_GATEWAY, API_SERVER = "operator", "Envoy Gateway", "API server"
# What the chart must have switched on for a standby that is a provider, and for the picker to hear of failed tries.
VALUES: Final[Mapping[str, Any]] = {"gateway": {"providers": True, "patchPolicies": True}}
_ENVOY_GATEWAY: Final = "envoy-gateway"
_KINDS: Final = (Kind.KILL, Kind.FREEZE, Kind.SLOW)
aside = asyncio.to_thread


@dataclass(slots=True)
class OnCluster:
    """A home; see `homes.Home`. `prepare` makes one."""

    product: Product
    space: Space
    session: aiohttp.ClientSession
    url: str
    engines: Sequence[str]
    standby: str
    pods: Mapping[str, str]  # of each part and server that is a Pod
    pages: Mapping[str, str]  # URLs: of engines and the standby; of operators and the picker
    name: str = "cluster"
    model: str = MODEL
    choices: ClassVar[Sequence[Choice]] = (
        *(Choice(PICKER, kind, restarts=kind is Kind.KILL) for kind in _KINDS),
        *(Choice(ENVOY, kind, gate=True, restarts=kind is Kind.KILL) for kind in _KINDS),
        *(Choice(OPERATORS, kind, restarts=kind is Kind.KILL) for kind in _KINDS),
        *(Choice(ENVOY_GATEWAY, kind) for kind in _KINDS),
        *(Choice(API_SERVER, kind) for kind in _KINDS),
        *of_servers(),
    )
    _api_server: Sequence[str] = ()
    _ends: int = 0  # of Envoy Gateway
    _before: dict[float, float] = field(default_factory=dict)
    _known: dict[str, psutil.Process] = field(default_factory=dict)

    async def processes(self, planned: Planned) -> Sequence[psutil.Process]:
        """See `homes.Home`."""
        if planned.choice.part == API_SERVER:
            found = await aside(running, "kube-apiserver")
            self._api_server = found.cmdline()
            # `nsenter` before it stops with it, but does not go on with it.
            return [found, *(one for one in found.parents()[:1] if one.name() == "nsenter")]
        self._ends += planned.choice.part == ENVOY_GATEWAY and planned.choice.kind is Kind.KILL
        parts = planned.servers or self._parts(planned.choice.part)
        return [await aside(self._process, part) for part in parts]

    async def revive(self, planned: Planned) -> None:
        """See `homes.Home`. Nobody watches over the API server here; elsewhere a kubelet does."""
        cluster = self.space.cluster
        log = cluster.folder / "logs" / "kube-apiserver.log"
        await aside(cluster.machine.start, "kube-apiserver", self._api_server, log)

    async def corrupt(self, planned: Planned) -> None:
        """See `homes.Home`."""
        await self._tell(planned.servers, BROKEN[planned.choice.how])

    async def mend(self, planned: Planned) -> None:
        """See `homes.Home`."""
        await self._tell(planned.servers, {"clear": True})

    async def back(self, planned: Planned, since: float, load: Load) -> bool:
        """See `homes.Home`. An operator is back when one is active, Envoy Gateway when its Pod is ready."""
        part = planned.choice.part
        if part == PICKER:
            now = await placed(self.session, self.pages[PICKER])
            return now > self._before.setdefault(since, now)
        if part == OPERATORS:
            return any([await self._active(self.pages[name]) for name in self._parts(OPERATORS)])
        if part == ENVOY_GATEWAY:
            found = await aside(self.product.cluster.kubectl.get, "pod", self.pods[ENVOY_GATEWAY], gateway.NAMESPACE)
            (container,) = found["status"]["containerStatuses"]
            return bool(container["ready"]) and container["restartCount"] >= self._ends
        if part == API_SERVER:
            server = self.product.cluster.server
            return await aside(apiserver.is_ready, server.url, server.credentials)
        return load.answered(since, [name for name in planned.servers if name != self.standby])

    def heals(self, planned: Planned) -> bool:
        """See `homes.Home`."""
        return planned.choice.part != API_SERVER

    async def watched(self) -> Mapping[str, psutil.Process]:
        """See `homes.Home`."""
        found = {}
        for part in (PICKER, ENVOY, *self._parts(OPERATORS)):
            if part not in self._known or not self._known[part].is_running():
                try:
                    self._known[part] = await aside(self._process, part)
                except LookupError:
                    continue  # between its end and its start
            found[part] = self._known[part]
        return found

    def _parts(self, part: str) -> Sequence[str]:
        """Operators have numbers; of all others there is one."""
        return [name for name in self.pods if name == part or (part == OPERATORS and name.startswith(f"{part} "))]

    def _process(self, part: str) -> psutil.Process:
        words = {PICKER: "picker", ENVOY: "--service-node", ENVOY_GATEWAY: "server"}
        word = "operator" if part.startswith(f"{OPERATORS} ") else words.get(part, "sim")
        return process_of(self.pods[part], word)

    async def _active(self, url: str) -> bool:
        async with self.session.get(url) as page:
            return "igw_operator_active 1" in await page.text()

    async def _tell(self, names: Sequence[str], broken: Mapping[str, Any]) -> None:
        for name in names:
            async with self.session.post(f"{self.pages[name]}/sim/fail", json=broken) as answer:
                answer.raise_for_status()


def prepare(product: Product, session: aiohttp.ClientSession) -> OnCluster:
    """A Gateway, a pool with engines, and a standby, all ready and in use. Blocks for some twenty seconds."""
    space = product.space()
    space.apply(manifests.gateway(ports=(PORT,)))
    space.apply(engine_pods(MODEL, ENGINES, *ENGINE_OPTIONS, model=MODEL))
    space.apply(engine_pods(STANDBY, 1, *ENGINE_OPTIONS, model=MODEL), service(STANDBY))
    space.apply(manifests.pool(MODEL, PORT, picker=f"{MODEL}-picker"), manifests.model(MODEL, MODEL))
    space.apply(json.dumps(policy(f"http://{STANDBY}.{space.name}.svc.cluster.local:8000/v1", {"name": MODEL})))
    space.ready(MODEL)
    space.ready(STANDBY)
    picker = space.picker(manifests.GATEWAY, f"p{PORT}")
    picker.until_ready()
    picker.until_sees(ENGINES)
    url = space.chats(manifests.GATEWAY, PORT)
    picker.until_asked(url)
    space.until(lambda: space.conditions("inferencepoolpolicy", "chaos")["ResolvedRefs"][0] == "True", "the standby")
    servers = {pod["metadata"]["name"]: pod for name in (MODEL, STANDBY) for pod in space.pods(f"app={name}")}
    (standby,) = [pod["metadata"]["name"] for pod in space.pods(f"app={STANDBY}")]
    operators = _pods(product, SYSTEM, OPERATOR)
    (placing,) = picker.pods()
    parts = {
        **{name: name for name in servers},
        PICKER: placing["metadata"]["name"],
        ENVOY: _name(product, gateway.NAMESPACE, f"envoy-{space.name}"),
        ENVOY_GATEWAY: _name(product, gateway.NAMESPACE, _ENVOY_GATEWAY),
        **{f"{OPERATORS} {turn}": pod["metadata"]["name"] for turn, pod in enumerate(operators, 1)},
    }
    pages = {
        **{name: space.direct(pod) for name, pod in servers.items()},
        PICKER: f"{space.direct(placing, 9090)}/metrics",
        **{f"{OPERATORS} {turn}": f"{space.direct(pod, 8080)}/metrics" for turn, pod in enumerate(operators, 1)},
    }
    engines = [name for name in servers if name != standby]
    return OnCluster(product, space, session, url, engines, standby, parts, pages)


def _pods(product: Product, namespace: str, prefix: str) -> list[dict[str, Any]]:
    found = product.cluster.kubectl.list("pods", namespace)
    return [pod for pod in found if pod["metadata"]["name"].startswith(prefix)]


def _name(product: Product, namespace: str, prefix: str) -> str:
    (found,) = _pods(product, namespace, prefix)
    return str(found["metadata"]["name"])
