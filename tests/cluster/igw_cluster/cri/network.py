"""The node's side of the Pod network: the bridge, addresses, and a cable (veth pair) per Pod.

A Pod has its address as a /32 and one route, to the bridge. So even neighbours talk through the node's IP layer, where
its NAT sees both directions of a connection to a Service; a Pod may also reach itself through a Service (hairpin).
"""

import os
import threading
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from igw_cluster.cri.holder import ip

_CABLE = "igwpod"
# Interface names have at most 15 characters.
_ID_PART = 15 - len(_CABLE)


class NoAddress(Exception):
    """All addresses of the Pod network are taken."""


class Network:
    """The Pods' network of one node. Safe for threads. Raises OSError with what iproute2 says."""

    def __init__(self, bridge: str, cidr: IPv4Network) -> None:
        self.bridge = bridge
        self.cidr = cidr
        self.gateway = cidr.network_address + 1
        self._lock = threading.Lock()
        self._used: set[IPv4Address] = {self.gateway}
        self._last = self.gateway

    def set_up(self) -> None:
        """Makes the bridge unless it is there, and lets the node forward."""
        if self.bridge not in interfaces():
            ip(f"link add {self.bridge} type bridge")
        if f" {self.gateway}/" not in ip(f"addr show dev {self.bridge}"):
            ip(f"addr add {self.gateway}/{self.cidr.prefixlen} dev {self.bridge}")
        # Pods remember the bridge's hardware address, which would else change with the Pods that are plugged in.
        ip(f"link set {self.bridge} address {hardware_address(self.gateway)} up")
        settings = Path("/proc/sys/net/ipv4")
        (settings / "ip_forward").write_text("1", encoding="ascii")
        for name in ("all", self.bridge):
            # Pods are to go on talking through the node.
            (settings / "conf" / name / "send_redirects").write_text("0", encoding="ascii")

    def take(self) -> IPv4Address:
        """A free address. The ones freed last are given last, since others may still remember them."""
        with self._lock:
            size = self.cidr.num_addresses
            for step in range(1, size):
                offset = (int(self._last) - int(self.cidr.network_address) + step) % size
                address = self.cidr.network_address + offset
                if 0 < offset < size - 1 and address not in self._used:
                    self._used.add(address)
                    self._last = address
                    return address
        raise NoAddress(f"no free address in {self.cidr}")

    def mark(self, address: IPv4Address) -> None:
        """The address is in use already."""
        with self._lock:
            self._used.add(address)

    def free(self, address: IPv4Address) -> None:
        """The address may be given again."""
        with self._lock:
            self._used.discard(address)

    def inside(self, sandbox: str, address: IPv4Address) -> list[str]:
        """What the Pod's own network namespace has to run, as lines for `ip -batch`; the other end lands here."""
        return [
            "link set lo up",
            f"link add eth0 type veth peer name {cable(sandbox)} netns {os.getpid()}",
            f"addr add {address}/32 dev eth0",
            "link set eth0 up",
            f"route add {self.gateway} dev eth0 scope link",
            f"route add default via {self.gateway} dev eth0",
        ]

    def plug_in(self, sandbox: str) -> None:
        """Connects the node's end of the Pod's cable to the bridge."""
        end = cable(sandbox)
        ip(f"link set {end} master {self.bridge} up\nlink set {end} type bridge_slave hairpin on")

    def unplug(self, sandbox: str) -> None:
        """Removes the cable, if it is still there: it also goes with the Pod's namespace."""
        try:
            ip(f"link del {cable(sandbox)}")
        except OSError:
            if cable(sandbox) in interfaces():
                raise

    def unplug_others(self, sandboxes: Iterable[str]) -> None:
        """Removes the cables of Pods that are not listed: left over by a runtime that was killed."""
        for name in interfaces() - {cable(sandbox) for sandbox in sandboxes}:
            if name.startswith(_CABLE):
                ip(f"link del {name}")


def cable(sandbox: str) -> str:
    """The interface that is the node's end of a Pod's cable."""
    return _CABLE + sandbox[:_ID_PART]


def hardware_address(address: IPv4Address) -> str:
    """A locally administered one, the same for the same IP address."""
    return ":".join(f"{part:02x}" for part in (0x0A, 0x58, *address.packed))


def interfaces() -> set[str]:
    """The names of this network namespace's interfaces."""
    # Not from /sys, which may show another namespace's.
    lines = Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines}
