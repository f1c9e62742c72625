"""Who may sit where: the listeners that an object asks for, and whether they let it in. Pure.

The Gateway API's rules, for HTTPRoutes by parent reference and for InferencePools by annotation alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from igw_api.objects import Gateway, Key, Listener, RouteParent

ANY_HOST = "*"


@dataclass(frozen=True, slots=True)
class Seat:
    """A place on one listener, under these host names."""

    gateway: Key
    listener: Listener
    hostnames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """No seat: a reason of the Gateway API, and what to do about it."""

    reason: str
    message: str


def find_seats(
    gateways: Mapping[Key, Gateway], owner: Key, parent: RouteParent, hostnames: tuple[str, ...] = ()
) -> tuple[Seat, ...] | Refused:
    """The seats that `owner` gets by naming `parent`; no `hostnames` means every host of the listener."""
    gateway = gateways.get(parent.gateway)
    if gateway is None:
        known = ", ".join(str(key) for key in sorted(gateways)) or "none"
        return Refused("NoMatchingParent", f"no Gateway {parent.gateway} (known: {known})")
    meant = [one for one in gateway.listeners if parent.section in (None, one.name) and parent.port in (None, one.port)]
    if not meant:
        return Refused("NoMatchingParent", _no_listener(gateway, parent))
    allowed = [one for one in meant if one.any_namespace or owner.namespace == gateway.key.namespace]
    if not allowed:
        advice = "set allowedRoutes.namespaces.from: All on the listener"
        return Refused("NotAllowedByListeners", f"Gateway {gateway.key} lets only its own namespace attach; {advice}")
    seats = tuple(
        Seat(gateway.key, one, common) for one in allowed if (common := common_hostnames(one.hostname, hostnames))
    )
    if not seats:
        message = f"no listener of Gateway {gateway.key} has a host name in common with {', '.join(hostnames)}"
        return Refused("NoMatchingListenerHostname", message)
    return seats


def _no_listener(gateway: Gateway, parent: RouteParent) -> str:
    wanted = [f"named {parent.section}"] if parent.section else []
    wanted += [f"on port {parent.port}"] if parent.port else []
    known = ", ".join(f"{listener.name} on port {listener.port}" for listener in gateway.listeners)
    return f"Gateway {gateway.key} has no listener {' '.join(wanted)} (it has {known})"


def common_hostnames(own: str | None, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The host names on which a listener and a route agree, the narrower of each pair. Empty: on none."""
    found = (_narrower(own or ANY_HOST, name) for name in wanted or (ANY_HOST,))
    return tuple(dict.fromkeys(name for name in found if name is not None))


def _narrower(one: str, other: str) -> str | None:
    if covers(one, other):
        return other
    return one if covers(other, one) else None


def covers(general: str, special: str) -> bool:
    """Whether every host that `special` stands for is one that `general` stands for."""
    if general in (ANY_HOST, special):
        return True
    # `*.a.b` stands for x.a.b and for x.y.a.b, not for a.b.
    return general.startswith("*.") and special.removeprefix("*").endswith(general[1:])
