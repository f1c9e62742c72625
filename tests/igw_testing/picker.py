"""The picker as a process: started on ports of the system's choice, fed with manifests, watched through its metrics.

Black box: only its command line, its files, its gRPC port and its metrics page are used.
"""

import asyncio
import itertools
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import grpc.aio
import yaml
from prometheus_client.parser import text_string_to_metric_families

from igw_protos import ext_proc_pb2 as pb
from igw_testing.ext_proc import FULL_DUPLEX, First, Stream, stream_on
from igw_testing.metrics_stub import EngineStub, serving

# A cold start on a busy two-core machine takes a few seconds.
START_S: Final = 30.0
# Anything else that is waited for: one reload, one scrape, one process's end.
WAIT_S: Final = 15.0

X_K8S: Final = "inference.networking.x-k8s.io/v1alpha2"


async def eventually(holds: Callable[[], Awaitable[bool]], what: str, seconds: float = WAIT_S) -> None:
    """Poll until `holds`; fail with `what` after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while not await holds():  # noqa: ASYNC110 -- another process changes it
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:g} s: {what}") from None


class Exit(NamedTuple):
    """How a process ended."""

    code: int
    errors: str


@dataclass(slots=True)
class PickerProcess:
    """A running picker. `folder` holds its manifests."""

    folder: Path
    address: str
    metrics: str
    process: asyncio.subprocess.Process
    log: Path
    credentials: grpc.ChannelCredentials | None = None
    _channels: list[Any] = field(default_factory=list)

    def write(self, name: str, *documents: str) -> None:
        """Put a manifest file in place, whole or not at all."""
        write_manifests(self.folder, name, *documents)

    def remove(self, name: str) -> None:
        """Take a manifest file away."""
        (self.folder / f"{name}.yaml").unlink()

    @property
    def channel(self) -> Any:
        """The connection that this picker's streams share."""
        if not self._channels:
            self._channels.append(self.new_channel())
        return self._channels[0]

    def new_channel(self) -> Any:
        """A connection of its own. The caller closes it."""
        # Without this, channels to one address share a connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        if self.credentials is not None:
            return grpc.aio.secure_channel(self.address, self.credentials, options)
        return grpc.aio.insecure_channel(self.address, options)

    def stream(
        self,
        first: First | None = First(),  # noqa: B008 -- frozen
        channel: Any = None,
    ) -> AbstractAsyncContextManager[Stream]:
        """A new stream, on the shared connection unless `channel` is another."""
        return stream_on(channel or self.channel, first)

    async def check(self, service: str, channel: Any = None) -> bytes:
        """The bytes of a health check's answer. Raises AioRpcError."""
        asked = b"" if not service else bytes([10, len(service)]) + service.encode()
        call = (channel or self.channel).unary_unary("/grpc.health.v1.Health/Check")
        answer: bytes = await call(asked, timeout=WAIT_S)
        return answer

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the metrics port."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.metrics}{path}") as response:
            return response.status, await response.text()

    async def sample(self, name: str, **labels: str) -> float:
        """One sample of the metrics page; 0 if it is not there (yet)."""
        _, text = await self.get("/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return 0.0

    async def in_flight(self, engine: EngineStub) -> float:
        """Requests that the picker counts against this engine."""
        return await self.sample("igw_picker_endpoint_in_flight_requests", endpoint=engine.address)

    async def sees(self, *engines: EngineStub, available: bool = True) -> None:
        """Wait until the picker counts these engines as available, or has found them unreachable."""

        async def all_seen() -> bool:
            _, text = await self.get("/metrics")
            told = 'available{endpoint="%s"} 1.0' if available else 'unreachable{endpoint="%s",reason='
            return all(f"igw_picker_endpoint_{told % one.address}" in text for one in engines)

        await eventually(all_seen, f"available={available}: {[one.address for one in engines]}\n{self.log.read_text()}")

    async def stop(self) -> Exit:
        """Ask it to end with SIGTERM, and wait."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    async def ended(self) -> Exit:
        """Wait for its end."""
        async with asyncio.timeout(WAIT_S):
            await self.process.communicate()
        assert self.process.returncode is not None
        return Exit(self.process.returncode, self.log.read_text())


def write_manifests(folder: Path, name: str, *documents: str) -> None:
    """Put a manifest file in place, whole or not at all."""
    draft = folder / f"{name}.draft"
    draft.write_text("\n---\n".join(documents))
    draft.rename(folder / f"{name}.yaml")


async def spawn(folder: Path, transport: str, *options: str) -> tuple[asyncio.subprocess.Process, Path]:
    """A picker process on ports of the system's choice unless `options` name some, and the file of its errors.

    It serves the manifests in `folder` unless `options` name another source.
    """
    log = folder.parent / f"{folder.name}.log"
    ports = [part for name in ("--port", "--metrics-port") if name not in options for part in (name, "0")]
    source = () if "--kubernetes" in options else ("--objects", str(folder))
    command = ("-m", "igw_extproc", *source, "--host", "127.0.0.1", "--transport", transport)
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, *ports, *options, stdout=asyncio.subprocess.PIPE, stderr=errors
        )
    return process, log


@asynccontextmanager
async def running(
    folder: Path, transport: str, *options: str, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[PickerProcess]:
    """A picker that has announced itself, killed in the end if it still runs."""
    process, log = await spawn(folder, transport, *options)
    picker = None
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_S):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("igw picker listening "), line + log.read_text()
        told = dict(part.split("=", 1) for part in line.split()[3:])
        picker = PickerProcess(folder, told["address"], told["metrics"], process, log, credentials)
        yield picker
    finally:
        for channel in picker._channels if picker is not None else ():
            await channel.close()
        if process.returncode is None:
            process.kill()
        await process.communicate()


# ------------------------------------------------------------------------------------------------ pools


class Part(NamedTuple):
    """An object that belongs to a pool: `Pool.serving` adds the reference."""

    kind: str
    version: str
    spec: dict[str, Any]
    name: str


def model(name: str, targets: dict[str, int] | None = None, criticality: str | None = None) -> Part:
    """An InferenceModel: `targets` by weight."""
    spec: dict[str, Any] = {"modelName": name}
    if targets:
        spec["targetModels"] = [{"name": target, "weight": weight} for target, weight in targets.items()]
    if criticality:
        spec["criticality"] = criticality
    return Part("InferenceModel", X_K8S, spec, f"model-{name.lower()}")


def objective(name: str, priority: int | None) -> Part:
    """An InferenceObjective."""
    return Part("InferenceObjective", X_K8S, {} if priority is None else {"priority": priority}, name)


def rewrite(name: str, *rules: tuple[str | None, dict[str, int]]) -> Part:
    """An InferenceModelRewrite: each rule is (model or None for every model, targets by weight)."""
    spec = {
        "rules": [
            {
                "matches": [{"model": {"type": "Exact", "value": matched}}] if matched else [],
                "targets": [{"modelRewrite": target, "weight": weight} for target, weight in targets.items()],
            }
            for matched, targets in rules
        ]
    }
    return Part("InferenceModelRewrite", X_K8S, spec, name)


def pool_documents(
    name: str, engines: Sequence[EngineStub], parts: Sequence[Part] = (), queue: Mapping[str, Any] | None = None
) -> list[str]:
    """The manifests of a pool in a namespace of its own, so that objects of two pools never meet."""
    policy = {"targetRefs": [{"name": name}], "queue": queue}
    endpoints = [{"address": engine.host, "port": engine.port} for engine in engines]
    reference = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name}
    return [
        _document(
            "InferencePool",
            "inference.networking.k8s.io/v1",
            name,
            name,
            {"selector": {"matchLabels": {"app": name}}, "targetPorts": [{"number": 8000}]},
        ),
        _document(
            "EndpointList",
            "inferencegateway.io/v1alpha1",
            name,
            name,
            {"labels": {"app": name}, "endpoints": endpoints},
        ),
        *(_document(one.kind, one.version, name, one.name, {**one.spec, "poolRef": reference}) for one in parts),
        *([_document("InferencePoolPolicy", "inferencegateway.io/v1alpha1", name, name, policy)] if queue else []),
    ]


def _document(kind: str, version: str, namespace: str, name: str, spec: dict[str, Any]) -> str:
    metadata = {"name": name, "namespace": namespace}
    return yaml.safe_dump({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool that a picker serves beside others: streams name it by its route, as Envoy does."""

    picker: PickerProcess
    name: str
    engines: tuple[EngineStub, ...]

    @property
    def route(self) -> str:
        """The name of the pool's route."""
        return f"{self.name}/{self.name}"

    def stream(
        self,
        request_mode: pb.BodySendMode = FULL_DUPLEX,
        response_mode: pb.BodySendMode = FULL_DUPLEX,
        subset: str | Sequence[str] | None = None,
    ) -> AbstractAsyncContextManager[Stream]:
        """A new stream of this pool's route."""
        return self.picker.stream(First(request_mode, response_mode, self.route, subset))


_numbers = itertools.count()


@asynccontextmanager
async def pool(
    picker: PickerProcess,
    *engines: EngineStub,
    parts: Sequence[Part] = (),
    down: Sequence[EngineStub] = (),
    queue: Mapping[str, Any] | None = None,
) -> AsyncIterator[Pool]:
    """A new pool of these engines, once the picker has seen them; those in `down` are listed but nobody listens."""
    name = f"pool-{next(_numbers)}"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving(*engines))
        picker.write(name, *pool_documents(name, [*engines, *down], parts, queue))
        stack.callback(picker.remove, name)
        await picker.sees(*engines)
        await picker.sees(*down, available=False)
        yield Pool(picker, name, engines)
