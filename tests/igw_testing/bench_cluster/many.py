"""1, 50 and 300 pools at once: how long until all say Accepted, what is written, and what one pass takes then; and at
300 the time for a change to one of them, the operator's memory, and its calls when nothing changes.

300 pools are those of three teams, each with a namespace and a Gateway of two ports: fifty on each port, each with a
model of its own. They have no engines, for which nothing here waits.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from igw_testing import operator_manifests as manifests
from igw_testing.bench_cluster import audit
from igw_testing.bench_cluster.api import MODELS, POOLS, Api, Body
from igw_testing.bench_cluster.audit import Idle, Log
from igw_testing.bench_cluster.figures import Spread, tell
from igw_testing.bench_cluster.operators import USER, Operators, cpu_seconds, running
from igw_testing.operator_process import own_objects
from igw_testing.product import Product, Space

TEAMS: Final = 3
PORTS: Final = (8081, 8082)
TRIES: Final = 5
IDLE_S: Final = 60.0
_WITHIN: Final = 240.0
_POOLS: Final = "inferencepools.inference.networking.k8s.io"
_KINDS: Final = f"{_POOLS},inferencemodels"


@dataclass(frozen=True, slots=True)
class Reconciled:
    """So many pools from nothing. Seconds from the start of `kubectl apply`: to its end, until all say Accepted,
    and until nothing more is written; `writes` and events that it took in all, and CPU seconds of the operator and the
    API server meanwhile; `one_pass`: seconds, with no change."""

    pools: int
    kubectl: float
    accepted: float
    written: float
    writes: int
    events: int
    passes: int
    cpu: tuple[float, float]
    one_pass: float

    @property
    def seconds(self) -> float:
        """Until all is done."""
        return max(self.accepted, self.written)

    def __str__(self) -> str:
        return (
            f"{self.pools} pools: all accepted after {self.accepted:.2f} s, the last write after {self.written:.2f} s "
            f"(kubectl {self.kubectl:.2f} s); {self.writes} writes and {self.events} events, "
            f"{self.writes / self.pools:.1f} writes a pool, {self.passes} passes; "
            f"CPU {self.cpu[0]:.1f} s, API server {self.cpu[1]:.1f} s; one pass {self.one_pass:.3f} s"
        )


def prepare(product: Product) -> list[Space]:
    """The teams' namespaces with their Gateways, when all that other parts have left is gone."""
    kubectl = product.cluster.kubectl
    kubectl.until(lambda: not kubectl.list(_POOLS) and not own_objects(kubectl), _WITHIN, "no pools")
    spaces = [product.space() for _ in range(TEAMS)]
    for space in spaces:
        space.apply(manifests.gateway(ports=PORTS))
    return spaces


def pools_text(spaces: list[Space], count: int) -> str:
    """All pools and models in one file, spread over the ports of all teams in turn."""
    documents = []
    for number in range(count):
        place = number % (TEAMS * len(PORTS))
        name, space = f"llm-{number}", spaces[place % TEAMS]
        text = (
            f"{manifests.pool(name, PORTS[place // TEAMS], picker=f'{name}-picker')}---\n{manifests.model(name, name)}"
        )
        for one in yaml.safe_load_all(text):
            one["metadata"]["namespace"] = space.name
            documents.append(yaml.safe_dump(one))
    return "---\n".join(documents)


