"""The operator as a process beside a real API server, and what tests ask about it: its log, probes and metrics."""

import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from prometheus_client.parser import text_string_to_metric_families

from igw_cluster import builds
from igw_cluster.kubectl import Kubectl

START_S: Final = 30.0
STOP_S: Final = 10.0
SOON_S: Final = 30.0
CHARTS: Final = Path(__file__).parents[2] / "charts" / "inference-gateway"
# What the operator creates, and what it reads: `kubectl get` of each.
OWN_KINDS: Final = (
    *("configmap", "serviceaccount", "role", "rolebinding", "service", "endpointslice", "deployment"),
    *("backendtrafficpolicy", "httproutefilter", "clienttrafficpolicy", "envoyextensionpolicy", "httproute"),
)
MANAGED: Final = "app.kubernetes.io/managed-by=inference-gateway"


@dataclass(frozen=True, slots=True)
class Operator:
    """A running operator."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def address(self) -> str:
        """Where its probes are. Waits for the port."""
        found = until(lambda: re.search(r"listening: address=(\S+)", self.text), START_S, "its port")
        return str(found[1])

    @property
    def text(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def page(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def state(self) -> str:
        """What /readyz says."""
        return self.page("/readyz")[1].strip()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series with these labels."""
        families = text_string_to_metric_families(self.page("/metrics")[1])
        samples = [one for family in families for one in family.samples if one.name == name]
        return sum(one.value for one in samples if labels.items() <= one.labels.items())

    def writes(self) -> float:
        """Writes to the API server so far, whatever came of them."""
        return self.metric("igw_operator_api_writes_total")

    def passes(self) -> float:
        """Reconciliations so far."""
        return self.metric("igw_operator_reconciles_total")

    def serving(self) -> "Operator":
        """Wait until it has done its first pass."""
        until(lambda: self.state() == "serving", START_S, "serving", lambda: self.text)
        return self

    def idle(self) -> "Operator":
        """Wait until it writes nothing any more."""
        counts = [-2.0, -1.0]

        def still() -> bool:
            counts.append(self.writes() + self.passes())
            return counts[-1] == counts[-2] == counts[-3] and self.state() == "serving"

        until(still, START_S, "idle", lambda: self.text, every=0.7)
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it. Returns the exit code."""
        self.process.send_signal(how)
        return self.process.wait(STOP_S)


def until(
    ask: Callable[[], Any],
    within: float,
    what: str,
    more: Callable[[], str] = lambda: "",
    every: float = 0.1,
) -> Any:
    """Poll until the answer is true, and return it."""
    deadline = time.monotonic() + within
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}\n{more()}"
        time.sleep(every)
    return answer


@contextmanager
def running_operator(
    kubeconfig: Path, folder: Path, name: str = "operator", *, wait: float = 0, **settings: Any
) -> Iterator[Operator]:
    """`igw operator` with these settings for its section `operator`.

    `wait`: seconds for a listener's first picker; without a node none ever comes.
    """
    config, log = folder / f"{name}.yaml", folder / f"{name}.log"
    section = {"listen": "127.0.0.1:0", **settings}
    gateway = {"pickerWaitSeconds": wait}
    config.write_text(yaml.safe_dump({"picker": {"image": "igw:test"}, "gateway": gateway, "operator": section}))
    words = ("-m", "igw_operator", "operator", "--config", str(config), "--kubeconfig", str(kubeconfig))
    with log.open("wb") as out, subprocess.Popen([sys.executable, *words], stdout=out, stderr=out) as process:
        try:
            yield Operator(process, log)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()


def install_gateway_kinds(kubectl: Kubectl) -> None:
    """The definitions of the Gateway API, of Envoy Gateway and of kopf's peering; ours are the caller's."""
    for folder in (builds.envoy_gateway_chart() / "charts" / "crds" / "crds", CHARTS / "crds"):
        kubectl.apply(folder, "--recursive")
    kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")


def own_objects(kubectl: Kubectl, namespace: str | None = None) -> dict[tuple[str, str], dict[str, Any]]:
    """All that the operator has created, by kind and name."""
    found = kubectl.list(",".join(OWN_KINDS), namespace, MANAGED)
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def clean(kubectl: Kubectl, namespace: str) -> None:
    """Remove what tests declare and what was created for it, so that the next test's operator has less to do."""
    kinds = "inferencepools.inference.networking.k8s.io,inferencepools.inference.networking.x-k8s.io"
    kubectl("delete", f"{kinds},inferencemodels,inferencepoolpolicies,gateways,httproutes", "--all", "-n", namespace)
    kubectl("delete", ",".join(OWN_KINDS), "-n", namespace, "-l", MANAGED, "--ignore-not-found")
