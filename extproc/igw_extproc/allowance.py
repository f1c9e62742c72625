"""Who may serve a request, and what to say where nobody may. Pure; called by `director` and `admission`."""

from collections.abc import Iterable
from typing import Final

from igw_api.split import PrefillFailure
from igw_extproc.datastore import PoolView
from igw_extproc.domain import Ask
from igw_extproc.errors import NoEndpoints, RoutingError, Saturated
from igw_extproc.flowcontrol.room import is_open
from igw_extproc.flowcontrol.saturation import saturation
from igw_extproc.flowcontrol.waiters import End, Refusal
from igw_extproc.inflight import Ledger
from igw_extproc.scheduling.framework import Scheduler
from igw_extproc.scheduling.split import SplitScheduler


def named(subset: tuple[str, ...] | None, ledgers: Iterable[Ledger]) -> set[str] | None:
    """The addresses that a subset hint means: a host without a port stands for all of its ports."""
    if subset is None:
        return None
    found = set(subset)
    hosts = {one.strip("[]") for one in found if one.count(":") != 1 and "]:" not in one}
    if hosts:
        addresses = (ledger.endpoint.address for ledger in ledgers)
        found.update(address for address in addresses if address.rpartition(":")[0].strip("[]") in hosts)
    return found


def able(scheduler: Scheduler | SplitScheduler, pool: str, allowed: list[Ledger], ask: Ask) -> list[Ledger]:
    """Those of `allowed` that can serve `ask`: none, where it must wait for an endpoint that computes its prompt.

    Raises NoEndpoints where it shall not wait.
    """
    missing = scheduler.missing(allowed, ask)
    if missing is PrefillFailure.STRICT:
        raise NoEndpoints(f"No prefill endpoint of the pool {pool} answers. Try again later.")
    return [] if missing is PrefillFailure.QUEUE else allowed


def replaceable(
    scheduler: Scheduler | SplitScheduler, places: tuple[Ledger, ...], ask: Ask, ledger: Ledger
) -> Ledger | None:
    """Which of a request's `places` another endpoint may take: where it has two, the one that has no room.

    None: it may take none.
    """
    place, *others = places
    if not isinstance(scheduler, SplitScheduler):
        return place
    full = next((one for one in others if not is_open(one, ask)), place)
    if ledger in places or not scheduler.may(ledger, computes=full is not place):
        return None
    return full


def shed(allowed: list[Ledger]) -> None:
    """Sheddable work is refused while the pool is full. Raises Saturated."""
    if saturation(allowed) >= 1.0:
        raise Saturated("All engines are busy, and this model's requests are sheddable. Try again later.")


def why_none(view: PoolView, subset: tuple[str, ...] | None) -> NoEndpoints:
    """Why nobody may serve it."""
    if not view.endpoints:
        return NoEndpoints(f"The pool {view.name} has no endpoints. Try again later.")
    if subset is not None:
        listed = f"None of the {len(subset)} endpoints allowed for this request"
        return NoEndpoints(f"{listed} is available in the pool {view.name}.")
    return NoEndpoints(f"None of the {len(view.endpoints)} endpoints of the pool {view.name} answers. Try again later.")


_WHY: Final = {
    End.EXPIRED: "No engine of the pool {} could take the request in time.",
    End.FULL: "As many requests as may wait for the pool {} do.",
    End.SHED: "All engines of the pool {} are busy, and this request is sheddable.",
    End.UNPLACED: "None of the endpoints allowed for this request in the pool {} could take it.",
}


def why_not(view: PoolView, refusal: Refusal) -> RoutingError:
    """Why it waits no longer: of a pool without endpoints just that, however long it has waited for one."""
    text = f"{_WHY[refusal.reason].format(view.name)} Try again in {refusal.retry_after} s."
    if refusal.capacity:
        error: RoutingError = Saturated(text)
    else:
        error = why_none(view, None) if refusal.reason is End.EXPIRED else NoEndpoints(text)
    error.retry_after = refusal.retry_after
    return error
