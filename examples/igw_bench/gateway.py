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
from urllib.request import urlopen

import psutil

_METRICS = re.compile(r"metrics (http://\S+/metrics)")
_READY = re.compile(r"igw up ready listener=\S+ port=(\d+) address=[\d.]+:(\d+)")


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway: where each of its Gateway's ports really is, and its two processes."""

    ports: dict[int, int]
    envoy: psutil.Process
    picker: psutil.Process
    metrics: str  # the picker's page

    def placed(self) -> float:
        """How many requests the picker has placed so far."""
        with urlopen(self.metrics, timeout=10) as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("igw_picker_placed_total{"))


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
    seen: list[str] = []
    ports: dict[int, int] = {}
    metrics = ""
    until = monotonic() + 30
    while len(ports) < listeners:
        line = process.stdout.readline().decode()
        seen.append(line)
        told = _METRICS.search(line)
        metrics = told[1] if told else metrics
        found = _READY.search(line)
        if found:
            ports[int(found[1])] = int(found[2])
        if not line or monotonic() > until:
            raise RuntimeError("igw up did not come up:\n" + "".join(seen))
    children = {child.name(): child for child in psutil.Process(process.pid).children()}
    picker = next(child for name, child in children.items() if name.startswith("python"))
    sleep(1.5)  # two rounds of health checks and scrapes, so that the picker is in use
    return Gateway(ports, children["envoy"], picker, metrics)
