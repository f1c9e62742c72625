"""Child processes of the cluster: started with a log file, watched while they get ready, stopped in time."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.05
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)


class StartFailed(Exception):
    """A part of the cluster ended, or did not get ready in time. Has its last words and where its log lies."""


@dataclass(frozen=True, slots=True)
class Process:
    """A child process and the file that gets what it prints."""

    name: str
    popen: "subprocess.Popen[bytes]"
    log: Path

    def wait_ready(self, is_ready: Callable[[], bool], within: float) -> None:
        """Poll until `is_ready`. Raises StartFailed when the process ends before, or after `within` seconds."""
        deadline = time.monotonic() + within
        while not is_ready():
            if (code := self.popen.poll()) is not None:
                raise StartFailed(f"{self.name} ended with code {code}: {self.last_words()} (see {self.log})")
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"{self.name} is not ready after {within:.0f} s: {self.last_words()} (see {self.log})"
                )
            time.sleep(_POLL_S)

    def last_words(self) -> str:
        """The last line that it printed."""
        with suppress(OSError):
            lines = self.log.read_bytes()[-4096:].decode(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
        return "it printed nothing"

    def stop(self, within: float = 5.0) -> None:
        """Ask it to end, then make it end."""
        if self.popen.poll() is not None:
            return
        self.popen.terminate()
        try:
            self.popen.wait(within)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


def start(
    name: str,
    command: Sequence[str | Path],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    outlives_us: bool = False,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Start a process in a session of its own. Unless `outlives_us`, the kernel kills it when the starting thread
    ends, so that nothing is left over after a SIGKILL."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        popen = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
            preexec_fn=None if outlives_us else _die_with_parent,  # noqa: PLW1509 - one call to the kernel, no lock
            env=dict(os.environ) | dict(environment or {}),
        )
    return Process(name, popen, log)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
