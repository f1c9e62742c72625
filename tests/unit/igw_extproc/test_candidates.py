"""Who may be chosen when no engine answers the scraper."""

import pytest

from igw_extproc.domain import Endpoint, EngineLoad
from igw_extproc.http1 import Lost
from igw_extproc.inflight import Ledger
from igw_extproc.ledgers import Ledgers
from igw_extproc.scheduling.filters import DOWN, candidates


def unasked(count: int) -> list[Ledger]:
    table = Ledgers()
    table.sync([Endpoint(f"10.0.0.{at}:8000") for at in range(count)])
    return list(table)


def test_before_the_first_answer_every_endpoint_is_a_candidate() -> None:
    """A picker that has just started must not turn requests away."""
    known = unasked(2)
    assert candidates(known) == known
    known[1].scraped(known[1].scrape_started(), EngineLoad(), 0.0)
    assert candidates(known) == [known[1]]


@pytest.mark.parametrize("reason", ["timeout", "reset", "closed", "http-500"])
def test_engines_that_answer_badly_are_the_last_resort(reason: str) -> None:
    """They may be too busy for a metrics page, and serve all the same."""
    known = unasked(2)
    known[0].scraped(known[0].scrape_started(), EngineLoad(), 0.0)
    known[1].unreachable(reason)
    assert candidates(known) == [known[0]]
    known[0].unreachable("refused")
    assert candidates(known) == [known[1]]
    assert candidates(known, {"10.0.0.0:8000"}) == []


@pytest.mark.parametrize("why", [Lost.REFUSED, Lost.UNROUTABLE])
def test_an_engine_that_is_down_is_never_a_candidate(why: Lost) -> None:
    """The proxy would only find out once more."""
    known = unasked(1)
    known[0].unreachable(why.value)
    assert why.value in DOWN
    assert candidates(known) == []
