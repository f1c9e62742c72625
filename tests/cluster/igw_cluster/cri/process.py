"""Processes known by PID and start time, so that a number given to another process later is never signalled.

Used by the runtime for processes that are not its children: it may have been restarted since they began.
"""

import os
import select
import signal
from dataclasses import dataclass

# What /proc/PID/stat says, counted after the command's closing bracket.
_STATE = 0
_START_TICKS = 19
_KILL_S = 10.0


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; OSError if there is no such process."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def described(pid: int) -> dict[str, int]:
    """`Process.of(pid)` for JSON."""
    found = Process.of(pid)
    return {"pid": found.pid, "started": found.started}


def own() -> dict[str, int]:
    """This process, for JSON."""
    return described(os.getpid())


@dataclass(frozen=True, slots=True)
class Process:
    """`started`: clock ticks since boot, which with the PID names a process for good."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The process that has the PID now; OSError if none has."""
        return cls(pid, int(stat_fields(pid)[_START_TICKS]))

    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        try:
            fields = stat_fields(self.pid)
        except OSError:
            return False
        return int(fields[_START_TICKS]) == self.started and fields[_STATE] not in "ZX"

    def send(self, number: int) -> None:
        """Signals it, unless it has ended."""
        descriptor = self._open()
        if descriptor is None:
            return
        try:
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)

    def kill(self) -> None:
        """Ends it and waits until it has ended; raises TimeoutError for one that the kernel does not let go."""
        self.send(signal.SIGKILL)
        if not self.wait(_KILL_S):
            raise TimeoutError(f"process {self.pid} does not end")

    def wait(self, timeout: float) -> bool:
        """Whether it has ended within `timeout` seconds."""
        descriptor = self._open()
        if descriptor is None:
            return True
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(timeout * 1000))
        finally:
            os.close(descriptor)

    def _open(self) -> int | None:
        """Checked after opening: from then on the descriptor means this process and no other."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return None
        if self.alive():
            return descriptor
        os.close(descriptor)
        return None
