"""What a scenario needs to know of a home, where a gateway runs; and what is done to processes in any of them."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

import aiohttp
import psutil

from igw_bench.chaos.faults import Choice, Planned
from igw_bench.chaos.load import Load

# Of each period a slow process runs for the first part and is held for the rest.
_RUNS_S: Final = 0.02
_HELD_S: Final = 0.1


class Home(Protocol):
    """A running gateway with engines and a standby behind it."""

    @property
    def name(self) -> str:
        """For what is printed."""

    @property
    def url(self) -> str:
        """Of chat completions."""

    @property
    def model(self) -> str:
        """What to ask for."""

    @property
    def engines(self) -> Sequence[str]:
        """As they call themselves in their answers."""

    @property
    def standby(self) -> str:
        """As it does."""

    @property
    def choices(self) -> Sequence[Choice]:
        """What can be broken here."""

    async def processes(self, planned: Planned) -> Sequence[psutil.Process]:
        """Those that a fault is about."""

    async def revive(self, planned: Planned) -> None:
        """Start again what was killed, where nobody else does."""

    async def corrupt(self, planned: Planned) -> None:
        """Begin to."""

    async def mend(self, planned: Planned) -> None:
        """Undo `corrupt`."""

    async def back(self, planned: Planned, since: float, load: Load) -> bool:
        """Whether all is as it was before the fault, which was mended at `since`. Asked again and again."""

    def heals(self, planned: Planned) -> bool:
        """Whether what is killed is started again by the gateway itself, or by what it runs on."""

    async def watched(self) -> Mapping[str, psutil.Process]:
        """The processes whose memory is of interest."""


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Those that have ended are left out, also where another has their number now."""
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(number)


async def slowly(processes: Sequence[psutil.Process], seconds: float) -> None:
    """Let them run for a sixth of the time, in short pieces."""
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    try:
        while clock() < until:
            send(processes, signal.SIGSTOP)
            await asyncio.sleep(_HELD_S)
            send(processes, signal.SIGCONT)
            await asyncio.sleep(_RUNS_S)
    finally:
        send(processes, signal.SIGCONT)


async def until(is_so: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Ask until it is so, for so long at most. Who does not answer meanwhile says no."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                with suppress(aiohttp.ClientError, OSError, psutil.NoSuchProcess):
                    if await is_so():
                        return True
                await asyncio.sleep(0.05)
    return False
