"""The container runtime of the test cluster, run for a test in a private machine, and a plain client of its interface.

The client stays outside: a Unix socket is reached by its path. When the test ends, the kernel ends all that ran inside.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

import igw_cluster.cri
from igw_cluster import private, toolchain
from igw_cluster.cri.images import Image, host_image, python_binds, write_images
from igw_cluster.cri.wire import cri_pb2 as cri
from igw_cluster.private import BRIDGE, PODS, Machine
from igw_cluster.processes import Process

IMAGES = {
    "test/host": host_image([], binds=python_binds()),
    "test/user": host_image(["sleep"], cmd=["1000"], user="65532", binds=python_binds(), env={"FROM_IMAGE": "yes"}),
    "test/init": host_image([], init=True),
    "test/tagged:1": host_image(["true"]),
    "test/broken": Image(layers=("/no/such/folder",)),
}
WAIT_S = 30.0
_PLACES = {"socket": "cri.sock", "root": "root", "images": "images.json"}
_PACKAGES = str(Path(igw_cluster.cri.__file__).parents[2])


def until(is_so: Callable[[], bool], what: str) -> None:
    """Polls; fails when it is not so after `WAIT_S`."""
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Pod:
    """A sandbox as it was asked for, with its id."""

    config: cri.PodSandboxConfig
    id: str


@dataclass(slots=True)
class Runtime:
    """The runtime in its machine, and what to ask of it. `folder` holds its root, its logs and its images."""

    folder: Path
    machine: Machine
    process: Process | None = None
    channel: Any = field(init=False)

    def __post_init__(self) -> None:
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
        self.channel = grpc.insecure_channel(f"unix://{self.folder}/cri.sock", options)

    def start(self) -> None:
        """Starts it, again after it has ended; returns when it serves."""
        log = self.folder / "runtime.log"
        log.unlink(missing_ok=True)
        self.process = self._start(log)
        self.process.wait_ready(lambda: "cri ready" in log.read_text(), WAIT_S)

    def clean(self) -> None:
        """Removes what a killed one has left."""
        assert self._start(self.folder / "clean.log", "--clean").popen.wait(WAIT_S) == 0

    def _start(self, log: Path, *flags: str) -> Process:
        places = [f"--{name}={self.folder / file}" for name, file in _PLACES.items()]
        words = [sys.executable, "-m", "igw_cluster.cri", *places, f"--bridge={BRIDGE}", f"--pod-cidr={PODS}", *flags]
        return self.machine.start("cri", words, log, {"PYTHONPATH": _PACKAGES})

    def signal(self, name: str) -> None:
        """Sends a signal to it and waits for its end. By its number inside: the outer process is only `nsenter`."""
        assert self.process is not None
        self.machine.run(["kill", f"-{name}", self.number()])
        self.process.popen.wait(WAIT_S)

    def number(self) -> str:
        """Its PID in the machine: that of the oldest process with its command line."""
        return self.machine.run(["pgrep", "-o", "-f", f"root={self.folder}/root"]).strip()

    def processes(self) -> list[str]:
        """The commands of all processes in the machine."""
        return self.machine.run(["ps", "-eo", "args="]).splitlines()

    def call(self, name: str, request: Any, reply: Any = cri.Empty, service: str = "RuntimeService") -> Any:
        """One call. Raises grpc.RpcError."""
        method = self.channel.unary_unary(
            f"/runtime.v1.{service}/{name}", lambda message: message.SerializeToString(), reply.FromString
        )
        return method(request, timeout=WAIT_S, wait_for_ready=True)

    def pod(self, name: str, network: "cri.NamespaceMode" = cri.POD) -> Pod:
        """A running sandbox, asked for as the kubelet does."""
        options = cri.NamespaceOption(network=network, pid=cri.CONTAINER, ipc=cri.POD)
        config = cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, uid=name, namespace="default"),
            hostname=name,
            log_directory=str(self.folder / "logs" / name),
            dns_config=cri.DNSConfig(servers=["10.96.0.10"], searches=["svc.cluster.local"], options=["ndots:5"]),
            labels={"app": name},
            linux=cri.LinuxPodSandboxConfig(security_context=cri.SandboxSecurityContext(namespace_options=options)),
        )
        made = self.call("RunPodSandbox", cri.RunPodSandboxRequest(config=config), cri.PodSandboxId)
        return Pod(config, made.pod_sandbox_id)

    def remove(self, pod: Pod) -> None:
        """Ends the Pod and all that is in it."""
        self.call("RemovePodSandbox", cri.PodSandboxId(pod_sandbox_id=pod.id))

    def create(self, pod: Pod, command: list[str], image: str = "test/host", **fields: Any) -> str:
        """The id of a container that does not run yet; its log is `0.log` of the Pod."""
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="main"),
            image=cri.ImageSpec(image=image),
            command=command,
            log_path="0.log",
            **fields,
        )
        config.linux.security_context.namespace_options.pid = cri.CONTAINER
        request = cri.CreateContainerRequest(pod_sandbox_id=pod.id, config=config, sandbox_config=pod.config)
        return str(self.call("CreateContainer", request, cri.ContainerId).container_id)

    def run(self, pod: Pod, command: list[str], image: str = "test/host", **fields: Any) -> str:
        """The id of a started container."""
        container = self.create(pod, command, image, **fields)
        self.call("StartContainer", cri.ContainerId(container_id=container))
        return container

    def stop(self, container: str, grace: int) -> float:
        """Stops it; the seconds that took."""
        began = time.monotonic()
        self.call("StopContainer", cri.StopContainerRequest(container_id=container, timeout=grace))
        return time.monotonic() - began

    def execute(self, container: str, *command: str, timeout: int = 20) -> Any:
        """A command inside: its output and exit code."""
        request = cri.ExecSyncRequest(container_id=container, cmd=command, timeout=timeout)
        return self.call("ExecSync", request, cri.ExecSyncResponse)

    def output(self, container: str, *command: str) -> str:
        """What a command inside printed; the test fails when the command does."""
        done = self.execute(container, *command)
        assert done.exit_code == 0, done.stderr.decode()
        return str(done.stdout.decode())

    def status(self, container: str) -> Any:
        """The container's status."""
        request = cri.ContainerId(container_id=container)
        return self.call("ContainerStatus", request, cri.ContainerStatusResponse).status

    def ended(self, container: str) -> Any:
        """The container's status once it has ended."""
        until(lambda: self.status(container).state == cri.CONTAINER_EXITED, "the container's end")
        return self.status(container)

    def address(self, pod: Pod) -> str:
        """The Pod's IP."""
        request = cri.PodSandboxId(pod_sandbox_id=pod.id)
        return str(self.call("PodSandboxStatus", request, cri.PodSandboxStatusResponse).status.network.ip)

    def log(self, pod: Pod) -> str:
        """The Pod's log as it is on disk."""
        path = Path(pod.config.log_directory, "0.log")
        return path.read_text() if path.exists() else ""


def security(**fields: Any) -> cri.LinuxContainerConfig:
    """A container's security context."""
    return cri.LinuxContainerConfig(security_context=cri.SecurityContext(**fields))


@contextmanager
def running_runtime(folder: Path) -> Iterator[Runtime]:
    """The runtime in a machine of its own, with `IMAGES`."""
    toolchain.debian("ip", "iproute2", print)
    write_images(folder / "images.json", IMAGES)
    with private.machine() as machine:
        made = Runtime(folder, machine)
        made.start()
        try:
            yield made
        finally:
            made.channel.close()
