"""How far a campaign is: a live bar on a terminal, plain lines elsewhere, a line for each run. Called by `campaign`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from igw_bench.command.loops import Tally
from igw_bench.command.samples import Run
from igw_bench.numbers import mean, percentile

_REFRESH_S = 0.25
# Lines of one load where there is no terminal.
_LINES = 10
_COLUMNS = (
    TextColumn("{task.description:24}"),
    BarColumn(20),
    TextColumn("{task.fields[told]}"),
    TimeElapsedColumn(),
)


class Progress:
    """Tells it to `console`, which should be standard error: standard output is for the result."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ended = 0

    def says(self, line: str) -> None:
        """One line."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def ended(self, run: Run, cells: int) -> None:
        """A run is over."""
        self._ended += 1
        ttft = [one.ttft for one in run.samples if one.ttft is not None]
        times = f"TTFT mean {mean(ttft):.3f} s, P99 {percentile(ttft, 0.99):.2f} s" if ttft else "no answers"
        self.says(
            f"{self._ended:3}/{cells} {run.policy:16} seed {run.seed}  {len(run.samples)} requests, {times} "
            f"(took {run.seconds:.1f} s)"
        )

    @asynccontextmanager
    async def shown(self, name: str, tally: Tally) -> AsyncIterator[None]:
        """Show `tally` while the block runs."""
        follow = self._bar if self._console.is_terminal and not self._console.is_dumb_terminal else self._lines
        async with asyncio.TaskGroup() as group:
            following = group.create_task(follow(name, tally))
            try:
                yield
            finally:
                following.cancel()

    async def _bar(self, name: str, tally: Tally) -> None:
        # Our own loop draws it: no thread beside the one that measures.
        with Bar(*_COLUMNS, console=self._console, auto_refresh=False, transient=True) as bar:
            task = bar.add_task(name, total=1.0, told="")
            while True:
                bar.update(task, completed=share(tally), told=told(tally), refresh=True)
                await asyncio.sleep(_REFRESH_S)

    async def _lines(self, name: str, tally: Tally) -> None:
        last = 0
        while True:
            step = int(share(tally) * _LINES)
            if last < step < _LINES:
                last = step
                self.says(f"{name}  {told(tally)}")
            await asyncio.sleep(_REFRESH_S)


def share(tally: Tally) -> float:
    """How much of the load is over, 0 to 1, by what will end it first."""
    by_time = tally.elapsed / tally.until if tally.until > 0 else 0.0
    return min(1.0, max(by_time, tally.done / tally.total))


def told(tally: Tally) -> str:
    """The state in a few words."""
    return f"{tally.done}/{tally.total}  in flight {tally.in_flight}  failed {tally.failed}"
