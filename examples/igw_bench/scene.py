"""What the demo runs: simulated engines, and `igw up` over a copy of an example folder. Called by `demo` alone.

The copy differs from the folder in two files: the endpoints, which listen where the system let them, and the placement
policy, which the demo changes while everything runs.
"""

import asyncio
import json
import os
import re
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from igw_bench.children import Child, NotStarted, stop_all

START_S = 45.0  # a cold start of five Python processes on two busy cores
CHANGE_S = 15.0
GATEWAY_TRIES = 3
LOOPBACK = "127.0.0.1"
PLAIN_PORT, LLM_PORT = 8080, 8081  # of the example's Gateway
SIM_READY = re.compile(r"igw sim listening name=(\S+) engine=(\S+) address=(\S+)")
UP_READY = re.compile(r"igw up ready listener=\S+ port=(\d+) address=(\S+)")
UP_METRICS = re.compile(r"metrics (http://\S+/metrics)")
_TAKEN = "Address already in use"
_LOADED = re.compile(r"objects loaded")
_ENDPOINTS, _POLICY = "endpoints.yaml", "policy.yaml"


class BadScene(Exception):
    """Options or an example folder that cannot be."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A simulated engine. `dialect` as `igw sim --engine` has it."""

    name: str
    dialect: str
    label: str
    faults: tuple[str, ...] = ()


ENGINES = (
    Engine("vllm-1", "vllm", "vLLM"),
    Engine("vllm-2", "vllm", "vLLM"),
    Engine("sglang", "sglang", "SGLang"),
    Engine("bladellm", "bladellm", "BladeLLM"),
)


@dataclass(frozen=True, slots=True)
class Simulation:
    """How the engines behave: a preset of `igw sim`, and how many times faster they are."""

    preset: str = "a10-llama2-7b"
    time_scale: float = 2.0


