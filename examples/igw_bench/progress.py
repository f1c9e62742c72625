"""How far the demo's load is: a live bar on a terminal, a line for every quarter elsewhere. Called by `demo`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from igw_bench.load import Tally

REFRESH_S = 0.2
_COLUMNS = (
    TextColumn("{task.description:12}"),
    BarColumn(20),
    MofNCompleteColumn(),
    TextColumn("in flight {task.fields[in_flight]:>2}  failed {task.fields[failed]}"),
    TimeElapsedColumn(),
)


@asynccontextmanager
async def shown(console: Console, name: str, tally: Tally) -> AsyncIterator[None]:
    """Show `tally` while the block runs."""
    follow = _bar if console.is_terminal and not console.is_dumb_terminal else _lines
    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow(console, name, tally))
        try:
            yield
        finally:
            following.cancel()


async def _bar(console: Console, name: str, tally: Tally) -> None:
    # Our own loop draws it: no thread, and the last drawing is of the last state.
    with Progress(*_COLUMNS, console=console, auto_refresh=False) as progress:
        bar = progress.add_task(name, total=tally.total, in_flight=0, failed=0)
        try:
            while True:
                _draw(progress, bar, tally)
                await asyncio.sleep(REFRESH_S)
        finally:
            _draw(progress, bar, tally)


def _draw(progress: Progress, bar: TaskID, tally: Tally) -> None:
    progress.update(bar, completed=tally.done, in_flight=tally.in_flight, failed=tally.failed, refresh=True)


async def _lines(console: Console, name: str, tally: Tally) -> None:
    told = 0
    try:
        while True:
            quarter = 4 * tally.done // tally.total
            if told < quarter < 4:
                told = quarter
                console.print(line(name, tally))
            await asyncio.sleep(REFRESH_S)
    finally:
        console.print(line(name, tally))


def line(name: str, tally: Tally) -> str:
    """The state in one line."""
    return f"{name:12} {tally.done}/{tally.total}  in flight {tally.in_flight}  failed {tally.failed}"
