"""Ports of this machine: where each listener is bound, and whether the port is free. Used by `standalone`."""

import errno
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from igw_api.objects import Key
from igw_operator.plan.model import PlannedListener
from igw_operator.render.files import Address

LOOPBACK = "127.0.0.1"
TRIES = 16  # the system may offer a port that was chosen a moment ago

Bind = tuple[Key, int]  # a Gateway and one of its ports


class PortUnavailable(Exception):
    """An address cannot be bound."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where our own processes listen, all on this machine only."""

    admin: Address
    picker: Address
    metrics: Address


def choose_places(admin: int, picker: int, metrics: int) -> Places:
    """Addresses for these ports; 0: any. Raises PortUnavailable, which names the option."""
    found: list[Address] = []
    for option, port in (("--admin-port", admin), ("picker", picker), ("--metrics-port", metrics)):
        try:
            found.append(claim(Address(LOOPBACK, port), found))
        except PortUnavailable as error:
            raise PortUnavailable(f"{option}: {error}") from None
    return Places(*found)


def claim(address: Address, taken: Collection[Address] = ()) -> Address:
    """The same address, with a free port for port 0 that is not `taken`. Raises PortUnavailable.

    The socket is closed again: Envoy and the picker bind by number, also when they are restarted.
    """
    for _ in range(TRIES):
        found = _probe(address)
        if found not in taken:
            return found
    raise PortUnavailable(f"{address} is used by the gateway itself")


def _probe(address: Address) -> Address:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As Envoy binds: old connections in TIME_WAIT do not matter, a listening program does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
            probe.listen(1)
        except OSError as error:
            raise PortUnavailable(_why(address, error)) from None
        return Address(address.host, probe.getsockname()[1])


def _why(address: Address, error: OSError) -> str:
    reasons = {
        errno.EADDRINUSE: "is in use by another program",
        errno.EACCES: "needs more rights; ports below 1024 do",
        errno.EADDRNOTAVAIL: "is not an address of this machine",
    }
    return f"{address} {reasons.get(error.errno or 0, f'cannot be bound: {error.strerror}')}"


@dataclass(slots=True)
class Binds:
    """Where each port of each Gateway is bound. A place once given is kept."""

    host: str
    remapped: Mapping[int, Address]
    own: frozenset[Address]  # of the processes themselves
    given: dict[Bind, Address] = field(default_factory=dict)

    def assign(self, listeners: Iterable[PlannedListener]) -> tuple[dict[Bind, Address], dict[Bind, str]]:
        """A place for each listener, and why those that get none cannot have one. Nothing is `given` by this."""
        found: dict[Bind, Address] = {}
        refused: dict[Bind, str] = {}
        listeners = list(listeners)
        for listener in listeners:
            bind = (listener.gateway, listener.port)
            if bind in self.given:
                found[bind] = self.given[bind]
        for listener in listeners:
            bind = (listener.gateway, listener.port)
            try:
                found[bind] = found.get(bind) or self._claim(listener, found.values())
            except PortUnavailable as error:
                refused[bind] = f"listener {listener.label}: {error}"
        return found, refused

    def _claim(self, listener: PlannedListener, taken: Collection[Address]) -> Address:
        address = self.remapped.get(listener.port, Address(self.host, listener.port))
        if address.port and address in taken:
            raise PortUnavailable(f"{address} is already the place of another Gateway's listener; see --listen")
        return claim(address, {*self.own, *taken})
