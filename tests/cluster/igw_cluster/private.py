"""A private machine inside this one: own network, mounts and process numbers, made and unmade by the kernel.

Everything of a cluster runs in here. When the first process of the machine ends, however it ends, the kernel kills all
others and takes mounts, interfaces and rules with them, so nothing has to be cleaned up one by one. Needs root.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from igw_cluster import processes, toolchain
from igw_cluster.processes import Process, StartFailed

# The node's own address. On a loopback address the kubelet refuses to register and EndpointSlices are refused.
NODE_IP: Final = "172.30.0.1"
PODS: Final = "10.244.0.0/16"
PODS_GATEWAY: Final = "10.244.0.1"
SERVICES: Final = "10.96.0.0/16"
DNS_IP: Final = "10.96.0.10"
BRIDGE: Final = "igw0"
_STOP_S: Final = 10.0
_POLL_S: Final = 0.01
# Says when it is set up, then only waits; `exec` keeps it the first process of the machine.
_FIRST: Final = """\
set -e
ip link set lo up
ip link add {bridge} type bridge
ip addr add {gateway}/16 dev {bridge}
ip addr add {node}/32 dev {bridge}
ip link set {bridge} up
ip route add default dev {bridge}
echo 1 > /proc/sys/net/ipv4/ip_forward
if test -e /proc/sys/net/bridge/bridge-nf-call-iptables; then echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables; fi
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir /var/log/containers
echo ready
exec {python} -c 'import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); signal.pause()'
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A running one. `pid` is its first process and `holder` the one that keeps it, as the outer machine numbers them;
    kill `holder` to end all."""

    pid: int
    holder: int
    # Kept so that they can be waited for: what this process started. Empty in a machine found again by its numbers.
    _children: list["subprocess.Popen[bytes] | subprocess.Popen[str]"] = field(default_factory=list)

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """The words that run `command` inside, in the caller's environment and the root folder. It ends with the
        machine; a signal to the started process ends only `nsenter`, not the command."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid", "--", *map(str, command)]

    def run(self, command: Sequence[str | Path], timeout: float = 60.0) -> str:
        """What it printed. Raises CalledProcessError, TimeoutExpired."""
        done = subprocess.run(self.command(command), capture_output=True, text=True, check=True, timeout=timeout)
        return done.stdout

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Process:
        """Start a program inside that ends with the machine; what it prints goes to `log`."""
        process = processes.start(
            name, self.command(command), log, environment=environment, outlives_us=True, pass_fds=pass_fds
        )
        self._children.append(process.popen)
        return process

    def forward(self, address: str, port: int) -> int:
        """A loopback port of the outer machine that leads to `address`:`port` inside, until the machine ends."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            local: int = listener.getsockname()[1]
            program = Path(__file__).with_name("forwarder.py")
            # The socket stays in the network in which it was made; those that the program makes are inside.
            words: list[str | Path] = [sys.executable, program, str(listener.fileno()), address, str(port)]
            self.start(f"forwarder to {address}:{port}", words, Path(os.devnull), pass_fds=[listener.fileno()])
        return local

    def alive(self) -> bool:
        """Whether its first process still runs, and is the child of its holder: numbers are given again."""
        try:
            return str(self.pid) in _children_of(self.holder)
        except OSError:
            return False

    def stop(self) -> None:
        """End everything in it. Returns when all is gone."""
        if self.alive():
            os.kill(self.holder, signal.SIGKILL)
        for child in self._children:
            child.wait(_STOP_S)
        deadline = time.monotonic() + _STOP_S
        while Path(f"/proc/{self.pid}/ns/net").exists() and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def start(outlives_us: bool = False) -> Machine:
    """A new one. Unless it `outlives_us`, it ends with the thread that called. Raises StartFailed, Missing."""
    if os.geteuid():
        raise StartFailed("namespaces, bridges and mounts need root")
    toolchain.debian("ip", "iproute2")
    script = _FIRST.format(bridge=BRIDGE, gateway=PODS_GATEWAY, node=NODE_IP, python=sys.executable)
    words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "sh", "-c", script]
    leash = [] if outlives_us else ["setpriv", "--pdeathsig", "KILL"]
    holder = subprocess.Popen(
        [*leash, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert holder.stdout is not None
    with holder.stdout:
        said = holder.stdout.readline()
        if said != "ready\n":
            said += holder.stdout.read()
            holder.kill()
            holder.wait(_STOP_S)
            raise StartFailed(f"the private network could not be made: {said.strip()}")
    return Machine(int(_children_of(holder.pid)[0]), holder.pid, [holder])


@contextmanager
def machine() -> Iterator[Machine]:
    """One that ends with the block. Raises as `start` does."""
    made = start()
    try:
        yield made
    finally:
        made.stop()


def _children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
