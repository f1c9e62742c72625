"""Pod sandboxes: namespaces kept by a holder process, an address, the Pod's resolv.conf and hostname.

Each has a folder, `sandboxes/ID` below the root, from which a restarted runtime takes it over.
"""

import json
import os
import shutil
import threading
import time
import uuid
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from igw_cluster.cri.errors import Failed, NotFound, Unsupported
from igw_cluster.cri.network import Network, NoAddress
from igw_cluster.cri.process import Process
from igw_cluster.cri.wire import cri_pb2 as pb
from igw_cluster.cri.zygote import TaskFailed, Zygote

_CONFIG, _RECORD = "config.pb", "record.json"
_HOLD_S = 30.0
# Any user may serve on any port and ping, as containerd sets it.
_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


@dataclass(slots=True)
class Sandbox:
    """`address` is None in the node's own network. `node` names that network. `stopped` is final."""

    id: str
    config: pb.PodSandboxConfig
    created: int
    address: IPv4Address | None
    holder: Process
    node: int
    directory: Path
    stopped: bool = False

    def ready(self) -> bool:
        """Whether its namespaces are there."""
        return not self.stopped and self.holder.alive()

    def namespaces(self) -> tuple[str, ...]:
        """The paths of what its containers share."""
        kinds = ("net", "uts", "ipc") if self.address else ("ipc",)
        return tuple(f"/proc/{self.holder.pid}/ns/{kind}" for kind in kinds)

    def write(self) -> None:
        """Records it for the next runtime."""
        record = {
            "created": self.created,
            "address": str(self.address) if self.address else None,
            "holder": [self.holder.pid, self.holder.started],
            "node": self.node,
            "stopped": self.stopped,
        }
        (self.directory / _CONFIG).write_bytes(self.config.SerializeToString())
        beside = self.directory / (_RECORD + ".new")
        beside.write_text(json.dumps(record), encoding="utf-8")
        beside.replace(self.directory / _RECORD)


def read(directory: Path) -> Sandbox:
    """A recorded one; raises OSError or ValueError for an incomplete record."""
    record = json.loads((directory / _RECORD).read_text(encoding="utf-8"))
    return Sandbox(
        id=directory.name,
        config=pb.PodSandboxConfig.FromString((directory / _CONFIG).read_bytes()),
        created=record["created"],
        address=IPv4Address(record["address"]) if record["address"] else None,
        holder=Process(*record["holder"]),
        node=record["node"],
        directory=directory,
        stopped=record["stopped"],
    )


class Sandboxes:
    """All of the node. Safe for threads."""

    def __init__(self, root: Path, zygote: Zygote, network: Network) -> None:
        self._root = root / "sandboxes"
        self._root.mkdir(parents=True, exist_ok=True)
        self._zygote = zygote
        self._network = network
        self._lock = threading.Lock()
        self._by_id: dict[str, Sandbox] = {}

    def take_over(self) -> list[Sandbox]:
        """Knows again what an earlier runtime recorded; ends what belongs to another node or was never finished.

        Returns those that are to be removed, their containers first: their namespaces are not this node's.
        """
        foreign = []
        for directory in self._root.iterdir():
            try:
                sandbox = read(directory)
            except (OSError, ValueError):
                shutil.rmtree(directory)
                continue
            self._by_id[sandbox.id] = sandbox
            if sandbox.node != this_node():
                foreign.append(sandbox)
            elif sandbox.address and not sandbox.stopped:
                self._network.mark(sandbox.address)
        self._network.unplug_others(self._by_id)
        return foreign

    def all(self) -> list[Sandbox]:
        """A list of its own."""
        with self._lock:
            return list(self._by_id.values())

    def get(self, sandbox_id: str) -> Sandbox:
        """Raises NotFound."""
        with self._lock:
            try:
                return self._by_id[sandbox_id]
            except KeyError:
                raise NotFound(f"no sandbox {sandbox_id}") from None

    def run(self, config: pb.PodSandboxConfig) -> Sandbox:
        """A new one that is ready, or none and nothing left of it; raises Failed or Unsupported."""
        options = config.linux.security_context.namespace_options
        refuse_unsupported(options)
        sandbox_id = uuid.uuid4().hex
        directory = self._root / sandbox_id
        directory.mkdir()
        address = None
        try:
            address = None if options.network == pb.NODE else self._network.take()
            holder = self._hold(sandbox_id, config, address)
            sandbox = Sandbox(sandbox_id, config, time.time_ns(), address, holder, this_node(), directory)
            (directory / "resolv.conf").write_text(resolv_conf(config), encoding="utf-8")
            (directory / "hostname").write_text(f"{config.hostname or os.uname().nodename}\n", encoding="utf-8")
            Path(config.log_directory or directory).mkdir(parents=True, exist_ok=True)
            sandbox.write()
        except (OSError, TaskFailed, NoAddress) as error:
            shutil.rmtree(directory, ignore_errors=True)
            if address:
                self._network.free(address)
            raise Failed(f"sandbox: {error}") from error
        with self._lock:
            self._by_id[sandbox_id] = sandbox
        return sandbox

    def _hold(self, sandbox_id: str, config: pb.PodSandboxConfig, address: IPv4Address | None) -> Process:
        request = {
            "hostname": config.hostname,
            "links": self._network.inside(sandbox_id, address) if address else [],
            "sysctls": {**(_SYSCTLS if address else {}), **config.linux.sysctls},
        }
        holder = Process(**self._zygote.call("hold", request, _HOLD_S)["process"])
        if address:
            try:
                self._network.plug_in(sandbox_id)
            except OSError:
                holder.kill()
                raise
        return holder

    def stop(self, sandbox_id: str) -> None:
        """Gives up namespaces and address; its containers must have ended. Does nothing twice."""
        sandbox = self.get(sandbox_id)
        if sandbox.stopped:
            return
        sandbox.holder.kill()
        if sandbox.address and sandbox.node == this_node():
            self._network.unplug(sandbox_id)
            self._network.free(sandbox.address)
        sandbox.stopped = True
        sandbox.write()

    def remove(self, sandbox_id: str) -> None:
        """Stops and forgets it; its containers must be gone."""
        self.stop(sandbox_id)
        with self._lock:
            sandbox = self._by_id.pop(sandbox_id, None)
        if sandbox:
            shutil.rmtree(sandbox.directory, ignore_errors=True)


def refuse_unsupported(options: pb.NamespaceOption) -> None:
    """Raises Unsupported for ways of sharing that would silently be something else here."""
    if options.pid in (pb.POD, pb.TARGET):
        raise Unsupported("a PID namespace shared by containers is not offered by the test cluster's runtime")
    if options.HasField("userns_options") and options.userns_options.mode == pb.POD:
        raise Unsupported("user namespaces (hostUsers: false) are not offered by the test cluster's runtime")


def resolv_conf(config: pb.PodSandboxConfig) -> str:
    """The Pod's, or the machine's if the kubelet leaves it open."""
    if not config.HasField("dns_config"):
        return Path("/etc/resolv.conf").read_text(encoding="utf-8")
    dns = config.dns_config
    lines = [f"nameserver {server}" for server in dns.servers]
    lines += [f"search {' '.join(dns.searches)}"] if dns.searches else []
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    return "".join(f"{line}\n" for line in lines)


def this_node() -> int:
    """Names the network namespace that the runtime is in."""
    return os.stat("/proc/self/ns/net").st_ino
