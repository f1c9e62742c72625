"""One child process kept running: started, watched, restarted with growing pauses, stopped with us.

Used by `standalone` for Envoy and the picker. Knows neither; a `Child` is a command and a way to ask if it is ready.
"""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

STOP_TIMEOUT = 5.0
READY_POLL = 0.05
MAX_PAUSE = 5.0
STEADY = 10.0  # having run this long, a process has earned an immediate restart
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class DiedAtStart(Exception):
    """A child ended, or did not get ready in time, when it was started first."""


def _die_with_parent() -> None:
    """Runs in the child before exec: it must not outlive a parent that was killed."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(slots=True)
class Child:
    """A command that shall run. `say` gets one line per event; `log` gets what the process prints."""

    name: str
    command: tuple[str, ...]
    log: Path
    is_ready: Callable[[], Awaitable[bool]]
    say: Callable[[str], None]
    process: asyncio.subprocess.Process | None = field(default=None, init=False)
    _started: float = field(default=0.0, init=False)

    async def start(self, timeout: float) -> None:  # noqa: ASYNC109 - the caller's budget, also named in the error
        """Start it and wait until it is ready. Raises DiedAtStart."""
        await self._spawn()
        if not await self._wait_ready(timeout):
            await self.stop()
            raise DiedAtStart(f"{self.name} did not start: {self.last_words()} (see {self.log})")

    async def keep_running(self) -> None:
        """Restart the process whenever it ends, until cancelled."""
        pause = 0.0
        while True:
            code = await self._ended()
            lived = asyncio.get_running_loop().time() - self._started
            pause = 0.0 if lived >= STEADY else pause
            self.say(f"{self.name} ended ({_reason(code)}); restarting" + (f" in {pause:.1f}s" if pause else ""))
            await asyncio.sleep(pause)
            pause = min(max(0.2, pause * 2), MAX_PAUSE)
            await self._spawn()
            if await self._wait_ready(MAX_PAUSE):
                self.say(f"{self.name} is back")

    async def stop(self) -> None:
        """Ask it to end, then make it end."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def last_words(self) -> str:
        """The last line that it printed."""
        try:
            lines = self.log.read_bytes()[-4096:].decode(errors="replace").splitlines()
        except OSError:
            lines = []
        return lines[-1].strip() if lines else "it printed nothing"

    async def _spawn(self) -> None:
        self._started = asyncio.get_running_loop().time()
        # Its own process group: Ctrl-C in the terminal is for us, and we drain before we stop it.
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                process_group=0,
                preexec_fn=_die_with_parent,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    async def _ended(self) -> int:
        assert self.process is not None, "start() comes first"
        return await self.process.wait()

    async def _wait_ready(self, limit: float) -> bool:
        """False: it ended or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while self.process is not None and self.process.returncode is None:
                    if await self.is_ready():
                        return True
                    await asyncio.sleep(READY_POLL)
        return False


def _reason(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
