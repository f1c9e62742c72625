"""The operator's replicas from outside: the one that is active, its metrics, and the memory of both."""

import os
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Final

import psutil
from prometheus_client.parser import text_string_to_metric_families

from igw_testing.product import OPERATOR, SYSTEM, Product

USER: Final = f"system:serviceaccount:{SYSTEM}:{OPERATOR}"
_START_S: Final = 60.0
_QUIET_S: Final = 2.0


@dataclass(slots=True)
class Operators:
    """The operators of a product."""

    product: Product
    _ports: dict[str, int] = field(default_factory=dict)

    def active(self) -> str:
        """The Pod that writes. Waits for one."""
        found: list[str] = []

        def leads() -> bool:
            found[:] = [name for name, port in self._found().items() if _metric(port, "igw_operator_active") == 1]
            return len(found) == 1

        self.product.cluster.kubectl.until(leads, _START_S, "one operator is active")
        return found[0]

    def metric(self, name: str) -> float:
        """The sum of a metric's series, of the active one."""
        return _metric(self._ports[self.active()], name)

    def idle(self, within: float) -> None:
        """Wait until it has done no pass for two seconds. Raises TimeoutError."""
        name = self.active()
        port = self._ports[name]
        deadline, last, since = time.monotonic() + within, -1.0, time.monotonic()
        passes = last
        while time.monotonic() - since < _QUIET_S:
            if time.monotonic() > deadline:
                said = self.product.cluster.kubectl("logs", name, "-n", SYSTEM, "--tail=20")
                raise TimeoutError(f"{name} is not idle after {within:.0f} s, {passes:.0f} passes:\n{said}")
            time.sleep(0.2)
            passes = _metric(port, "igw_operator_reconciles_total")
            if passes != last:
                last, since = passes, time.monotonic()

    def process(self) -> psutil.Process:
        """The active one's."""
        return process_of(self.active(), "operator")

    def memory(self) -> dict[str, float]:
        """Resident memory of each Pod's process in MiB, the active one first."""
        names = sorted(self._found(), key=lambda name: name != self.active())
        return {name: process_of(name, "operator").memory_info().rss / 2**20 for name in names}

    def _found(self) -> dict[str, int]:
        cluster = self.product.cluster
        pods = [
            pod
            for pod in cluster.kubectl.list("pods", SYSTEM)
            if pod["metadata"]["name"].startswith(OPERATOR) and "deletionTimestamp" not in pod["metadata"]
        ]
        for pod in pods:
            name, address = pod["metadata"]["name"], pod["status"].get("podIP")
            if name not in self._ports and address:
                self._ports[name] = cluster.machine.forward(address, 8080)
        return {name: self._ports[name] for pod in pods if (name := pod["metadata"]["name"]) in self._ports}


def process_of(pod: str, *words: str) -> psutil.Process:
    """The process of a Pod of ours whose command has these words. Raises LookupError."""
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if set(words) <= set(process.cmdline()) and process.environ().get("HOSTNAME") == pod:
                return process
        except psutil.Error:
            continue  # it has ended
    raise LookupError(f"no process `{' '.join(words)}` of {pod}")


def running(program: str) -> psutil.Process:
    """A program of the node that runs once. Raises LookupError."""
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if process.cmdline() and os.path.basename(process.cmdline()[0]).startswith(program):
                return process
        except psutil.Error:
            continue
    raise LookupError(f"no process {program}")


def cpu_seconds(process: psutil.Process) -> float:
    """What it has used so far, in user and kernel mode."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _metric(port: int, name: str) -> float:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            families = text_string_to_metric_families(page.read().decode())
    except OSError:
        return 0.0
    return sum(one.value for family in families for one in family.samples if one.name == name)
