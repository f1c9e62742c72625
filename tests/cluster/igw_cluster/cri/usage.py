"""What containers use, counted from /proc: enough for the kubelet's summary, without cgroups."""

import os
from collections import defaultdict
from dataclasses import dataclass

from igw_cluster.cri.process import stat_fields

# Positions in /proc/PID/stat after the command: user and system time in clock ticks, resident pages.
_USER, _SYSTEM, _RESIDENT = 11, 12, 21
_NANOSECONDS_A_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time of the processes that run now, and resident memory in bytes, shared pages counted for each."""

    cpu_ns: int = 0
    memory: int = 0
    processes: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.cpu_ns + other.cpu_ns, self.memory + other.memory, self.processes + other.processes)


def by_namespace() -> dict[int, Usage]:
    """The use of each PID namespace, by its inode."""
    found: defaultdict[int, Usage] = defaultdict(Usage)
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                found[namespace(int(entry.name))] += of_process(int(entry.name))
            except OSError:
                continue
    return found


def namespace(pid: int) -> int:
    """The inode of a process's PID namespace; OSError if it has ended."""
    return os.stat(f"/proc/{pid}/ns/pid").st_ino


def of_process(pid: int) -> Usage:
    """One process's use; OSError if it has ended."""
    fields = stat_fields(pid)
    ticks = int(fields[_USER]) + int(fields[_SYSTEM])
    return Usage(ticks * _NANOSECONDS_A_TICK, int(fields[_RESIDENT]) * _PAGE, 1)
