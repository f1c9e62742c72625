"""A cluster of one node in a private machine: boots every part in order, and hands out ways to reach it.

Two ways to have one: `running_cluster` for as long as a block lasts (tests), and `boot` with `outlives_us` for one
that stays until it is stopped. The container runtime is the caller's. Without one there is no kubelet: the node is
then an object that nobody serves, so Pods stay Pending, and all else is real: controllers, the scheduler, Services by
nftables, names.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from igw_cluster import apiserver, builds, credentials, node, private, toolchain
from igw_cluster.apiserver import ApiServer
from igw_cluster.credentials import ADMIN, Credentials
from igw_cluster.kubectl import Kubectl
from igw_cluster.node import Command
from igw_cluster.private import NODE_IP, Machine
from igw_cluster.processes import Process
from igw_cluster.toolchain import Say

_PROGRAMS: Final = (
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "coredns"),
)
_CONTROLLERS: Final = ("kube-controller-manager", "kube-scheduler")
_API_PORT: Final = 6443
_ETCD: Final = "http://127.0.0.1:2379"
_KUBERNETES_IP: Final = "10.96.0.1"
_INSIDE: Final = f"https://{NODE_IP}:{_API_PORT}"
# In the machine's own /run, because the path of a socket must be short.
_RUNTIME: Final = Path("/run/cri.sock")
_START_S: Final = 60.0  # each part takes a few seconds, but the machine may be busy
_STATE: Final = "cluster.json"
_ASK: Final = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)"
_OPEN: Final = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"

# The socket to serve the CRI on and a folder for its state -> the words that start the runtime inside the machine.
RuntimeCommand = Callable[[Path, Path], Command]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster. `folder` has its `logs/` and `credentials/`."""

    machine: Machine
    server: ApiServer
    folder: Path

    @property
    def kubectl(self) -> Kubectl:
        """As the administrator, from outside."""
        return self.server.kubectl

    def forward(self, namespace: str, service: str, port: int) -> int:
        """A loopback port that leads to a port of a Service, until the cluster ends. Raises KubectlFailed."""
        address: str = self.kubectl.get("service", service, namespace)["spec"]["clusterIP"]
        return self.machine.forward(address, port)

    def stop(self) -> None:
        """End everything in it. Its folder stays."""
        self.machine.stop()


@contextmanager
def running_cluster(folder: Path, runtime: RuntimeCommand | None, say: Say = print) -> Iterator[Cluster]:
    """A cluster that ends with the block, and with the thread that entered it. Raises as `boot` does."""
    cluster = boot(folder, runtime, say)
    try:
        yield cluster
    finally:
        cluster.stop()


def boot(folder: Path, runtime: RuntimeCommand | None, say: Say = print, *, outlives_us: bool = False) -> Cluster:
    """Build what is missing, start all parts, and return when they are ready. `folder` must be new or empty.

    Raises StartFailed, BuildFailed, Missing, TimeoutError, KubectlFailed; nothing runs then.
    """
    programs = builds.ensure(_PROGRAMS, say)
    toolchain.debian("nft", "nftables", say)  # kube-proxy runs it
    machine = private.start(outlives_us)
    try:
        starter = _Boot(machine, folder, programs, say)
        cluster = starter.control_plane()
        starter.node(cluster, runtime)
        starter.services(cluster)
        _write_state(cluster)
    except BaseException:
        machine.stop()
        raise
    return cluster


def find(folder: Path) -> Cluster | None:
    """The cluster that was booted in `folder` and still runs."""
    try:
        state: dict[str, Any] = json.loads((folder / _STATE).read_text())
    except FileNotFoundError:
        return None
    machine = Machine(state["pid"], state["holder"])
    if not machine.alive():
        return None
    made = Credentials(folder / "credentials", {})
    server = ApiServer(state["url"], made["admin.kubeconfig"], made, folder / "audit.log")
    return Cluster(machine, server, folder)


def _write_state(cluster: Cluster) -> None:
    state = {"pid": cluster.machine.pid, "holder": cluster.machine.holder, "url": cluster.server.url}
    (cluster.folder / _STATE).write_text(json.dumps(state) + "\n")


