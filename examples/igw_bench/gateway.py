"""The product under measurement: `igw up` as a process of its own, with what it prints read back."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import psutil

_READY = re.compile(r"igw up ready listener=\S+ port=(\d+) address=[\d.]+:(\d+)")


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway: where each of its Gateway's ports really is, and its two processes."""

    ports: dict[int, int]
    envoy: psutil.Process
    picker: psutil.Process


@contextmanager
def gateway(manifests: Sequence[Path], options: Sequence[str], listeners: Sequence[int]) -> Iterator[Gateway]:
    """`igw up` over `manifests`, until the block ends. Raises RuntimeError when it does not come up in 30 s."""
    with tempfile.TemporaryDirectory(prefix="igw-bench-") as state:
        command = [sys.executable, "-m", "igw_operator", "up", "--state-dir", state, *options]
        command += [word for path in manifests for word in ("-f", str(path))]
        command += [word for port in listeners for word in ("--listen", f"{port}=0")]
        environment = {**os.environ, "NO_COLOR": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
            try:
                yield _wait(process, len(listeners))
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(30)


def _wait(process: "subprocess.Popen[bytes]", listeners: int) -> Gateway:
    assert process.stdout is not None
    seen, ports, until = [], {}, monotonic() + 30
    while len(ports) < listeners:
        line = process.stdout.readline().decode()
        seen.append(line)
        found = _READY.search(line)
        if found:
            ports[int(found[1])] = int(found[2])
        if not line or monotonic() > until:
            raise RuntimeError("igw up did not come up:\n" + "".join(seen))
    children = {child.name(): child for child in psutil.Process(process.pid).children()}
    picker = next(child for name, child in children.items() if name.startswith("python"))
    sleep(1.5)  # two rounds of health checks and scrapes, so that the picker is in use
    return Gateway(ports, children["envoy"], picker)
