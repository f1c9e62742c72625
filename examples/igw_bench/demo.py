"""`igw demo` (`make demo`): the whole product in one terminal, with load, and a table that compares two policies.

Starts simulated engines, the picker and a real Envoy from an example folder, sends the same chat requests under round
robin and under the folder's policy, and stays up for the reader to try. Here: the command line, signals and the end.
The rest: `story` (what happens), `scene` (what runs), `load` (what is asked), `report` (what came of it).

Exit codes: 0 all answered, 1 some requests not, 2 something did not start, 130 Ctrl-C before the comparison was done.
"""

import asyncio
import signal
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from igw_bench.scene import ENGINES, BadScene, Engine, Scene, Simulation
from igw_bench.story import EXIT_NOT_STARTED, Options, Story

EXAMPLE = Path(__file__).resolve().parents[1] / "demo"


class _Output(Console):
    """Standard output. When nobody reads it any more, the demo ends as if its terminal were closed."""

    def on_broken_pipe(self) -> None:
        try:
            super().on_broken_pipe()  # nothing is written from here on
        except SystemExit:
            signal.raise_signal(signal.SIGHUP)


def main() -> None:
    """The entry point of `igw demo`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name="demo")(_command)
    try:
        app()
    except KeyboardInterrupt:  # before our own handler was in place
        sys.exit(128 + signal.SIGINT)


def _command(
    once: Annotated[bool, typer.Option("--once", help="End after the load instead of staying up.")] = False,
    requests: Annotated[int, typer.Option(min=1, help="Requests under each policy.")] = 480,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 56,
    time_scale: Annotated[float, typer.Option(min=0.01, help="How many times faster the engines are.")] = 2.0,
    manifests: Annotated[Path, typer.Option("-f", "--manifests", help="The example folder.")] = EXAMPLE,
    any_ports: Annotated[bool, typer.Option("--any-ports", help="Do not try the manifests' own ports.")] = False,
    fail: Annotated[
        list[str] | None,
        typer.Option(help="Break an engine: NAME:FAILURE, as vllm-2:error_share=0.5 (see igw sim). Repeatable."),
    ] = None,
) -> None:
    """Simulated engines, the picker and a real Envoy, with load and a comparison of two placement policies."""
    console = _Output(highlight=False)
    options = Options(once, requests, concurrency, any_ports, Simulation(time_scale=time_scale))
    try:
        engines = broken(ENGINES, fail or ())
    except BadScene as error:
        console.print(f"igw demo: {error}", markup=False)
        sys.exit(EXIT_NOT_STARTED)
    sys.exit(asyncio.run(_until_signal(options, console, manifests, engines)))


def broken(engines: Sequence[Engine], faults: Sequence[str]) -> list[Engine]:
    """The engines with `NAME:FAILURE` applied. Raises BadScene."""
    by_name = {engine.name: engine for engine in engines}
    for fault in faults:
        name, colon, what = fault.partition(":")
        if not colon or name not in by_name:
            raise BadScene(f"--fail {fault}: must be NAME:FAILURE, with a name of {', '.join(by_name)}")
        by_name[name] = replace(by_name[name], faults=(*by_name[name].faults, what))
    return list(by_name.values())


async def _until_signal(options: Options, console: Console, manifests: Path, engines: Sequence[Engine]) -> int:
    """The demo, ended by itself or by a signal. Nothing is left running. Returns the exit code."""
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    numbers: list[int] = []

    def caught(number: int) -> None:
        numbers.append(number)
        signalled.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, caught, number)
    with tempfile.TemporaryDirectory(prefix="igw-demo-") as directory:
        story = Story(options, console, Scene(Path(directory), manifests, engines))
        try:
            ended = await _first(story.run(), signalled)
        finally:
            # Out of reach of the signals: a second Ctrl-C must not leave half of it running.
            await story.scene.stop()
    if ended is not None:
        return ended
    console.print("stopped")
    return story.exit_code if story.finished else 128 + numbers[0]


async def _first(story: Coroutine[Any, Any, int], signalled: asyncio.Event) -> int | None:
    """What the story returns, or None if the signal came first; it is cancelled then."""
    async with asyncio.TaskGroup() as group:
        telling = group.create_task(story)
        waiting = group.create_task(signalled.wait())
        await asyncio.wait((telling, waiting), return_when=asyncio.FIRST_COMPLETED)
        telling.cancel()
        waiting.cancel()
    return None if telling.cancelled() else telling.result()
