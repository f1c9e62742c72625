"""What the picker's CPU comes to for a request through Envoy Gateway, with and without the patch policy, as a ratio to
Envoy's for the same requests. Measured as `make bench-picker` does it without Kubernetes: four stub engines, the same
bodies, 16 connections, a closed loop. CPU seconds are those of the two processes.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import psutil

from igw_bench.picker import PAGE, SIZES
from igw_cluster import gateway
from igw_testing import operator_manifests as manifests
from igw_testing.bench_cluster.figures import tell
from igw_testing.bench_cluster.operators import cpu_seconds, process_of
from igw_testing.product import CHART, IMAGE, ROOT, SYSTEM, Product, Space, manifest

GATEWAY: Final = manifests.GATEWAY
PORT: Final = 8081
ENGINES: Final = 4
BODIES: Final = ("1k", "20k")
TRIES: Final = 3
SECONDS: Final = 5.0
WARM_S: Final = 1.0
_WITHIN: Final = 60.0
_PYTHONPATH: Final = {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'tests' / 'cluster'}"}
_ADMIN: Final = "http://127.0.0.1:19000/config_dump?resource=dynamic_listeners"
_READ: Final = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode())"


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds a request."""

    picker: float
    envoy: float

    @property
    def ratio(self) -> float:
        """Which the machine's speed cancels out of."""
        return self.picker / self.envoy


def prepare(product: Product) -> Space:
    """A Gateway, four stubs and a pool of them, of which Envoy asks the picker."""
    space = product.space()
    pool = manifests.pool("stub", PORT, picker="stub-picker")
    space.apply(manifests.gateway(ports=(PORT,)), _stubs(), pool)
    space.ready("stub")
    return space


def measure(product: Product, space: Space) -> Mapping[str, list[Cost]]:
    """By name of the case: the body's size, and `_patched` with the policy."""
    found: dict[str, list[Cost]] = {}
    for suffix in ("", "_patched"):
        if suffix:
            _patch(product, space, True)
        picker = space.picker(GATEWAY, f"p{PORT}")
        picker.until_ready()
        _until_all_are_placed(product, space)
        for size in BODIES:
            found[f"{size}{suffix}"] = [_cost(product, space, SIZES[size]) for _ in range(TRIES)]
            told = ", ".join(
                f"{one.ratio:.2f} ({one.picker:.0f} / {one.envoy:.0f} us)" for one in found[f"{size}{suffix}"]
            )
            tell(f"picker's CPU / Envoy's, {size} bodies, {'with' if suffix else 'without'} the patch policy: {told}")
    _patch(product, space, False)
    return found


def _stubs() -> str:
    command = [sys.executable, "-m", "igw_testing.bench_cluster.engine", "8000", str(PAGE)]
    container = {
        "name": "engine",
        "image": IMAGE,
        "command": command,
        "env": [{"name": name, "value": value} for name, value in _PYTHONPATH.items()],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8000}, "periodSeconds": 1},
    }
    labels = {"app": "stub"}
    # It does not listen to signals.
    pod = {"terminationGracePeriodSeconds": 1, "containers": [container]}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": ENGINES, "selector": {"matchLabels": labels}, "template": template}
    return manifest("apps/v1", "Deployment", "stub", spec)


def _cost(product: Product, space: Space, size: int) -> Cost:
    """Raises RuntimeError if not every request was answered well and placed."""
    picker, envoy = _processes(product, space)
    _post(product, space, size, WARM_S)
    placed = space.picker(GATEWAY, f"p{PORT}").placed()
    before = [cpu_seconds(one) for one in (picker, envoy)]
    count, failures = _post(product, space, size, SECONDS)
    used = [cpu_seconds(one) - old for one, old in zip((picker, envoy), before, strict=True)]
    placed = space.picker(GATEWAY, f"p{PORT}").placed() - placed
    if failures or placed < count:
        raise RuntimeError(f"{failures} of {count} requests failed, {placed:.0f} were placed")
    return Cost(*(one / count * 1e6 for one in used))


def _post(product: Product, space: Space, size: int, seconds: float) -> tuple[int, int]:
    """From the node to the ClusterIP of Envoy's Service: requests answered, and how many of them badly."""
    command = [sys.executable, "-m", "igw_testing.bench_cluster.poster", _address(space), PORT, size, seconds]
    words = ["env", *(f"{name}={value}" for name, value in _PYTHONPATH.items()), *map(str, command)]
    count, failures = map(int, product.cluster.machine.run(words).split())
    return count, failures


def _address(space: Space) -> str:
    labels = f"gateway.envoyproxy.io/owning-gateway-namespace={space.name}"
    found: Any = space.cluster.kubectl.list("services", gateway.NAMESPACE, labels)
    return str(found[0]["spec"]["clusterIP"])


def _processes(product: Product, space: Space) -> tuple[psutil.Process, psutil.Process]:
    """The picker's and Envoy's."""
    pod = space.picker(GATEWAY, f"p{PORT}").pods()[0]["metadata"]["name"]
    labels = f"gateway.envoyproxy.io/owning-gateway-namespace={space.name}"
    proxy = product.cluster.kubectl.list("pods", gateway.NAMESPACE, labels)[0]["metadata"]["name"]
    return process_of(pod, "picker"), process_of(proxy, "--service-node", proxy)


def _until_all_are_placed(product: Product, space: Space) -> None:
    def so() -> bool:
        placed = space.picker(GATEWAY, f"p{PORT}").placed()
        try:
            count, _ = _post(product, space, 1_000, 0.1)
        except subprocess.CalledProcessError:
            return False  # Envoy does not listen yet
        return 0 < count <= space.picker(GATEWAY, f"p{PORT}").placed() - placed

    product.cluster.kubectl.until(so, _WITHIN + 30, "the picker places every request")


def _patch(product: Product, space: Space, wanted: bool) -> None:
    """Switch the policy, and wait until Envoy itself says so."""
    chosen = {"gateway": {"patchPolicies": wanted}}
    product.helm("upgrade", "igw", str(CHART), "--namespace", SYSTEM, "--wait", "--timeout=90s", values=chosen)
    envoy = _processes(product, space)[1]

    def so() -> bool:
        words = ["nsenter", f"--target={envoy.pid}", "--net", sys.executable, "-c", _READ, _ADMIN]
        return ("forward_rules" in subprocess.check_output(words, text=True, timeout=20)) is wanted

    product.cluster.kubectl.until(so, _WITHIN, f"Envoy {'has' if wanted else 'has no'} patch")
