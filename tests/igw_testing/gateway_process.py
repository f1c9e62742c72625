"""The whole product as processes: `igw up` with real Envoy and the real picker, before simulated engines that can be
killed, frozen and brought back one by one.

For tests of what a client sees when a part fails. Only ports, pages, logs and signals are used.
"""

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from igw_testing.standalone import Up, running_up, until, write_users_manifests

MODEL: Final = "/model/llama2"
# A cold start of one process on a busy two-core machine takes a few seconds.
START_S: Final = 30.0
# Ten milliseconds a token, room for every request of a test: nothing queues unless a test asks for it.
_ENGINE: Final = (
    *("--model", MODEL, "--preset", "tiny", "--time-scale", "0.2", "--kv-blocks", "20000"),
    *("--max-sequences", "200", "--output-tokens", "fixed:1000000", "--grace", "0"),
)


@dataclass
class Sim:
    """One simulated engine, in a process of its own. It keeps its address when it is started again."""

    name: str
    options: tuple[str, ...] = ()
    port: int = 0
    process: asyncio.subprocess.Process | None = field(default=None, init=False)

    @property
    def address(self) -> str:
        """`ip:port`."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start the process and wait until it listens."""
        words = ("-m", "igw_sim", "--name", self.name, "--port", str(self.port), *_ENGINE, *self.options)
        self.process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
        assert self.process.stdout is not None
        async with asyncio.timeout(START_S):
            line = (await self.process.stdout.readline()).decode()
        assert line.startswith("igw sim listening "), line
        self.port = int(line.rpartition(":")[2])

    async def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.communicate()

    def freeze(self) -> None:
        """It keeps its port and its connections, and does nothing any more."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on where it was."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def fail(self, session: aiohttp.ClientSession, **failures: Any) -> dict[str, Any]:
        """Break it in one of the ways that simulated engines know; `clear=True` mends it. Returns what is broken."""
        async with session.post(f"http://{self.address}/sim/fail", json=failures) as answer:
            assert answer.status == 200, await answer.text()
            broken: dict[str, Any] = await answer.json()
            return broken


@asynccontextmanager
async def running_sims(*names: str, options: Iterable[str] = ()) -> AsyncIterator[tuple[Sim, ...]]:
    """Engines of these names for as long as the context lasts."""
    sims = tuple(Sim(name, tuple(options)) for name in names)
    try:
        async with asyncio.TaskGroup() as group:
            for sim in sims:
                group.create_task(sim.start())
        yield sims
    finally:
        for sim in sims:
            await sim.kill()


@dataclass
class Gateway:
    """A running gateway. `hold` is a file that keeps a picker from starting while it exists."""

    up: Up
    session: aiohttp.ClientSession
    hold: Path

    @property
    def chat(self) -> str:
        """Where chats are placed by the picker."""
        return self.up.url(8081) + "/v1/chat/completions"

    # The picker.

    def kill_picker(self, *, hold: bool = False) -> None:
        """SIGKILL. With `hold`, the next one waits until `release`."""
        if hold:
            self.hold.touch()
        self._signal(signal.SIGKILL)

    def release_picker(self) -> None:
        """Let the next picker start."""
        self.hold.unlink()

    def freeze_picker(self) -> None:
        """It keeps its port and its connections, and answers nothing any more."""
        self._signal(signal.SIGSTOP)

    def thaw_picker(self) -> None:
        """It goes on where it was."""
        self._signal(signal.SIGCONT)

    def pickers_started(self) -> int:
        """How many pickers have said so far that they listen."""
        return self.picker_log().count("igw picker listening ")

    def picker_log(self) -> str:
        """What all pickers have printed."""
        return (self.up.state / "picker.log").read_text()

    async def picker_listens(self, before: int) -> None:
        """Wait until another picker listens than the `before` first ones."""
        await until(lambda: self.pickers_started() > before, START_S, self.picker_log)

    async def picker_is_given_up(self) -> None:
        """Wait until Envoy does not ask the picker any more."""
        await until(lambda: self._healthy_pickers(0), 10)

    async def picker_is_trusted(self) -> None:
        """Wait until Envoy asks the picker again."""
        await until(lambda: self._healthy_pickers(1), START_S)

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self.up.children()["picker"], number)

    async def _healthy_pickers(self, count: int) -> bool:
        url = f"{self.up.admin}/stats?filter=cluster.picker.membership_healthy"
        async with self.session.get(url) as answer:
            return (await answer.text()).strip().endswith(f": {count}")

    # The picker's metrics.

    async def numbers(self, name: str) -> dict[str, float]:
        """One family of the picker's page by endpoint address. Empty while no picker answers."""
        try:
            async with self.session.get(self.up.metrics, timeout=aiohttp.ClientTimeout(total=2)) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return {}
        return {
            sample.labels.get("endpoint", ""): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }

    async def placed(self) -> dict[str, float]:
        """How many requests the picker placed on each endpoint."""
        return await self.numbers("igw_picker_placed_total")

    async def in_flight(self) -> dict[str, float]:
        """How many placed requests run on each endpoint, as the picker has it."""
        return await self.numbers("igw_picker_endpoint_in_flight_requests")

    async def in_flight_is(self, within: float = 10.0, **wanted: float) -> None:
        """Wait until so many run, by endpoint (`127.0.0.1:1=2`); none on all others."""
        last: dict[str, float] = {}

        async def is_so() -> bool:
            nonlocal last
            last = await self.in_flight()
            return bool(last) and {one: count for one, count in last.items() if count} == wanted

        await until(is_so, within, lambda: f"in flight: {last}, not {wanted}, after {within} s")

    async def available(self, address: str) -> bool:
        """Whether the picker knows that it answers."""
        return (await self.numbers("igw_picker_endpoint_available")).get(address) == 1.0

    async def sees(self, *addresses: str) -> None:
        """Wait until all of these are available."""

        async def all_there() -> bool:
            return all([await self.available(address) for address in addresses])

        await until(all_there, 10, self.picker_log)

    async def misses(self, address: str, within: float) -> None:
        """Wait until the picker has found this one unreachable."""

        async def gone() -> bool:
            return address in await self.numbers("igw_picker_endpoint_unreachable")

        await until(gone, within, self.picker_log)


@asynccontextmanager
async def running_gateway(
    folder: Path, addresses: Iterable[str], *options: str, manifests: str = ""
) -> AsyncIterator[Gateway]:
    """`igw up` with the users' manifests, and `manifests` beside them, in front of these endpoints."""
    directory = write_users_manifests(folder / "manifests", addresses)
    if manifests:
        (directory / "more.yaml").write_text(manifests)
    hold = folder / "hold"
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=START_S))
        )
        up = await stack.enter_async_context(running_up(directory, folder / "state", *_picker(hold), *options))
        gateway = Gateway(up, session, hold)
        stack.callback(_let_go, gateway)
        yield gateway


def _picker(hold: Path) -> tuple[str, ...]:
    """The real picker, which starts only while there is no file `hold`, and tells each lease in its log."""
    script = 'while [ -e "$HOLD" ]; do sleep 0.05; done; exec "$PYTHON" -m igw_extproc "$@" --log-level debug'
    words = ("env", f"HOLD={hold}", f"PYTHON={sys.executable}", "sh", "-c", script, "picker")
    return ("--picker-command", shlex.join(words))


def _let_go(gateway: Gateway) -> None:
    """A frozen or held picker would make the end slow."""
    gateway.hold.unlink(missing_ok=True)
    with suppress(KeyError, ProcessLookupError):
        gateway.thaw_picker()
