"""Who may be chosen at all. Pure; called by the director before each pick."""

from collections.abc import Container, Iterable

from igw_extproc.inflight import Ledger


def candidates(ledgers: Iterable[Ledger], subset: Container[str] | None = None) -> list[Ledger]:
    """The available ones of `ledgers`, in order; with `subset` (addresses that the proxy allows) only those in it.

    May be empty. A subset that names no available endpoint is not widened: the proxy would refuse any other.
    """
    if subset is None:
        return [ledger for ledger in ledgers if ledger.available]
    return [ledger for ledger in ledgers if ledger.available and ledger.endpoint.address in subset]
