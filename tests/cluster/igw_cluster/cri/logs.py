"""The log file of a container, as the kubelet reads it: `time stream tag text`, tag `P` for a part of a long line.

A line's text is at most 16 KiB, as in containerd. Written by the container's launcher.
"""

import os
import time
from datetime import UTC, datetime

LONGEST = 16 * 1024


def stamp(nanoseconds: int) -> str:
    """A time of the system clock in UTC with nine digits of a second."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def entries(stream: str, pending: bytes, now: int) -> tuple[list[bytes], bytes]:
    """The log lines for the bytes of a stream, and the unfinished line that is left of them."""
    made = []
    prefix = f"{stamp(now)} {stream} ".encode()
    *lines, rest = pending.split(b"\n")
    for line in lines:
        cut = range(0, max(len(line), 1), LONGEST)
        made += [prefix + (b"F " if at == cut[-1] else b"P ") + line[at : at + LONGEST] + b"\n" for at in cut]
    while len(rest) >= LONGEST:
        made.append(prefix + b"P " + rest[:LONGEST] + b"\n")
        rest = rest[LONGEST:]
    return made, rest


class Log:
    """Appends to the file; the kubelet may rename it and ask to `reopen`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._pending = {"stdout": b"", "stderr": b""}
        self._file = -1
        self.reopen()

    def reopen(self) -> None:
        """Goes on in a new file of the same name, if the old one was renamed."""
        opened = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        if self._file >= 0:
            os.close(self._file)
        self._file = opened

    def write(self, stream: str, data: bytes) -> None:
        """More of what a stream said."""
        made, self._pending[stream] = entries(stream, self._pending[stream] + data, time.time_ns())
        self._append(made)

    def end(self, stream: str) -> None:
        """The stream is closed: an unfinished line counts as a line."""
        if self._pending[stream]:
            self.write(stream, b"\n")

    def _append(self, made: list[bytes]) -> None:
        data = b"".join(made)
        while data:
            data = data[os.write(self._file, data) :]
