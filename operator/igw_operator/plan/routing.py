"""Which of a Gateway's listeners serve a route, under which host names, and in which order. Pure.

The order is the Gateway API's: exact path, then the longest path, then method, headers, query; then who names the
listener, then the oldest, then the name.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from igw_api.objects import Gateway, Key, Listener, PathKind, RouteMatch
from igw_operator.plan.model import Host, PlannedRoute

ANY_HOST = "*"
_PATH_RANK = {PathKind.EXACT: 0, PathKind.REGEX: 1, PathKind.PREFIX: 2}


@dataclass(frozen=True, slots=True)
class Attached:
    """A route on one listener, with what decides its place there."""

    route: PlannedRoute
    hostnames: tuple[str, ...]
    names_listener: bool
    created: float
    index: int  # the rule's place in its object, then the match's

    @property
    def precedence(self) -> tuple[tuple[int, ...], bool, float, Key, int]:
        """Lower goes first."""
        return (_specificity(self.route.match), not self.names_listener, self.created, self.route.owner, self.index)


def _specificity(match: RouteMatch) -> tuple[int, ...]:
    return (
        _PATH_RANK[match.path_kind],
        -len(match.path),
        0 if match.method else 1,
        -len(match.headers),
        -len(match.query),
    )


def listeners_for(gateway: Gateway, section: str | None, port: int | None) -> tuple[Listener, ...]:
    """The listeners that a parent reference means."""
    return tuple(
        listener for listener in gateway.listeners if section in (None, listener.name) and port in (None, listener.port)
    )


def allows(gateway: Gateway, listener: Listener, owner: Key) -> bool:
    """Whether an object of that namespace may attach."""
    return listener.any_namespace or owner.namespace == gateway.key.namespace


def hostnames_on(listener: Listener, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The host names that a route has on a listener: both must agree. Empty: they do not."""
    own = listener.hostname or ANY_HOST
    return tuple(dict.fromkeys(common for name in wanted or (ANY_HOST,) if (common := _narrower(own, name))))


def _narrower(one: str, other: str) -> str | None:
    """The more specific of two host names if one covers the other."""
    if covers(one, other):
        return other
    return one if covers(other, one) else None


def covers(general: str, special: str) -> bool:
    """Whether every host that `special` stands for is one that `general` stands for."""
    if general in (ANY_HOST, special):
        return True
    return general.startswith("*.") and special.removeprefix("*").endswith(general[1:])


def hosts(attached: Iterable[Attached]) -> tuple[Host, ...]:
    """The routes of one listener by host name. A narrow name also gets the routes of wider ones, after its own."""
    entries = list(attached)
    names = sorted({name for entry in entries for name in entry.hostnames})
    return tuple(Host(name, tuple(_routes_of(name, entries))) for name in names)


def _routes_of(hostname: str, entries: list[Attached]) -> list[PlannedRoute]:
    ranked = []
    for entry in entries:
        widths = [_width(name) for name in entry.hostnames if covers(name, hostname)]
        if widths:
            ranked.append((min(widths), entry.precedence, entry.route))
    return [route for _, _, route in sorted(ranked, key=lambda item: item[:2])]


def _width(hostname: str) -> tuple[int, int]:
    """Exact names first, then longer wildcards, then any host."""
    return ({ANY_HOST: 2}.get(hostname, 1 if hostname.startswith("*.") else 0), -len(hostname))