class Bench:
    """The parts of it on one cluster."""

    def __init__(self, product: Product, api: Api, spaces: list[Space]) -> None:
        self.kubectl = product.cluster.kubectl
        self.api = api
        self.spaces = spaces
        self.operators = Operators(product)
        self.log = Log(product.cluster.server.audit)

    async def reconcile(self, count: int) -> Reconciled:
        """From no pool to so many."""
        text = pools_text(self.spaces, count)
        await asyncio.to_thread(self.operators.idle, _WITHIN)
        self.log.skip()
        passes, cpu = self.operators.metric("igw_operator_reconciles_total"), self._cpu()
        async with (
            self.api.watching(f"{POOLS}/inferencepools") as pools,
            self.api.watching(f"{MODELS}/inferencemodels") as models,
        ):
            began = time.time()
            await asyncio.to_thread(self._apply, text)
            applied = time.time()
            all_say = _all_accepted(count)
            accepted = max([await one.until(all_say, _WITHIN, f"{count} are accepted") for one in (pools, models)])
        await asyncio.to_thread(self.operators.idle, _WITHIN)
        passes = self.operators.metric("igw_operator_reconciles_total") - passes
        used = [now - before for now, before in zip(self._cpu(), cpu, strict=True)]
        written = audit.writes(self.log.calls(), USER)
        events = [one for one in written if one.resource == "events"]
        done = Reconciled(
            pools=count,
            kubectl=applied - began,
            accepted=accepted - began,
            written=max(one.at for one in written) - began,
            writes=len(written) - len(events),
            events=len(events),
            passes=round(passes),
            cpu=(used[0], used[1]),
            one_pass=await asyncio.to_thread(self._one_pass),
        )
        tell(str(done))
        return done

    async def remove(self) -> None:
        """Delete all of them, and wait until nothing that they implied is left."""
        began = time.time()
        for space in self.spaces:
            words = ("--all", "-n", space.name, "--wait=false")
            await asyncio.to_thread(self.kubectl, "delete", _KINDS, *words)
        await asyncio.to_thread(self.kubectl.until, lambda: not own_objects(self.kubectl), _WITHIN, "all is gone")
        tell(f"all gone after {time.time() - began:.1f} s")

    async def change_one(self, count: int) -> Spread:
        """From a pool's new port to that of the Service of its endpoints."""
        took = []
        for turn in range(TRIES):
            number = turn * count // TRIES
            place = self.spaces[number % TEAMS].name
            port = 9000 + turn
            async with self.api.watching(f"/api/v1/namespaces/{place}/services") as services:
                began = time.time()
                path = f"{POOLS}/namespaces/{place}/inferencepools/llm-{number}"
                await self.api.patch(path, {"spec": {"targetPorts": [{"number": port}]}})
                name = f"{place}/igw-llm-{number}"
                done = await services.until(
                    lambda found, name=name, port=port: (
                        found.get(name, {}).get("spec", {}).get("ports", [{}])[0].get("port") == port
                    ),  # type: ignore[misc]
                    _WITHIN,
                    f"{name} has port {port}",
                )
            took.append(done - began)
            await asyncio.to_thread(self.operators.idle, _WITHIN)
        tell(f"a change to one of {count} pools: {Spread(took)}")
        return Spread(took)

    async def idle(self) -> Idle:
        """What the operators call in a minute in which nothing changes."""
        await asyncio.to_thread(self.operators.idle, _WITHIN)
        self.log.skip()
        began = time.time()
        await asyncio.sleep(IDLE_S)
        found = audit.idle(self.log.calls(), USER, time.time() - began)
        tell(f"idle: {found.calls:.0f} calls a minute, {found.peering:.0f} of them the peering's: {dict(found.kinds)}")
        return found

    def memory(self) -> Mapping[str, float]:
        """Of the active operator first, then of the other; MiB."""
        found = self.operators.memory()
        tell("memory: " + ", ".join(f"{name} {size:.0f} MiB" for name, size in found.items()))
        return found

    def _apply(self, text: str) -> None:
        self.kubectl("apply", "--server-side", "-f", "-", stdin=text, within=_WITHIN)

    def _cpu(self) -> tuple[float, float]:
        return cpu_seconds(self.operators.process()), cpu_seconds(running("kube-apiserver"))

    def _one_pass(self) -> float:
        """The mean of some passes over all objects that find nothing to write."""
        names = "igw_operator_reconcile_seconds_sum", "igw_operator_reconcile_seconds_count"
        first = self.spaces[0].name
        before, writes = (
            [self.operators.metric(name) for name in names],
            self.operators.metric("igw_operator_api_writes_total"),
        )
        for turn in range(TRIES):
            self.kubectl(
                "annotate",
                "--overwrite",
                _POOLS,
                "llm-0",
                f"bench={turn}",
                "-n",
                first,
            )
            self.operators.idle(_WITHIN)
        seconds, count = (self.operators.metric(name) - old for name, old in zip(names, before, strict=True))
        if (more := self.operators.metric("igw_operator_api_writes_total") - writes) > 0:
            tell(f"a pass with no change wrote {more:.0f} times")
        return seconds / count


def _all_accepted(count: int) -> Any:
    def accepted(body: Body) -> bool:
        status: Mapping[str, Any] = body.get("status", {})
        entries = status.get("parents") or [status]
        return any(
            one["type"] == "Accepted" and one["status"] == "True"
            for entry in entries
            for one in entry.get("conditions") or ()
        )

    return lambda found: sum(map(accepted, found.values())) >= count
