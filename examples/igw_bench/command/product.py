"""The whole product on this machine: simulated engines, a process each, behind `igw up` with Envoy and the picker.

Started anew for each run, so that no cache or ledger knows the run before. The engines keep the workload's clock
`speed` times as fast as the real one; Envoy and the picker do not know. Called by `campaign`.
"""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from igw_api.split import Role
from igw_api.wire import ROLE_LABELS
from igw_bench.children import Child, stop_all
from igw_bench.command import clocks, division
from igw_bench.workloads import Change
from igw_sim.presets import Preset

MODEL = "bench"
START_S = 180.0  # cold starts of twenty Python processes on two busy cores
_PORT = 8080
_LOOPBACK = "127.0.0.1"
_SIM_READY = re.compile(r"igw sim listening name=(\S+) engine=\S+ address=(\S+)")
_SIDECAR_READY = re.compile(r"igw sidecar listening address=(\S+)")
_UP_READY = re.compile(r"igw up ready listener=\S+ port=\d+ address=(\S+)")
_UP_METRICS = re.compile(r"metrics (http://\S+/metrics)")
# Tokens that an engine sends at a time when time runs faster than it does: what costs is each write, not its length.
_WRITE_EVERY = 8


@dataclass(frozen=True, slots=True)
class Fleet:
    """What to start. `queue`: requests wait in the picker while all engines are full.

    `roles`: of each engine, where the policy divides requests; a sidecar stands before each that answers.
    """

    engines: Sequence[Preset]
    policy: str
    speed: float = 1.0
    queue: bool = False
    roles: Sequence[Role] = ()


