"""Who may be chosen at all. Pure; called by the director before each pick."""

from collections.abc import Container, Iterable

from igw_extproc.inflight import Ledger

# Why an endpoint is surely down, in the scraper's words: nobody listens there.
DOWN = frozenset({"refused", "no-route"})


def candidates(ledgers: Iterable[Ledger], subset: Container[str] | None = None) -> list[Ledger]:
    """The available ones of `ledgers`, in order; with `subset` (addresses that the proxy allows) only those in it.

    When none is, those that are not surely down: not asked yet, as just after the picker's start, or too busy to
    answer the scraper in time. A slow metrics page must not turn requests away from engines that would serve them.

    May be empty. A subset that names no such endpoint is not widened: the proxy would refuse any other.
    """
    allowed = ledgers if subset is None else [one for one in ledgers if one.endpoint.address in subset]
    available = [ledger for ledger in allowed if ledger.available]
    return available or [ledger for ledger in allowed if ledger.unreachable_reason not in DOWN]
