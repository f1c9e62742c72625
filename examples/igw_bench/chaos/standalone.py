"""The home on one machine: `igw up` with Envoy and the picker, simulated engines, and one more as the standby.

All are processes of their own, which are asked only by ports and signals.
"""

import asyncio
import json
import shlex
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import aiohttp
import psutil
import yaml

from igw_bench.chaos.faults import Choice, Kind, Planned, Who
from igw_bench.chaos.load import Load
from igw_bench.chaos.stand_in import GARBAGE, SILENCE
from igw_bench.children import Child, stop_all
from igw_bench.scene import LOOPBACK, SIM_READY, START_S, UP_METRICS, UP_READY

MODEL: Final = "llama"
STANDBY: Final = "standby"
ENGINES: Final = ("engine-1", "engine-2", "engine-3", "engine-4")
PICKER, ENVOY, UP = "picker", "Envoy", "igw up"
_PORT: Final = 8080
_PAGE_S: Final = 2.0
# Ten milliseconds a token, and room for all: what waits, waits for a fault.
ENGINE_OPTIONS: Final = (
    *("--preset", "tiny", "--time-scale", "0.2", "--kv-blocks", "20000", "--max-sequences", "200"),
    *("--output-tokens", "fixed:1000000", "--write-every", "4", "--grace", "0"),
)
# What simulated engines are told, by what is said of it.
BROKEN: Final[Mapping[str, Mapping[str, Any]]] = {
    "metrics": {"metrics": "garbage"},
    "500": {"error_share": 1.0, "error_status": 500},
    "502": {"error_share": 1.0, "error_status": 502},
    "503": {"error_share": 1.0, "error_status": 503},
    "resets": {"reset": "before"},
    "reset answers": {"reset": "after"},
    "half answers": {"reset": "cut"},
}


def of_servers() -> tuple[Choice, ...]:
    """What can be done to engines and the standby, in any home."""
    corrupt = (
        Choice("engine", Kind.CORRUPT, how, Who.ENGINE, harmless=how == "metrics", restarts=False) for how in BROKEN
    )
    return (
        *(Choice("engine", kind, who=Who.ENGINE) for kind in (Kind.KILL, Kind.FREEZE, Kind.SLOW)),
        *corrupt,
        *(Choice("all engines", kind, who=Who.ENGINES) for kind in (Kind.KILL, Kind.FREEZE)),
        Choice("all engines", Kind.CORRUPT, "503", Who.ENGINES),
        *(Choice("standby", kind, who=Who.STANDBY) for kind in (Kind.KILL, Kind.FREEZE)),
        Choice("engines and standby", Kind.KILL, who=Who.ALL),
        Choice("engines and standby", Kind.CORRUPT, "500", Who.ALL),
    )


def policy(standby_url: str, pool: Mapping[str, str]) -> dict[str, Any]:
    """A pool's: a queue, a standby and a limit for the first byte; ejections that are over before the next fault."""
    provider = {"url": standby_url, "budget": {"requestsPerMinute": 100_000}}
    spec = {
        "targetRefs": [dict(pool)],
        "queue": {"waitTimeout": "5s"},
        "firstByteTimeout": "3s",
        "standby": [{"name": STANDBY, "provider": provider}],
        "retry": {"statuses": [502, 503, 504]},
        "passiveHealth": {"baseEjectionTime": "1s", "maxEjectionTime": "3s", "slowStart": "1s"},
    }
    kind = {"apiVersion": "inferencegateway.io/v1alpha1", "kind": "InferencePoolPolicy"}
    return {**kind, "metadata": {"name": "chaos"}, "spec": spec}


async def placed(session: aiohttp.ClientSession, page: str) -> float:
    """How many requests the picker with this metrics page has placed. Raises aiohttp.ClientError, TimeoutError."""
    async with session.get(page, timeout=aiohttp.ClientTimeout(total=_PAGE_S)) as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("igw_picker_placed_total{"))