@dataclass(frozen=True, slots=True)
class _Boot:
    """The order of things."""

    machine: Machine
    folder: Path
    programs: Mapping[str, Path]
    say: Say

    def control_plane(self) -> Cluster:
        """etcd, the API server and a way in, controllers and the scheduler."""
        names = [*apiserver.NAMES, NODE_IP, _KUBERNETES_IP]
        made = credentials.make(self.folder / "credentials", names)
        self._start("etcd", apiserver.etcd_command(self.folder / "etcd", _ETCD))
        audit = self.folder / "audit.log"
        program = self.programs["kube-apiserver"]
        command = apiserver.api_server_command(program, made, _ETCD, ("0.0.0.0", _API_PORT), NODE_IP, audit)
        process = self._start("kube-apiserver", command)
        url = f"https://127.0.0.1:{self.machine.forward(NODE_IP, _API_PORT)}"
        process.wait_ready(lambda: apiserver.is_ready(url, made), _START_S)
        server = ApiServer(url, made.kubeconfig(ADMIN, url), made, audit)
        self.say(f"the API server is ready: {url}")
        users = {name: made.kubeconfig(f"system:{name}", _INSIDE) for name in _CONTROLLERS}
        self._start(
            "kube-controller-manager",
            node.controller_manager(
                self.programs["kube-controller-manager"],
                users["kube-controller-manager"],
                made["ca.crt"],
                made["accounts.key"],
            ),
        )
        self._start("kube-scheduler", node.scheduler(self.programs["kube-scheduler"], users["kube-scheduler"]))
        return Cluster(self.machine, server, self.folder)

    def node(self, cluster: Cluster, runtime: RuntimeCommand | None) -> None:
        """The runtime and the kubelet, up to a ready node; without a runtime, the object alone."""
        if runtime is None:
            cluster.kubectl.apply(node.node_object())
            cluster.kubectl.apply(node.node_object(), "--subresource=status")
            return
        serving = self._start("cri", runtime(_RUNTIME, self.folder / "cri"), self._python())
        serving.wait_ready(lambda: self._inside(_OPEN, _RUNTIME), _START_S)
        user = cluster.server.credentials.kubeconfig(f"system:node:{node.NODE_NAME}", _INSIDE)
        command = node.kubelet(self.programs["kubelet"], user, self.folder / "kubelet", _RUNTIME)
        self._start("kubelet", command).wait_ready(lambda: _node_is_ready(cluster.kubectl), _START_S)
        self.say("the node is ready")

    def services(self, cluster: Cluster) -> None:
        """Addresses and names of Services, and what a namespace must have before Pods are let in. kube-proxy comes
        after the node: it looks for it at its start, and if there is none, again only half a minute later."""
        kubectl = cluster.kubectl
        user = cluster.server.credentials.kubeconfig("system:kube-proxy", _INSIDE)
        self._start("kube-proxy", node.proxy(self.programs["kube-proxy"], user, self.folder / "kube-proxy"))
        inside = cluster.server.credentials.kubeconfig(ADMIN, _INSIDE, "inside")
        balancer: Command = [sys.executable, "-m", "igw_cluster.loadbalancer", f"--kubeconfig={inside}"]
        self._start("loadbalancer", balancer, self._python())
        names = self._names(cluster)
        names.wait_ready(lambda: self._inside(_ASK, f"http://127.0.0.1:{node.DNS_READY}/ready"), _START_S)
        kubectl.until(self._services_work, _START_S, "kube-proxy serves the API server's Service")
        kubectl.until(lambda: bool(kubectl.get("serviceaccount", "default", "default")), _START_S, "a ServiceAccount")
        self.say("Services and names are ready")

    def _names(self, cluster: Cluster) -> Process:
        kubectl = cluster.kubectl
        kubectl.until(lambda: bool(kubectl.get("namespace", "kube-system")), _START_S, "the namespace kube-system")
        kubectl.apply(node.dns_objects())
        token = kubectl("create", "token", "coredns", "-n", "kube-system", "--duration=24h").strip()
        made = cluster.server.credentials
        config = credentials.write_kubeconfig(made["coredns.kubeconfig"], _INSIDE, made["ca.crt"], token)
        return self._start("coredns", node.dns(self.programs["coredns"], config, self.folder / "coredns"))

    def _services_work(self) -> bool:
        try:
            return _KUBERNETES_IP in self.machine.run(["nft", "list", "table", "ip", "kube-proxy"])
        except subprocess.CalledProcessError:
            return False

    def _inside(self, program: str, argument: str | Path) -> bool:
        """Whether a line of Python ends well inside."""
        try:
            self.machine.run([sys.executable, "-c", program, argument])
        except subprocess.CalledProcessError:
            return False
        return True

    def _python(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(Path(__file__).parents[1])}

    def _start(self, name: str, command: Command, environment: Mapping[str, str] | None = None) -> Process:
        return self.machine.start(name, command, self.folder / "logs" / f"{name}.log", environment)


def _node_is_ready(kubectl: Kubectl) -> bool:
    conditions = [
        condition
        for item in kubectl.list("nodes")
        for condition in item.get("status", {}).get("conditions", ())
        if condition["type"] == "Ready"
    ]
    return bool(conditions) and all(condition["status"] == "True" for condition in conditions)
