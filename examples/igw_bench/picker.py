"""`make bench-picker`: what the picker costs. Ends within three minutes; the last line is one JSON object.

CPU per request is measured on the product itself: `igw up` with its own Envoy and picker over four stub endpoints and
the default policy, as the ratio of the picker's CPU seconds to Envoy's in the same seconds, so that the machine's speed
cancels. Latency is the difference to a plain route of the same Envoy. Picks and scrapes run alone, in this process.
"""

import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time

import orjson
import psutil
import uvloop

from igw_bench import closed_loop
from igw_bench.gateway import Gateway, gateway
from igw_extproc.domain import Ask, Endpoint, EngineKind, EngineLoad
from igw_extproc.ledgers import Ledgers
from igw_extproc.scheduling.filters import candidates
from igw_extproc.scheduling.framework import Scheduler
from igw_extproc.scheduling.policies import DEFAULT, POLICIES
from igw_extproc.scheduling.prefix import PrefixIndex, chain, seed
from igw_extproc.scraper import Scraper

SIZES = {"1k": 1_000, "20k": 20_000, "400k": 400_000}
PAGE = Path(__file__).resolve().parents[2] / "tests" / "data" / "engine-metrics" / "vllm-0.32.0.prom"

_MANIFESTS = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: bench}
spec:
  gatewayClassName: bench
  listeners:
    - {name: plain, protocol: HTTP, port: 8080}
    - {name: llm, protocol: HTTP, port: 8081}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: plain}
spec:
  parentRefs: [{name: bench, sectionName: plain}]
  rules: [{backendRefs: [{name: pool, port: 8000}]}]
---
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: InferencePool
metadata:
  name: pool
  annotations: {inference.networking.x-k8s.io/attach-to: "{name: bench, port: 8081}"}
spec:
  targetPortNumber: 8000
  selector: {app: stub}
  extensionRef: {name: picker}
