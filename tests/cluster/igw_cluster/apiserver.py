"""etcd and kube-apiserver: the commands that start them, and the two alone for quick tests of what needs no node.

`running_api_server` is for tests of CRDs, RBAC and controllers: real storage, validation, admission, server-side
apply, watches and RBAC, but no controllers (no default ServiceAccounts, no garbage collection, no Pods of a
Deployment; a deleted namespace stays in Terminating) and no node. Everything it starts listens on loopback.
"""

import re
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from igw_cluster import builds, credentials, processes, toolchain
from igw_cluster.credentials import ADMIN, Credentials
from igw_cluster.kubectl import Kubectl
from igw_cluster.processes import Process, StartFailed
from igw_cluster.toolchain import Say

_START_S: Final = 60.0  # usually 5, but the machine may be busy
_TRIES: Final = 3
# What the server says of itself in the `kubernetes` Service. Loopback is refused there, and nobody uses it without a
# node, so it is an address that is reserved for documentation.
_NOWHERE: Final = "192.0.2.1"
_SERVICES: Final = "10.96.0.0/16"
NAMES: Final = (
    *("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"),
    *("kubernetes.default.svc.cluster.local", "127.0.0.1"),
)
_AUDIT_POLICY: Final = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
"""


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A running API server without a node. `audit` gets one JSON line per request (audit.k8s.io/v1 Event, level
    Metadata): who called what, for tests that count."""

    url: str
    kubeconfig: Path
    credentials: Credentials
    audit: Path

    @property
    def kubectl(self) -> Kubectl:
        """As the administrator (group system:masters)."""
        return Kubectl(self.kubeconfig)

    def kubeconfig_of(self, namespace: str, account: str) -> Path:
        """A kubeconfig for a ServiceAccount, which must exist: what its Pods may do, and no more."""
        token = self.kubectl("create", "token", account, "-n", namespace, "--duration=8h").strip()
        place = self.credentials[f"{namespace}-{account}.kubeconfig"]
        return credentials.write_kubeconfig(place, self.url, self.credentials["ca.crt"], token)


@contextmanager
def running_api_server(folder: Path, say: Say = print) -> Iterator[ApiServer]:
    """etcd and kube-apiserver for as long as the context lasts; files and logs in `folder`.

    Builds kube-apiserver first if the cache has none (about five minutes, once). Raises StartFailed, BuildFailed,
    Missing. To be entered in the main thread: the processes end with the thread that started them.
    """
    program = builds.ensure(["kube-apiserver"], say)["kube-apiserver"]
    made = credentials.make(folder / "credentials", NAMES)
    with ExitStack() as stack:
        etcd = processes.start(
            "etcd", etcd_command(folder / "etcd", "http://127.0.0.1:0"), folder / "logs" / "etcd.log"
        )
        stack.callback(etcd.stop)
        address = _etcd_address(etcd)
        server, port = _start_on_a_free_port(program, made, address, folder)
        stack.callback(server.stop)
        url = f"https://127.0.0.1:{port}"
        yield ApiServer(url, made.kubeconfig(ADMIN, url), made, folder / "audit.log")


def etcd_command(data: Path, listen: str) -> list[str | Path]:
    """etcd of one member. It need not survive a power cut, so it does not wait for the disk."""
    peer = "http://127.0.0.1:0"
    return [
        *(toolchain.etcd(), f"--data-dir={data}", "--unsafe-no-fsync", "--log-level=info"),
        *(f"--listen-client-urls={listen}", f"--advertise-client-urls={listen}"),
        *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}"),
    ]


def api_server_command(
    program: Path, made: Credentials, etcd: str, bind: tuple[str, int], advertise: str, audit: Path
) -> list[str | Path]:
    """kube-apiserver with RBAC, tokens and all admission plugins that are on by default."""
    policy = made["audit.yaml"]
    policy.write_text(_AUDIT_POLICY)
    return [
        *(program, f"--etcd-servers={etcd}", f"--bind-address={bind[0]}", f"--secure-port={bind[1]}"),
        *(f"--advertise-address={advertise}", f"--service-cluster-ip-range={_SERVICES}"),
        *(f"--tls-cert-file={made['server.crt']}", f"--tls-private-key-file={made['server.key']}"),
        *(f"--client-ca-file={made['ca.crt']}", f"--token-auth-file={made['tokens.csv']}"),
        *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={made['accounts.pub']}",
        f"--service-account-signing-key-file={made['accounts.key']}",
        "--kubelet-preferred-address-types=InternalIP",  # nobody answers for the node's name
        f"--kubelet-client-certificate={made['client.crt']}",
        f"--kubelet-client-key={made['client.key']}",
        *(f"--audit-policy-file={policy}", f"--audit-log-path={audit}", "--audit-log-maxsize=1000"),
        # It ends when asked to, not a minute later.
        *("--shutdown-delay-duration=0s", "--profiling=false"),
    ]


def is_ready(url: str, made: Credentials) -> bool:
    """Whether the API server says of itself that it is ready."""
    request = urllib.request.Request(f"{url}/readyz", headers={"Authorization": f"Bearer {made.tokens[ADMIN]}"})
    context = ssl.create_default_context(cafile=str(made["ca.crt"]))
    try:
        with urllib.request.urlopen(request, timeout=2, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _etcd_address(etcd: Process) -> str:
    """The port that the system gave, as etcd says it in its log."""
    found: list[str] = []

    def said() -> bool:
        pattern = r'serving client traffic insecurely.*?"address":"([^"]+)"'
        found.extend(re.findall(pattern, etcd.log.read_text(errors="replace")))
        return bool(found)

    etcd.wait_ready(said, _START_S)
    return f"http://{found[-1]}"


def _start_on_a_free_port(program: Path, made: Credentials, etcd: str, folder: Path) -> tuple[Process, int]:
    """kube-apiserver takes no port 0, so another program may take the port first: then try another."""
    for remaining in reversed(range(_TRIES)):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        command = api_server_command(program, made, etcd, ("127.0.0.1", port), _NOWHERE, folder / "audit.log")
        # Without a node, nothing can be done about the `kubernetes` Service, nor make ServiceAccounts for Pods.
        command += ["--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount"]
        server = processes.start("kube-apiserver", command, folder / "logs" / "kube-apiserver.log")
        url = f"https://127.0.0.1:{port}"
        try:
            server.wait_ready(lambda url=url: is_ready(url, made), _START_S)  # type: ignore[misc]
        except StartFailed:
            server.stop()
            if not remaining or "address already in use" not in server.log.read_text(errors="replace"):
                raise
        else:
            return server, port
    raise AssertionError("the last try returns or raises")