@dataclass(slots=True)
class Scene:
    """Everything that runs. `folder` is the copy of the manifests, `logs` has a file for each process."""

    directory: Path
    source: Path
    engines: Sequence[Engine]
    addresses: dict[str, str] = field(default_factory=dict, init=False)
    ports: dict[int, int] = field(default_factory=dict, init=False)
    metrics: str = field(default="", init=False)
    _children: list[Child] = field(default_factory=list, init=False)

    @property
    def folder(self) -> Path:
        """The manifests that the gateway follows."""
        return self.directory / "manifests"

    @property
    def logs(self) -> Path:
        """What the processes print. The gateway's own children have theirs in `state`."""
        return self.directory / "logs"

    @property
    def state(self) -> Path:
        """Where `igw up` keeps the files of Envoy and the picker, and their logs."""
        return self.directory / "gateway"

    def prepare(self) -> None:
        """Copy the manifests. Raises BadScene."""
        missing = [name for name in (_ENDPOINTS, _POLICY) if not (self.source / name).is_file()]
        if missing:
            raise BadScene(f"{self.source} has no {' and no '.join(missing)}")
        self.logs.mkdir()
        self.folder.mkdir()
        for path in self.source.glob("*.yaml"):
            shutil.copy(path, self.folder)
        if not {PLAIN_PORT, LLM_PORT} <= set(self.declared_ports()):
            raise BadScene(f"{self.source} has no Gateway with the ports {PLAIN_PORT} and {LLM_PORT}")

    def wanted(self) -> str:
        """The policy that the example folder asks for. Raises BadScene."""
        try:
            return str(_read(self.source / _POLICY)["spec"]["scheduling"]["policy"])
        except (KeyError, TypeError):
            raise BadScene(f"{self.source / _POLICY} has no spec.scheduling.policy") from None

    def served_model(self) -> tuple[str, str]:
        """The model name that clients use, and the engines' name for it. Raises BadScene."""
        for manifest in self._documents("InferenceModel"):
            spec = manifest["spec"]
            targets = spec.get("targetModels") or [{"name": spec["modelName"]}]
            return spec["modelName"], targets[0]["name"]
        raise BadScene(f"{self.source} has no InferenceModel")

    def declared_ports(self) -> list[int]:
        """The ports of the manifests' Gateways. Raises BadScene."""
        gateways = self._documents("Gateway")
        return sorted({listener["port"] for one in gateways for listener in one["spec"]["listeners"]})

    def _documents(self, kind: str) -> list[Any]:
        """The manifests of a kind; whether they are right is for the gateway to say."""
        found = [one for path in sorted(self.folder.glob("*.yaml")) for one in _read_all(path)]
        return [one for one in found if isinstance(one, dict) and one.get("kind") == kind]

    async def start_engines(self, simulation: Simulation, models: Sequence[str]) -> None:
        """Start all engines, serving `models`, and list them for the gateway. Raises NotStarted."""
        started = [self._child(one.name, _sim_words(one, simulation, models)) for one in self.engines]
        for child in started:
            await child.start()
        for child in started:
            ((line),) = await child.wait_for(SIM_READY, 1, START_S)
            self.addresses[child.name] = line[3]
        listing = _read(self.folder / _ENDPOINTS)
        listing["spec"]["endpoints"] = [_entry(name, address) for name, address in self.addresses.items()]
        _replace(self.folder / _ENDPOINTS, listing)

    async def start_gateway(self, policy: str, listens: Sequence[str]) -> None:
        """Start `igw up` with this policy, and wait until all engines may be chosen. Raises NotStarted."""
        self._write_policy(policy)
        words = ["igw_operator", "up", "-f", str(self.folder), "--state-dir", str(self.state), "--drain-timeout", "1"]
        words += [word for listen in listens for word in ("--listen", listen)]
        for left in reversed(range(GATEWAY_TRIES)):
            try:
                await self._try_gateway(words)
                return
            except NotStarted as error:
                # A free port that it chose may be taken by any connection of this machine before Envoy binds it.
                if not left or _TAKEN not in str(error):
                    raise
                self._children.pop()

    async def _try_gateway(self, words: Sequence[str]) -> None:
        gateway = self._child("gateway", words)
        await gateway.start()
        ready = await gateway.wait_for(UP_READY, len(self.declared_ports()), START_S)
        self.ports = {int(line[1]): int(line[2].rpartition(":")[2]) for line in ready}
        self.metrics = gateway.says(UP_METRICS)[0][1]
        await gateway.wait_until(self._all_available, START_S, "has engines that it cannot use")

    async def change_policy(self, policy: str) -> None:
        """Write the policy into the manifests, and wait until the picker has taken it over. Raises NotStarted."""
        gateway = self._children[-1]
        picker_log = Child("picker", (), self.state / "picker.log")
        before = len(picker_log.says(_LOADED))
        self._write_policy(policy)

        async def taken_over() -> bool:
            return self._accepted() == [policy] and len(picker_log.says(_LOADED)) > before

        await gateway.wait_until(taken_over, CHANGE_S, f"did not take over the policy {policy}")

    async def stop(self) -> None:
        """Stop everything that was started."""
        await stop_all(self._children)

    def ended(self) -> list[Child]:
        """The processes that run no more."""
        return [child for child in self._children if child.ended]

    def _child(self, name: str, words: Sequence[str]) -> Child:
        child = Child(name, words, self.logs / f"{name}.log")
        self._children.append(child)
        return child

    def _write_policy(self, policy: str) -> None:
        manifest = _read(self.folder / _POLICY)
        manifest["spec"]["scheduling"]["policy"] = policy
        _replace(self.folder / _POLICY, manifest)

    def _accepted(self) -> list[str]:
        """The policies in the file that the gateway made for the picker."""
        objects = json.loads((self.state / "objects.json").read_bytes())
        return [one["scheduling"] for one in objects["policies"]]

    async def _all_available(self) -> bool:
        page = await _get(self.metrics)
        lines = (f'igw_picker_endpoint_available{{endpoint="{one}"}} 1.0' for one in self.addresses.values())
        return all(line in page for line in lines)


def is_free(port: int) -> bool:
    """Whether the gateway can listen there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _sim_words(engine: Engine, simulation: Simulation, models: Sequence[str]) -> list[str]:
    words = ["igw_sim", "--name", engine.name, "--engine", engine.dialect]
    words += [word for model in dict.fromkeys(models) for word in ("--model", model)]
    words += ["--preset", simulation.preset, "--time-scale", f"{simulation.time_scale:g}"]
    # They talk until `max_tokens`, so that both policies get the same work; not much longer without one.
    words += ["--output-tokens", "fixed:256", "--grace", "0"]
    return words + [word for fault in engine.faults for word in ("--fail", fault)]


def _entry(name: str, address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"name": name, "address": host, "port": int(port)}


def _read(path: Path) -> Any:
    """The only document of a file. Raises BadScene."""
    return next(iter(_read_all(path)), None)


def _read_all(path: Path) -> list[Any]:
    try:
        return list(yaml.safe_load_all(path.read_text()))
    except yaml.YAMLError as error:
        raise BadScene(f"{path.name} is not YAML: {' '.join(str(error).split())}") from None


def _replace(path: Path, manifest: Any) -> None:
    """By a rename, as editors do: the gateway must never see half a file."""
    draft = path.with_suffix(".draft")
    draft.write_text(yaml.safe_dump(manifest, sort_keys=False))
    os.replace(draft, path)


async def _get(url: str) -> str:
    """The page, or nothing while nobody serves it."""
    try:
        async with (
            asyncio.timeout(5),
            aiohttp.ClientSession() as session,
            session.get(url) as response,
        ):
            return await response.text()
    except (aiohttp.ClientError, TimeoutError):
        return ""
