"""What this machine gives Envoy: open files and memory. Called by `configuration`, once."""

import os
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# Where nobody limits open files, this many are enough.
_MOST_FILES: Final = 2**20
# Of control groups, version 2 and 1.
_MEMORY_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def open_files() -> int:
    """How many files and sockets each of our children may have open: from now on as many as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if most == resource.RLIM_INFINITY else most
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    return wanted


def memory(limits: Iterable[Path] = _MEMORY_LIMITS) -> int:
    """Bytes that there are for all of us: the machine's, or the control group's where that has fewer."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in limits:
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):  # there is no such group, or it says `max`
            continue
    return min(found)