@dataclass(slots=True)
class Product:
    """It runs. `url` is that of the gateway's API; `endpoints` are the engines' names.

    `addresses`: of the engines, by name; `fronts`: where the gateway sends their requests, to a sidecar or themselves.
    """

    directory: Path
    fleet: Fleet
    url: str = ""
    addresses: dict[str, str] = field(default_factory=dict)
    fronts: dict[str, str] = field(default_factory=dict)
    _children: dict[str, Child] = field(default_factory=dict)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """By number."""
        return tuple(f"engine-{at + 1}" for at in range(len(self.fleet.engines)))

    @property
    def answering(self) -> tuple[str, ...]:
        """Those that clients hear of."""
        return division.answering(self.endpoints, self.fleet.roles) if self.fleet.roles else self.endpoints

    async def start(self) -> None:
        """Until every engine may be chosen. Raises NotStarted."""
        for at, name in enumerate(self.endpoints):
            (self.directory / f"{name}.json").write_text(_preset(self.fleet.engines[at]))
            await self._child(name, self._sim_words(name, 0)).start()
        for name in self.endpoints:
            ((line),) = await self._children[name].wait_for(_SIM_READY, 1, START_S)
            self.addresses[name] = line[2]
        self.fronts = dict(self.addresses)
        await self._start_sidecars()
        manifests = self.directory / "manifests.yaml"
        manifests.write_text("---\n".join(json.dumps(one) + "\n" for one in self._manifests()))
        words = ["igw_operator", "up", "-f", str(manifests), "--state-dir", str(self.directory / "gateway")]
        gateway = self._child("gateway", [*words, "--drain-timeout", "1", "--listen", f"{_PORT}={_LOOPBACK}:0"])
        await gateway.start()
        ((ready),) = await gateway.wait_for(_UP_READY, 1, START_S)
        self.url = f"http://{ready[1]}/v1"
        ((metrics),) = await gateway.wait_for(_UP_METRICS, 1, START_S)
        await gateway.wait_until(lambda: self._available(metrics[1]), START_S, "has engines that it cannot use")

    async def _start_sidecars(self) -> None:
        roles = dict(zip(self.endpoints, self.fleet.roles, strict=False))
        sidecars = {name: f"sidecar-{name}" for name, role in roles.items() if role is not Role.PREFILL}
        for name, sidecar in sidecars.items():
            words = ["igw_sidecar", "--engine", f"http://{self.addresses[name]}", "--host", _LOOPBACK, "--listen", "0"]
            await self._child(sidecar, [*words, "--drain-seconds", "0"]).start()
        for name, sidecar in sidecars.items():
            ((line),) = await self._children[sidecar].wait_for(_SIDECAR_READY, 1, START_S)
            self.fronts[name] = line[1]

    async def change(self, change: Change) -> None:
        """Slow an engine down, end it, or bring it back, as offline. What cannot be told to it is left."""
        name = self.endpoints[change.endpoint]
        child = self._children[name]
        if change.slowness is None:
            await self._tell(name, {"die": True})
            return
        if child.ended:
            child = self._child(name, self._sim_words(name, int(self.addresses[name].rpartition(":")[2])))
            await child.start()
            await child.wait_for(_SIM_READY, 1, START_S)
        await self._tell(name, {"slow": change.slowness})

    async def engines_ttft(self) -> tuple[int, float]:
        """How many first tokens the engines have given, and the seconds from their queues to these, in real time."""
        count, seconds = 0, 0.0
        for address in self.addresses.values():
            page = await _page(f"http://{address}/sim/state")
            for one in json.loads(page)["statistics"] if page else ():
                found = one["histograms"]["ttft_s"]
                count += found["cumulative"][-1]
                seconds += found["sum"]
        return count, seconds

    async def stop(self) -> None:
        """Everything that was started."""
        await stop_all(list(self._children.values()))

    def _child(self, name: str, words: Sequence[str]) -> Child:
        child = self._children[name] = Child(name, words, self.directory / f"{name}.log")
        return child

    def _sim_words(self, name: str, port: int) -> list[str]:
        preset = str(self.directory / f"{name}.json")
        words = ["igw_sim", "--name", name, "--model", MODEL, "--port", str(port), "--preset", preset, "--grace", "0"]
        # Nobody but the engine knows how long an answer will be: it says one token, or the `min_tokens` of a request.
        words += ["--time-scale", f"{self.fleet.speed:g}", "--output-tokens", "fixed:1"]
        return [*words, "--write-every", str(_WRITE_EVERY)] if self.fleet.speed > 1.0 else words

    def _manifests(self) -> list[dict[str, Any]]:
        listener = {"name": "llm", "protocol": "HTTP", "port": _PORT}
        endpoints = [self._entry(at, name) for at, name in enumerate(self.endpoints)]
        attach = json.dumps({"name": "bench", "port": _PORT})
        policy: dict[str, Any] = {"targetRefs": [{"name": "bench"}], "scheduling": {"policy": self.fleet.policy}}
        if self.fleet.roles:
            dwell = clocks.split(self.fleet.policy, self.fleet.speed).dwell
            policy["scheduling"]["prefillDecode"] = {"roleDwell": clocks.milliseconds(dwell)}
        queue = clocks.queue(self.fleet.speed)
        waits = {"waitTimeout": queue.wait_timeout, "retryPeriod": queue.retry_period}
        told = {name: clocks.milliseconds(seconds) for name, seconds in waits.items()}
        policy["queue"] = told if self.fleet.queue else {"maxSize": 0}
        return [
            _manifest(
                "gateway.networking.k8s.io/v1",
                "Gateway",
                {"gatewayClassName": "inference-gateway", "listeners": [listener]},
            ),
            _manifest(
                "inference.networking.k8s.io/v1",
                "InferencePool",
                {"selector": {"matchLabels": {"app": "bench"}}, "targetPorts": [{"number": 8000}]},
                {"inference.networking.x-k8s.io/attach-to": attach},
            ),
            _manifest(
                "inferencegateway.io/v1alpha1", "EndpointList", {"labels": {"app": "bench"}, "endpoints": endpoints}
            ),
            _manifest("inferencegateway.io/v1alpha1", "InferencePoolPolicy", policy),
        ]

    def _entry(self, at: int, name: str) -> dict[str, Any]:
        host, _, port = self.fronts[name].rpartition(":")
        labels = {"labels": {ROLE_LABELS[0]: self.fleet.roles[at].value}} if self.fleet.roles else {}
        return {"name": name, "address": host, "port": int(port), **labels}

    async def _tell(self, name: str, fault: dict[str, Any]) -> None:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.post(f"http://{self.addresses[name]}/sim/fail", json=fault) as response,
        ):
            response.raise_for_status()

    async def _available(self, metrics: str) -> bool:
        page = await _page(metrics)
        lines = (f'igw_picker_endpoint_available{{endpoint="{one}"}} 1.0' for one in self.fronts.values())
        return all(line in page for line in lines)


@asynccontextmanager
async def running(directory: Path, fleet: Fleet) -> AsyncIterator[Product]:
    """The product while the block runs. Raises NotStarted."""
    product = Product(directory, fleet)
    try:
        await product.start()
        yield product
    finally:
        await product.stop()


def _manifest(version: str, kind: str, spec: dict[str, Any], notes: dict[str, str] | None = None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "bench", **({"annotations": notes} if notes else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _preset(preset: Preset) -> str:
    return json.dumps(asdict(preset))


async def _page(url: str) -> str:
    """The page, or nothing while nobody serves it."""
    timeout = aiohttp.ClientTimeout(total=5)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
            return await response.text()
    except (aiohttp.ClientError, TimeoutError):
        return ""
