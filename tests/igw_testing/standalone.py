"""`igw up` as users run it: a process of its own, with real Envoy and a picker, on ports from the system."""

import asyncio
import itertools
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

TESTS = Path(__file__).parents[1]
USERS_MANIFESTS = TESTS / "data" / "manifests"
POOL_LABELS = {"app": "vllm-llama2-7b-pool"}
START_TIMEOUT = 90.0  # on a machine that is busy with much else, interpreters alone take half a minute
USUAL_PORTS = (8080, 8081)  # those of the users' Gateway


@dataclass
class Up:
    """A running `igw up` and what it has printed."""

    process: asyncio.subprocess.Process
    manifests: Path
    state: Path
    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def url(self, port: int) -> str:
        """Where the Gateway's port is open, by the last line that said so."""
        found = re.findall(rf"^igw up ready .* port={port} address=(\S+)$", "\n".join(self.lines), re.MULTILINE)
        assert found, f"port {port} is not open: {self.lines} {self.problems}"
        return f"http://{found[-1]}"

    @property
    def admin(self) -> str:
        """Envoy's admin port."""
        match = re.search(r"Envoy admin (http://\S+)", "\n".join(self.lines))
        assert match, self.lines
        return match.group(1)

    @property
    def metrics(self) -> str:
        """The picker's metrics page."""
        match = re.search(r"^metrics (http://\S+),", "\n".join(self.lines), re.MULTILINE)
        assert match, self.lines
        return match.group(1)

    async def line(self, text: str, within: float = 10.0) -> None:
        """Wait until a line with `text` was printed, to standard output or as a problem."""
        printed = [self.lines, self.problems]
        await until(
            lambda: any(text in line for lines in printed for line in lines),
            within,
            lambda: f"no {text!r} in {printed}",
        )

    def is_open(self) -> bool:
        """Whether all ports that were listed are said to be ready."""
        listed = self.lines[self.lines.index(next(line for line in self.lines if line.startswith("LISTENER"))) + 1 :]
        rows = itertools.takewhile(lambda line: not line.startswith("metrics "), listed)
        ready = [line for line in self.lines if line.startswith("igw up ready")]
        return len(ready) >= len({line.split()[1] for line in rows})

    def children(self) -> dict[str, int]:
        """The process ids of Envoy and the picker."""
        found: dict[str, int] = {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid:
                    command = (path / "cmdline").read_bytes()
                    found["envoy" if b"--config-path" in command else "picker"] = int(path.name)
        return found

    def stop(self) -> None:
        """What Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)


async def until(
    condition: Callable[[], bool | Awaitable[bool]], within: float = 10.0, why: Callable[[], str] = lambda: ""
) -> None:
    """Wait until `condition` holds. Fails after `within` seconds."""
    try:
        async with asyncio.timeout(within):
            while True:
                result = condition()
                if result if isinstance(result, bool) else await result:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(why() or "the condition did not hold in time") from None


def endpoint_list(addresses: Iterable[str], labels: dict[str, str] | None = None) -> str:
    """An EndpointList manifest with these `ip:port`."""
    endpoints = [
        {"address": host, "port": int(port)} for host, _, port in (address.rpartition(":") for address in addresses)
    ]
    manifest = {
        "apiVersion": "inferencegateway.io/v1alpha1",
        "kind": "EndpointList",
        "metadata": {"name": "engines"},
        "spec": {"labels": labels or POOL_LABELS, "endpoints": endpoints},
    }
    return json.dumps(manifest)


def write_users_manifests(directory: Path, addresses: Iterable[str]) -> Path:
    """The manifests that users have, unchanged, beside a list of endpoints."""
    directory.mkdir(exist_ok=True)
    for path in USERS_MANIFESTS.glob("*.yaml"):
        (directory / path.name).write_bytes(path.read_bytes())
    (directory / "endpoints.yaml").write_text(endpoint_list(addresses))
    return directory


def picker_double(orders: Path) -> tuple[str, ...]:
    """Options that replace the picker by the double, which does as the files in `orders` say."""
    orders.mkdir(exist_ok=True)
    (orders / "destination").touch()
    script = TESTS / "igw_testing" / "picker_double.py"
    return ("--picker-command", shlex.join((sys.executable, str(script), "--orders", str(orders))))


def command(manifests: Path, state: Path, options: Iterable[str] = (), ports: Iterable[int] = USUAL_PORTS) -> list[str]:
    """The command line; each of the Gateway's `ports` is opened on any free port."""
    listens = [word for port in ports for word in ("--listen", f"{port}=127.0.0.1:0")]
    up = [sys.executable, "-m", "igw_operator", "up", "-f", str(manifests), "--state-dir", str(state)]
    return [*up, "--drain-timeout", "10", "--concurrency", "1", *listens, *options]


@asynccontextmanager
async def running_up(
    manifests: Path, state: Path, *options: str, ports: Iterable[int] = USUAL_PORTS
) -> AsyncIterator[Up]:
    """`igw up`, ready, for as long as the context lasts. A test may end it earlier."""
    process = await asyncio.create_subprocess_exec(
        *command(manifests, state, options, ports),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    up = Up(process, manifests, state)
    assert process.stdout is not None and process.stderr is not None
    collectors = [
        asyncio.create_task(_collect(process.stdout, up.lines)),
        asyncio.create_task(_collect(process.stderr, up.problems)),
    ]
    try:
        await up.line("igw up ready", START_TIMEOUT)
        await until(up.is_open, 10.0, lambda: f"not all ports are open: {up.lines}")
        yield up
    finally:
        await _end(process)
        await asyncio.wait(collectors)


async def _collect(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode().rstrip("\n"))


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        # Twice: the second one does not wait for open requests.
        for _ in range(2):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
        try:
            async with asyncio.timeout(15):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def run_up(manifests: Path, state: Path, *options: str, ports: Iterable[int] = USUAL_PORTS) -> tuple[int, str]:
    """`igw up` where it is expected to end by itself: exit code and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        *command(manifests, state, options, ports), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(START_TIMEOUT):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def ask(session: aiohttp.ClientSession, url: str, **options: Any) -> tuple[int, dict[str, Any] | str]:
    """POST a small body: the status, and the answer as JSON where it is."""
    async with session.post(
        f"{url}/v1/completions", json={"model": "/model/llama2", "prompt": "hello"}, **options
    ) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if answer.content_type == "application/json" else text


async def engines_asked(session: aiohttp.ClientSession, url: str, times: int) -> list[str]:
    """Which engines answered `times` requests, one after the other."""
    found = []
    for _ in range(times):
        status, answer = await ask(session, url)
        assert status == 200 and isinstance(answer, dict), (status, answer)
        found.append(str(answer["engine"]))
    return found
