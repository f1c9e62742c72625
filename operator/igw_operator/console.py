"""What `igw up` prints: a table once, then one line per event. Colours only on a terminal and without NO_COLOR.

Lines for programs start with `igw up ready` and hold key=value pairs; everything else is for people.
"""

import sys
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path

from rich.console import Console as RichConsole

from igw_operator.plan.model import GatewayPlan, PlannedListener, Refusal
from igw_operator.ports import Bind, Places
from igw_operator.render.files import Address

SHOWN_ENDPOINTS = 4


class Console:
    """Standard output for the state of things, standard error for problems."""

    def __init__(self) -> None:
        self._out = RichConsole(file=sys.stdout, highlight=False, soft_wrap=True)
        self._err = RichConsole(file=sys.stderr, highlight=False, soft_wrap=True)

    def event(self, text: str) -> None:
        """Something happened."""
        self._out.print(f"igw up: {text}", markup=False)

    def problem(self, text: str) -> None:
        """Something needs the user."""
        self._err.print("problem:", style="red", end=" ")
        self._err.print(text, markup=False)

    def warning(self, text: str) -> None:
        """Something works less well than it should."""
        self._err.print("warning:", style="yellow", end=" ")
        self._err.print(text, markup=False)

    def overview(self, plan: GatewayPlan, binds: Mapping[Bind, Address]) -> None:
        """Listeners, what they lead to, and the endpoints there."""
        rows = [("LISTENER", "ADDRESS", "LEADS TO", "ENDPOINTS")]
        for listener in plan.listeners:
            address = str(binds[listener.gateway, listener.port])
            targets = _targets(listener, plan) or [("nothing (404)", "")]
            rows += [(listener.label, address, *target) for target in targets]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)]
            self._out.print("  ".join(cells).rstrip(), markup=False, style="bold" if row is rows[0] else None)

    def places(self, places: Places, directory: Path) -> None:
        """Where to look further."""
        self._out.print(f"metrics http://{places.metrics}/metrics, Envoy admin http://{places.admin}", markup=False)
        self._out.print(f"files and logs in {directory}", markup=False)

    def ready(self, plan: GatewayPlan, binds: Mapping[Bind, Address]) -> None:
        """One line per listener, for programs."""
        for listener in plan.listeners:
            address = binds[listener.gateway, listener.port]
            self._out.print(
                f"igw up ready listener={listener.label} port={listener.port} address={address}", markup=False
            )


def _targets(listener: PlannedListener, plan: GatewayPlan) -> list[tuple[str, str]]:
    endpoints = {cluster.name: cluster.endpoints for cluster in plan.clusters}
    found = sorted(
        (destination.to, destination.placement is not None)
        for host in listener.hosts
        for route in host.routes
        for destination in route.destinations
        if not isinstance(destination.to, Refusal)
    )
    return [
        (f"{name} ({'placed by load' if placed else 'round robin'})", _some(endpoints[name]))
        for (name, placed), _ in groupby(found)
    ]


def _some(endpoints: Iterable[str]) -> str:
    known = list(endpoints)
    if not known:
        return "none"
    rest = len(known) - SHOWN_ENDPOINTS
    return ", ".join(known[:SHOWN_ENDPOINTS]) + (f" and {rest} more" if rest > 0 else "")
