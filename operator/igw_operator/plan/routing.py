"""In which order the routes of a listener are tried, host name by host name. Pure.

The order is the Gateway API's: exact path, then the longest path, then method, headers, query; then who names the
listener, then the oldest, then the name.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from igw_api.objects import Key, PathKind
from igw_operator.plan.attach import ANY_HOST, covers
from igw_operator.plan.model import Host, PlannedRoute

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
        return (_specificity(self.route), not self.names_listener, self.created, self.route.owner, self.index)


def _specificity(route: PlannedRoute) -> tuple[int, ...]:
    match = route.match
    return (
        _PATH_RANK[match.path_kind],
        -len(match.path),
        0 if match.method else 1,
        # The picker's choice counts as the header that it is on other gateways.
        -len(match.headers) - (route.chosen is not None),
        -len(match.query),
    )


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
