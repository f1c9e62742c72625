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
    """Addresses for these ports; 0: any. Raises PortUnavailable."""
    first = claim(Address(LOOPBACK, admin))
    second = claim(Address(LOOPBACK, picker), {first})
    return Places(first, second, claim(Address(LOOPBACK, metrics), {first, second}))


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

    def assign(self, listeners: Iterable[PlannedListener]) -> dict[Bind, str]:
        """Give each new listener its place. Returns why, for those that cannot have one."""
        listeners = list(listeners)
        wanted = {(listener.gateway, listener.port) for listener in listeners}
        self.given = {bind: address for bind, address in self.given.items() if bind in wanted}
        refused: dict[Bind, str] = {}
        for listener in listeners:
            bind = (listener.gateway, listener.port)
            if bind in self.given:
                continue
            try:
                self.given[bind] = self._claim(listener)
            except PortUnavailable as error:
                refused[bind] = f"listener {listener.label}: {error}"
        return refused

    def _claim(self, listener: PlannedListener) -> Address:
        address = self.remapped.get(listener.port, Address(self.host, listener.port))
        if address.port and address in self.given.values():
            raise PortUnavailable(f"{address} is already the place of another Gateway's listener; see --listen")
        return claim(address, {*self.own, *self.given.values()})