"""


def main() -> None:
    """All measurements, told as they come."""
    figures: dict[str, float] = {}
    with _stub(4) as ports, tempfile.TemporaryDirectory(prefix="igw-bench-") as folder:
        manifests = Path(folder) / "bench.yaml"
        manifests.write_text(_MANIFESTS)
        endpoints = [word for port in ports for word in ("--endpoint", f"app=stub@127.0.0.1:{port}")]
        for transport, prefix in (("http2", ""), ("grpc", "grpc_")):
            options = [*endpoints, "--picker-transport", transport]
            with gateway([manifests], options, (8080, 8081)) as running:
                figures |= {f"{prefix}{name}": value for name, value in _cpu(running, transport).items()}
                if transport == "http2":
                    figures |= _latency(running)
        figures["cpu_ratio_1k_waiting"] = _waiting(manifests)
    figures |= _picks()
    figures["scrape_200_cores"] = _scrapes()
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


# ------------------------------------------------------------------------------------------------ CPU a request


def chat_body(size: int, turn: int) -> bytes:
    """A chat request of about `size` bytes: a shared beginning of three quarters, then words of its own."""
    own = random.Random(turn)
    words = " ".join(f"w{own.getrandbits(20):x}" for _ in range(size // 24))
    shared = ("The quick brown fox jumps over the lazy dog. " * (size // 60))[: size * 3 // 4]
    messages = [{"role": "system", "content": shared}, {"role": "user", "content": words}]
    return orjson.dumps({"model": "m", "messages": messages, "max_tokens": 100, "stream": False})


def _cpu(running: Gateway, transport: str, sizes: Mapping[str, int] = SIZES) -> dict[str, float]:
    """The ratio of the picker's CPU to Envoy's, by body size, at 16 connections."""
    figures = {}
    for name, size in sizes.items():
        body = chat_body(size, turn=1)
        uvloop.run(closed_loop.run(running.ports[8081], body, 16, 1.0))  # warm: connections, caches
        placed, before = running.placed(), _times(running)
        loop = uvloop.run(closed_loop.run(running.ports[8081], body, 16, 6.0))
        after = _times(running)
        count = len(loop.latencies)
        placed = running.placed() - placed
        if placed < count:
            sys.exit(f"bench-picker: only {placed:.0f} of {count} requests were placed; the rest went round robin")
        picker, envoy = ((b - a) / count * 1e6 for a, b in zip(before, after, strict=True))
        figures[f"cpu_ratio_{name}"] = picker / envoy
        print(
            f"{transport:5} {name:>4} bodies: picker {picker:6.0f} us, Envoy {envoy:6.0f} us a request, "
            f"ratio {picker / envoy:.2f}; {count / 6.0:.0f} requests/s, {loop.failures} failures",
            flush=True,
        )
    return figures


def _waiting(manifests: Path) -> float:
    """The ratio at 1 KB if engines say that requests wait in them, so that all but one at each wait in the picker."""
    with _stub(4, "full") as ports:
        endpoints = [word for port in ports for word in ("--endpoint", f"app=stub@127.0.0.1:{port}")]
        with gateway([manifests], endpoints, (8080, 8081)) as running:
            return _cpu(running, "waits", {"1k": SIZES["1k"]})["cpu_ratio_1k"]


def _times(running: Gateway) -> tuple[float, float]:
    return _cpu_seconds(running.picker), _cpu_seconds(running.envoy)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


# ------------------------------------------------------------------------------------------------ latency


def _latency(running: Gateway) -> dict[str, float]:
    """What the picker adds to a request of 1 KB, in ms: medians of rounds that alternate between the two routes."""
    body = chat_body(SIZES["1k"], turn=2)
    figures = {}
    for connections in (4, 32):
        added: dict[str, list[float]] = {"p50": [], "p99": []}
        for _ in range(3):
            plain = uvloop.run(closed_loop.run(running.ports[8080], body, connections, 2.0))
            placed = uvloop.run(closed_loop.run(running.ports[8081], body, connections, 2.0))
            added["p50"].append((placed.percentile(0.5) - plain.percentile(0.5)) * 1e3)
            added["p99"].append((placed.percentile(0.99) - plain.percentile(0.99)) * 1e3)
        for name, values in added.items():
            figures[f"added_{name}_ms_c{connections}"] = statistics.median(values)
        print(
            f"added latency at {connections:2} connections: "
            + ", ".join(f"{name.upper()} {statistics.median(values):.2f} ms" for name, values in added.items()),
            flush=True,
        )
    return figures


# ------------------------------------------------------------------------------------------------ picks


def _picks() -> dict[str, float]:
    """Microseconds for one pick of the default policy, 1 KB prompts that some endpoints hold, by pool size."""
    figures = {}
    for count in (10, 100, 1_000):
        figures[f"pick_us_{count}"] = _pick(count)
        print(f"a pick over {count:5} endpoints: {figures[f'pick_us_{count}']:6.1f} us", flush=True)
    return figures


def _pick(count: int) -> float:
    rng = random.Random(7)
    index = PrefixIndex()
    ledgers = Ledgers(gone=index.forget)
    ledgers.sync([Endpoint(f"10.0.{at // 250}.{at % 250}:8000") for at in range(count)])
    for ledger in ledgers:
        load = EngineLoad(EngineKind.VLLM, rng.randrange(50), rng.randrange(5), rng.random(), 100_000)
        ledger.scraped(ledger.scrape_started(), load, 0.0)
    scheduler = Scheduler(POLICIES[DEFAULT], index)
    known = list(ledgers)
    asks = [_prompt(rng.randrange(20), at) for at in range(200)]
    for ask in asks:
        decision = scheduler.pick(candidates(known), ask, 0.0, rng)
        assert decision is not None
        decision.lease.close(0.0)
    rounds = []
    for _ in range(15):
        leases = []
        began = perf_counter()
        for ask in asks:
            decision = scheduler.pick(candidates(known), ask, 0.0, rng)
            assert decision is not None
            leases.append(decision.lease)
        rounds.append((perf_counter() - began) / len(asks) * 1e6)
        for lease in leases:
            lease.close(0.0)
    return statistics.median(rounds)


def _prompt(tenant: int, question: int) -> Ask:
    text = (f"tenant {tenant} " * 80 + f"question {question}").encode()
    return Ask("m", len(text) // 4, 100, chain(text, seed("m")))


# ------------------------------------------------------------------------------------------------ scrapes


def _scrapes() -> float:
    """Cores that the scraper needs for 200 endpoints with a real page of an engine, over eight seconds."""
    with _stub(200) as ports:
        cores, rate = uvloop.run(_scrape([Endpoint(f"127.0.0.1:{port}") for port in ports], 8.0))
    print(f"scraping {len(ports)} endpoints: {cores * 100:.1f} % of one core, {rate:.0f} scrapes/s", flush=True)
    return cores


async def _scrape(endpoints: list[Endpoint], seconds: float) -> tuple[float, float]:
    ledgers = Ledgers()
    ledgers.sync(endpoints)
    scraper = Scraper(ledgers, random.Random(3))
    scraper.sync(endpoints)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(scraper.run())
        await asyncio.sleep(3.0)  # the first scrapes connect; the steady state is what counts
        began, used, done = perf_counter(), process_time(), scraper.statistics().ok
        await asyncio.sleep(seconds)
        wall = perf_counter() - began
        cores, rate = (process_time() - used) / wall, (scraper.statistics().ok - done) / wall
        task.cancel()
    return cores, rate


@contextmanager
def _stub(ports: int, *words: str) -> Iterator[list[int]]:
    command = [sys.executable, "-m", "igw_bench.stub", str(ports), str(PAGE), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield [int(port) for port in process.stdout.readline().split()]
        finally:
            process.terminate()
            process.wait(10)


if __name__ == "__main__":
    main()
