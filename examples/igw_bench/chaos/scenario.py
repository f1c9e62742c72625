"""One run in one home: load, one fault after the other until the time is up, memory. Called by the command.

A fault begins when the one before is over: so each failure has one cause at most.
"""

import asyncio
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Final

import aiohttp
import psutil

from igw_bench.chaos.blame import Servers, judge
from igw_bench.chaos.faults import Fault, Kind, Planned, rounds
from igw_bench.chaos.figures import Run, Weighed, detected, recovered
from igw_bench.chaos.homes import Home, send, slowly, until
from igw_bench.chaos.load import PATIENCE_S, Load

# What is not as before by then never will be.
BACK_S: Final = 60.0
# The load has a rest of its own between two faults, so that one is not counted to the other.
CALM_S: Final = 0.5
WEIGH_S: Final = 1.0
_MIB: Final = 2**20


@dataclass(slots=True)
class Scenario:
    """`tell` gets a line for each fault. Times in seconds."""

    home: Home
    seconds: float
    rate: float
    seed: int
    tell: Callable[[str], None]
    faults: list[Fault] = field(default_factory=list)
    memory: dict[str, list[Weighed]] = field(default_factory=dict)

    async def run(self, session: aiohttp.ClientSession) -> Run:
        """All of it. Ends later than `seconds` by what the last fault and the last requests take."""
        home = self.home
        load = Load(session, home.url, home.model, self.rate, Random(f"{self.seed} load"))
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(load.run())
            weighing = group.create_task(self._weigh())
            try:
                await self._break_all(load)
            finally:
                load.stop()
                weighing.cancel()
            await asyncio.wait([asking], timeout=2 * PATIENCE_S)
        servers = Servers(frozenset(home.engines), home.standby)
        judged = [judge(one, self.faults, servers) for one in load.asked]
        return Run(home.name, home.standby, judged, self.faults, self.memory)

    async def _break_all(self, load: Load) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        if not await until(lambda: _all_answer(load, began, self.home), BACK_S):
            self.tell(f"{self.home.name}: not all engines answered within {BACK_S:.0f} s")
        for number, planned in enumerate(
            rounds(self.home.choices, self.home.engines, self.home.standby, Random(f"{self.seed} faults")), 1
        ):
            if clock() + planned.seconds > began + self.seconds:
                return
            fault = await self._break(planned, load)
            self.faults.append(fault)
            self.tell(self._line(number, fault, clock() - began, load))
            await asyncio.sleep(CALM_S)

    async def _break(self, planned: Planned, load: Load) -> Fault:
        clock = asyncio.get_running_loop().time
        processes = await self.home.processes(planned)
        began = clock()
        heals = await self._strike(planned, processes)
        mended = began if heals else clock()
        came = await until(lambda: self.home.back(planned, mended, load), BACK_S)
        back = clock() if came else None
        return Fault(planned.choice, frozenset(planned.servers), began, mended, back)

    async def _strike(self, planned: Planned, processes: Sequence[psutil.Process]) -> bool:
        """Break and mend; whether it mends itself."""
        kind = planned.choice.kind
        if kind is Kind.SLOW:
            await slowly(processes, planned.seconds)
        elif kind is Kind.FREEZE:
            try:
                send(processes, signal.SIGSTOP)
                await asyncio.sleep(planned.seconds)
            finally:
                send(processes, signal.SIGCONT)
        elif kind is Kind.CORRUPT:
            try:
                await self.home.corrupt(planned)
                await asyncio.sleep(planned.seconds)
            finally:
                await self.home.mend(planned)
        else:
            send(processes, signal.SIGKILL)
            if self.home.heals(planned):
                return True
            await asyncio.sleep(planned.seconds)
            await self.home.revive(planned)
        return False

    async def _weigh(self) -> None:
        while True:
            found = await self.home.watched()
            now = asyncio.get_running_loop().time()
            for part, process in found.items():
                with suppress(psutil.Error):
                    weighed = Weighed(now, process.pid, process.memory_info().rss / _MIB)
                    self.memory.setdefault(part, []).append(weighed)
            await asyncio.sleep(WEIGH_S)

    def _line(self, number: int, fault: Fault, at: float, load: Load) -> str:
        back, noticed = recovered(fault), detected(fault, load.asked)
        told = f"back after {back:.1f} s" if back is not None else "NOT back"
        on = f" on {', '.join(sorted(fault.servers))}" if len(fault.servers) == 1 else ""
        what = f"{self.home.name} {at:5.0f} s  {number:3} {fault.choice}{on}"
        return f"{what}: detected {noticed:.1f} s, {told}; {len(load.asked)} asked, {load.failed} failed"


async def _all_answer(load: Load, since: float, home: Home) -> bool:
    return load.answered(since, home.engines)
