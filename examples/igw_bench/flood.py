"""`make bench-flood`: the picker's memory while 10,000 requests of 400 KB wait in it, over both transports.

Each picker runs alone, over one stub engine that says it is full. Requests are those of a proxy that holds their bodies
(one message with the whole body), and for comparison of one that does not (full duplex), where the queue's bound in
bytes refuses what is too much. Takes a minute or two; the last line is one JSON object, sizes in MB.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import grpc.aio
import orjson
import psutil
import uvloop
import yaml

from igw_api import wire
from igw_bench.picker import PAGE
from igw_protos import ext_proc_pb2 as pb

REQUESTS = 10_000
SIZE = 400_000
# Requests that are under way to the picker at once, and connections that share them.
AT_ONCE = 64
CONNECTIONS = 4
MB = 1e6
_WORDS = "The quick brown fox jumps over the lazy dog. "
_ATTRIBUTES = {"request.path": "/v1/chat/completions", "request.headers['content-type']": "application/json"}


class Flooded(NamedTuple):
    """What came of one flood. Sizes in MB: before, at most, and while all that may wait do."""

    waiting: int
    refused: int
    before: float
    most: float
    after: float

    @property
    def each_kb(self) -> float:
        """What one that waits takes, in kB."""
        return (self.after - self.before) * 1000 / max(self.waiting, 1)


def main() -> None:
    """Both transports, both ways."""
    uvloop.run(floods(int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS))


async def floods(requests: int) -> None:
    """All four in one loop: gRPC's poller stays with the first it has seen."""
    figures: dict[str, dict[str, float]] = {}
    for transport in ("http2", "grpc"):
        for duplex in (False, True):
            found = await flood(transport, requests, duplex)
            name = f"{transport}, {'full duplex' if duplex else 'one message'}"
            figures[name] = {
                key: round(value, 1) for key, value in (found._asdict() | {"each_kb": found.each_kb}).items()
            }
            print(
                f"{name:22} {found.waiting} wait, {found.refused} refused; {found.before:.0f} MB before, at most "
                f"{found.most:.0f}, then {found.after:.0f}: {found.each_kb:.1f} kB each",
                flush=True,
            )
    print(json.dumps(figures))


async def flood(transport: str, requests: int, duplex: bool, size: int = SIZE) -> Flooded:
    """Send that many requests to a picker whose engine is full, and look at its memory."""
    with tempfile.TemporaryDirectory(prefix="igw-bench-") as folder:
        manifests = Path(folder) / "objects.yaml"
        async with _printing("igw_bench.stub", "1", str(PAGE), "full") as (_, ports):
            await asyncio.to_thread(manifests.write_text, _objects(int(ports), requests))
            options = ("--objects", str(manifests), "--transport", transport, "--port", "0", "--metrics-port", "0")
            async with _printing("igw_extproc", *options) as (process, line):
                told = dict(part.split("=", 1) for part in line.split()[3:])
                picker = psutil.Process(process.pid)
                async with _Sender(told["address"], told["metrics"], duplex, size) as sender:
                    # The engine takes one in any case; and what is loaded at the first request is not the flood's.
                    await sender.send(2)
                    before = picker.memory_info().rss
                    await sender.send(requests)
                    after, most = picker.memory_info().rss, _peak(process.pid)
                    refused = sender.answered - 1
    return Flooded(requests - refused, refused, before / MB, most / MB, after / MB)


@asynccontextmanager
async def _printing(*words: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A module's process, and the line with which it says that it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        yield process, (await process.stdout.readline()).decode()
    finally:
        process.kill()
        await process.wait()


class _Sender:
    """Streams to the picker, each of which sends a request and waits for the answer."""

    def __init__(self, address: str, metrics: str, duplex: bool, size: int) -> None:
        self.answered = 0
        self._sent = 0
        self._metrics, self._duplex, self._size = metrics, duplex, size
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(address, options) for _ in range(CONNECTIONS)]
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "_Sender":
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(*error)
        for channel in self._channels:
            await channel.close()

    async def send(self, requests: int) -> None:
        """So many more, until each waits or has its answer."""
        for _ in range(requests):
            await self._at_once.acquire()
            self._sent += 1
            self._tasks.append(self._group.create_task(self._send(self._sent)))
        while self.answered + await asyncio.to_thread(self._waiting) < self._sent:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)

    def _waiting(self) -> int:
        with urlopen(f"http://{self._metrics}/metrics", timeout=30) as page:
            lines = page.read().decode().splitlines()
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith("igw_picker_waiting_requests{"))

    async def _send(self, number: int) -> None:
        call: Any = self._channels[number % CONNECTIONS].stream_stream(wire.EXT_PROC_METHOD)()
        content = f"{number} {_WORDS * (self._size // len(_WORDS))}"
        body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": content}]})
        for message in _messages(body, self._duplex):
            await call.write(message)
        self._at_once.release()
        await call.read()
        self.answered += 1


def _peak(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _messages(body: bytes, duplex: bool) -> Iterator[bytes]:
    first = pb.ProcessingRequest()
    modes = first.protocol_config
    if not duplex:
        modes.request_body_mode = pb.BUFFERED_PARTIAL
        first.attributes[wire.EXT_PROC_FILTER].update(_ATTRIBUTES)
        first.request_body.body, first.request_body.end_of_stream = body, True
        yield first.SerializeToString()
        return
    modes.request_body_mode = modes.response_body_mode = pb.FULL_DUPLEX_STREAMED
    for name, value in ((":method", "POST"), (":path", "/v1/chat/completions"), ("content-type", "application/json")):
        first.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    yield first.SerializeToString()
    rest = pb.ProcessingRequest()
    rest.request_body.body, rest.request_body.end_of_stream = body, True
    yield rest.SerializeToString()


def _objects(port: int, most: int) -> str:
    """A pool of one engine, where so many may wait, for as long as any may."""
    objects: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("InferencePool", "inference.networking.k8s.io/v1", {"selector": {"matchLabels": {"app": "a"}}}),
        ("EndpointList", "inferencegateway.io/v1alpha1", {"labels": {"app": "a"}}),
        ("InferencePoolPolicy", "inferencegateway.io/v1alpha1", {"targetRefs": [{"name": "pool"}]}),
    )
    more: tuple[dict[str, Any], ...] = (
        {"targetPorts": [{"number": port}]},
        {"endpoints": [{"address": "127.0.0.1", "port": port}]},
        {"queue": {"maxSize": most + 2, "waitTimeout": "60s"}},
    )
    return yaml.safe_dump_all(
        {"kind": kind, "apiVersion": version, "metadata": {"name": "pool"}, "spec": {**spec, **rest}}
        for (kind, version, spec), rest in zip(objects, more, strict=True)
    )


if __name__ == "__main__":
    main()