@dataclass(slots=True)
class Standalone:
    """A home; see `homes.Home`. `running` makes one."""

    folder: Path
    session: aiohttp.ClientSession
    url: str = ""
    name: str = "standalone"
    model: str = MODEL
    engines: Sequence[str] = ENGINES
    standby: str = STANDBY
    choices: ClassVar[Sequence[Choice]] = (
        *(Choice(PICKER, kind, restarts=kind is Kind.KILL) for kind in (Kind.KILL, Kind.FREEZE, Kind.SLOW)),
        *(Choice(PICKER, Kind.CORRUPT, how, restarts=True) for how in (GARBAGE, SILENCE)),
        *(Choice(ENVOY, kind, gate=True, restarts=kind is Kind.KILL) for kind in (Kind.KILL, Kind.FREEZE, Kind.SLOW)),
        *(Choice(UP, kind, gate=True, restarts=kind is Kind.KILL) for kind in (Kind.KILL, Kind.FREEZE)),
        *of_servers(),
    )
    _servers: dict[str, Child] = field(default_factory=dict)
    _addresses: dict[str, str] = field(default_factory=dict)
    _up: Child | None = None
    _page: str = ""
    _before: dict[float, float] = field(default_factory=dict)

    async def start(self) -> None:
        """Everything. Raises NotStarted."""
        async with asyncio.TaskGroup() as group:
            for name in (*self.engines, self.standby):
                group.create_task(self._start_server(name))
        manifests = self.folder / "manifests"
        manifests.mkdir()
        await asyncio.to_thread((manifests / "gateway.yaml").write_text, self._manifests())
        await self._start_up()

    async def stop(self) -> None:
        """Everything, the gateway first."""
        await stop_all([*self._servers.values(), *([self._up] if self._up else [])])

    async def processes(self, planned: Planned) -> Sequence[psutil.Process]:
        """See `homes.Home`."""
        if planned.servers:
            return [psutil.Process(self._servers[name].pid) for name in planned.servers]
        return [self._gateway()[planned.choice.part]]

    async def revive(self, planned: Planned) -> None:
        """See `homes.Home`."""
        if planned.choice.part == UP:
            await self._start_up()
        async with asyncio.TaskGroup() as group:
            for name in planned.servers:
                group.create_task(self._start_server(name))

    async def corrupt(self, planned: Planned) -> None:
        """See `homes.Home`."""
        if planned.servers:
            await self._tell(planned.servers, BROKEN[planned.choice.how])
            return
        self._orders.write_text(planned.choice.how)
        self._end_picker()

    async def mend(self, planned: Planned) -> None:
        """See `homes.Home`."""
        if planned.servers:
            await self._tell(planned.servers, {"clear": True})
            return
        self._orders.unlink()
        self._end_picker()

    async def back(self, planned: Planned, since: float, load: Load) -> bool:
        """See `homes.Home`. A picker is back when Envoy asks it, an engine when it has answered."""
        if planned.choice.part == PICKER:
            now = await placed(self.session, self._page)
            return now > self._before.setdefault(since, now)
        engines = [name for name in planned.servers if name != self.standby]
        return load.answered(since, engines)

    def heals(self, planned: Planned) -> bool:
        """See `homes.Home`."""
        return planned.choice.part in (PICKER, ENVOY)

    async def watched(self) -> Mapping[str, psutil.Process]:
        """See `homes.Home`."""
        return self._gateway()

    def _gateway(self) -> dict[str, psutil.Process]:
        """Those of the gateway's three processes that run."""
        assert self._up is not None, "start() comes first"
        found: dict[str, psutil.Process] = {}
        try:
            found[UP] = psutil.Process(self._up.pid)
            for child in found[UP].children():
                found[ENVOY if "--config-path" in child.cmdline() else PICKER] = child
        except psutil.Error:
            pass  # one of them has just ended
        return found

    def _end_picker(self) -> None:
        """Or what is in its place; between two of them there may be none."""
        if (picker := self._gateway().get(PICKER)) is not None:
            picker.kill()

    async def _start_server(self, name: str) -> None:
        """An engine or the standby, at the address that it had, if it had one."""
        port = self._addresses.get(name, ":0").rpartition(":")[2]
        # Every other one looks unanswered until its first token: such a request may be tried elsewhere.
        headers = "first-token" if name in self.engines[::2] else "early"
        words = ["igw_sim", "--name", name, "--model", MODEL, "--port", port, "--headers", headers, *ENGINE_OPTIONS]
        child = self._servers[name] = Child(name, words, self.folder / f"{name}.log")
        await child.start()
        ((line),) = await child.wait_for(SIM_READY, 1, START_S)
        self._addresses[name] = line[3]

    async def _start_up(self) -> None:
        """On the port that it had, if it had one."""
        place = self.url.partition("//")[2].partition("/")[0] or f"{LOOPBACK}:0"
        stand_in = shlex.join((sys.executable, "-m", "igw_bench.chaos.stand_in", str(self._orders)))
        words = ["igw_operator", "up", "-f", str(self.folder / "manifests"), "--state-dir", str(self.folder / "state")]
        words += ["--listen", f"{_PORT}={place}", "--drain-timeout", "1", "--picker-command", stand_in]
        starting = Child(UP, words, self.folder / "up.log")
        await starting.start()
        self._up = starting
        ((ready),) = await self._up.wait_for(UP_READY, 1, START_S)
        ((metrics),) = await self._up.wait_for(UP_METRICS, 1, START_S)
        self.url, self._page = f"http://{ready[2]}/v1/chat/completions", metrics[1]

    @property
    def _orders(self) -> Path:
        """See `stand_in`."""
        return self.folder / "instead-of-the-picker"

    async def _tell(self, names: Sequence[str], broken: Mapping[str, Any]) -> None:
        for name in names:
            async with self.session.post(f"http://{self._addresses[name]}/sim/fail", json=broken) as answer:
                answer.raise_for_status()

    def _manifests(self) -> str:
        listener = {"name": "llm", "protocol": "HTTP", "port": _PORT}
        endpoints = [
            {"address": host, "port": int(port)}
            for host, _, port in (self._addresses[name].rpartition(":") for name in self.engines)
        ]
        attached = {"inference.networking.x-k8s.io/attach-to": json.dumps({"name": "gateway", "port": _PORT})}
        objects: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
            (
                "gateway.networking.k8s.io/v1",
                "Gateway",
                {"name": "gateway"},
                {"gatewayClassName": "inference-gateway", "listeners": [listener]},
            ),
            (
                "inference.networking.k8s.io/v1",
                "InferencePool",
                {"name": MODEL, "annotations": attached},
                {"selector": {"matchLabels": {"app": MODEL}}, "targetPorts": [{"number": 8000}]},
            ),
            (
                "inferencegateway.io/v1alpha1",
                "EndpointList",
                {"name": "engines"},
                {"labels": {"app": MODEL}, "endpoints": endpoints},
            ),
        ]
        made = [
            {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
            for version, kind, metadata, spec in objects
        ]
        return yaml.safe_dump_all([*made, policy(f"http://{self._addresses[self.standby]}/v1", {"name": MODEL})])


@asynccontextmanager
async def running(folder: Path, session: aiohttp.ClientSession) -> AsyncIterator[Standalone]:
    """Everything, for as long as the context lasts. Raises NotStarted."""
    home = Standalone(folder, session)
    try:
        await home.start()
        yield home
    finally:
        await home.stop()
