"""The demo's own processes: started in the background, followed through what they print, stopped without remains.

Each prints into a file of its own, so that nothing blocks on a full pipe and the last words are at hand. Used by
`demo` and `scene`.
"""

import asyncio
import ctypes
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

POLL_S = 0.05
STOP_S = 8.0  # `igw up` stops Envoy and the picker first
LAST_LINES = 5
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class NotStarted(Exception):
    """A process ended, or did not say what it was to say. The text has its last lines."""


def _before_exec() -> None:
    """Runs in the child: Ctrl-C in the terminal must not reach it, and it must not outlive a parent that was killed."""
    os.setpgid(0, 0)
    die_with_parent()


def die_with_parent() -> None:
    """In a child: end when its parent does, however that ends."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(slots=True)
class Child:
    """A Python module that runs in a process of its own. `log` gets all that it prints."""

    name: str
    words: Sequence[str]
    log: Path
    _process: asyncio.subprocess.Process | None = field(default=None, init=False)

    async def start(self) -> None:
        """Start it. Ctrl-C in the terminal does not reach it: we stop it ourselves, in order."""
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *self.words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                preexec_fn=_before_exec,  # uvloop has no process_group
                env=os.environ | {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
            )

    @property
    def pid(self) -> int:
        """Its number. It must have been started."""
        assert self._process is not None, "start() comes first"
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it was started and runs no more."""
        return self._process is not None and self._process.returncode is not None

    def says(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        """Every place of `pattern` in what it has printed so far."""
        try:
            return list(pattern.finditer(self.log.read_text(errors="replace")))
        except FileNotFoundError:
            return []

    async def wait_for(self, pattern: re.Pattern[str], count: int, seconds: float) -> list[re.Match[str]]:
        """The first `count` places, once they are printed. Raises NotStarted."""
        await self.wait_until(lambda: _done(len(self.says(pattern)) >= count), seconds, "did not start")
        return self.says(pattern)[:count]

    async def wait_until(self, holds: Callable[[], Awaitable[bool]], seconds: float, failure: str) -> None:
        """Wait while it runs. Raises NotStarted, with `failure`, when it ends or after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.ended:
                    if await holds():
                        return
                    await asyncio.sleep(POLL_S)
        why = "it ended" if self.ended else f"not within {seconds:g} s"
        raise NotStarted(f"{self.name} {failure}: {why}\n{self.last_lines()}")

    def last_lines(self) -> str:
        """What it printed last, indented."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        except FileNotFoundError:
            lines = []
        return "\n".join(f"  {line}" for line in lines) or "  it printed nothing"

    async def stop(self) -> None:
        """Ask it to end, then make it end."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _done(value: bool) -> bool:
    return value


async def stop_all(children: Sequence[Child]) -> None:
    """Stop the last started first: the gateway before the engines that it leads to."""
    for child in reversed(children):
        await child.stop()
