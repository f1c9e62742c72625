"""What tests of the director share: a pool with idle engines, and what became of a request."""

import pytest

from igw_api.objects import AnyObject
from igw_extproc.director import Placed
from igw_extproc.domain import Ask
from igw_extproc.errors import RoutingError
from igw_extproc.messages import Arrived
from igw_testing.builders import (
    Picking,
    members,
    pool,
)

LONG = "a long prompt, as they are shared by many requests; " * 100


def picking(*objects: AnyObject, engines: int = 2, seed: int = 0, default_policy: str = "prefix-cache") -> Picking:
    """A pool with idle engines, and what else is named."""
    return Picking(pool(), *members(engines), *objects, seed=seed, default_policy=default_policy)


def place(here: Picking, request: Arrived, now: float = 1.0) -> Placed:
    """The director's decision."""
    return here.director.place(request, now)


def first(placed: Placed) -> str:
    """The endpoint that was chosen."""
    return placed.placement.destinations[0]


def ask(placed: Placed) -> Ask:
    """What the request was taken to cost."""
    return placed.flight.decision.lease.ask


def refused(here: Picking, request: Arrived) -> RoutingError:
    """Why the request gets no endpoint. Nothing may stay counted."""
    with pytest.raises(RoutingError) as caught:
        place(here, request)
    assert here.in_flight() == 0 and not here.director.flights
    return caught.value
