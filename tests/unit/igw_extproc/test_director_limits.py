"""Who may be chosen, who is refused and why, and until when a placed request counts."""

import random

import pytest

from igw_api import wire
from igw_api.objects import AnyObject
from igw_extproc.errors import NoEndpoints, Saturated
from igw_extproc.messages import Responded
from igw_testing.builders import (
    Picking,
    address,
    arrived,
    chat,
    load,
    model,
    objective,
)
from igw_testing.placing import LONG, ask, first, picking, place, refused

# ------------------------------------------------------------------------------------------------ who may be chosen

BUSY = load(waiting=50, kv_usage=0.99)


def busy(*objects: AnyObject) -> Picking:
    """Engines that are all far past their limits."""
    here = picking(*objects)
    for host in (1, 2):
        here.says(host, BUSY)
    return here


def test_sheddable_requests_are_refused_while_all_is_busy() -> None:
    here = busy(model("batch", priority=-1), model("chat"))
    error = refused(here, arrived(chat("batch")))
    assert isinstance(error, Saturated)
    assert first(place(here, arrived(chat("chat"))))


def test_an_objective_makes_requests_sheddable_or_saves_them() -> None:
    here = busy(model("m", priority=-1), objective("urgent", 5), objective("background", -5))
    assert isinstance(refused(here, arrived(chat("m"))), Saturated)
    placed = place(here, arrived(chat("m"), headers={wire.OBJECTIVE_HEADER: "urgent"}))
    assert ask(placed).priority == 5
    here.director.end(placed.flight, 2.0)
    assert isinstance(refused(here, arrived(chat("m"), headers={wire.OBJECTIVE_HEADER: "background"})), Saturated)


def test_sheddable_requests_are_served_where_one_engine_has_room() -> None:
    here = busy(model("batch", priority=-1))
    here.says(1, load())
    here.says(2, load(waiting=6))
    assert first(place(here, arrived(chat("batch")))) == address(1)


def test_only_the_engines_that_are_allowed_count_as_room() -> None:
    here = picking(model("batch", priority=-1))
    here.says(2, BUSY)
    assert isinstance(refused(here, arrived(chat("batch"), subset=[address(2)])), Saturated)


@pytest.mark.parametrize(
    "subset",
    [[address(2)], ["10.0.0.2"], [address(2), "10.0.0.99:8000"], ["[10.0.0.2]"]],
    ids=["address", "host", "with an unknown one", "in brackets"],
)
def test_only_endpoints_that_the_proxy_allows_are_named(subset: list[str]) -> None:
    here = picking(engines=3)
    here.says(2, BUSY)
    assert place(here, arrived(chat(), subset=subset)).placement.destinations == (address(2),)


@pytest.mark.parametrize(
    ("here", "subset", "told"),
    [
        (picking(engines=0), None, "has no endpoints"),
        (Picking(), None, "no pool"),
        (picking(), [], "None of the 0 endpoints allowed"),
        (picking(), ["10.0.0.9:8000"], "None of the 1 endpoints allowed"),
    ],
)
def test_a_request_that_nobody_may_serve_is_told_why(here: Picking, subset: list[str] | None, told: str) -> None:
    error = refused(here, arrived(chat(), subset=subset))
    assert isinstance(error, NoEndpoints)
    assert told in str(error)


def test_with_nobody_listening_requests_are_refused() -> None:
    here = picking()
    for host in (1, 2):
        here.ledgers.unreachable(address(host), "refused", 1.0)
    assert "None of the 2 endpoints of the pool default/llm answers" in str(refused(here, arrived(chat())))


def test_nobody_listening_is_no_reason_to_call_it_busy() -> None:
    """503 tells a client to go elsewhere; 429 to wait."""
    here = picking(model("batch", priority=-1))
    for host in (1, 2):
        here.ledgers.unreachable(address(host), "refused", 1.0)
    assert refused(here, arrived(chat("batch"))).status == 503


# ------------------------------------------------------------------------------------------------ until when


def test_a_request_counts_from_its_placement_to_its_end_and_no_longer() -> None:
    here = picking()
    placed = [place(here, arrived(chat())) for _ in range(10)]
    assert here.in_flight() == len(here.director.flights) == 10
    for one in placed:
        here.director.end(one.flight, 2.0)
        here.director.end(one.flight, 3.0)
    assert here.in_flight() == 0 and not here.director.flights


def test_lease_ids_are_unique_within_and_between_pickers() -> None:
    """Streams outlive a restart of the picker."""
    ids = [
        place(here, arrived(chat())).placement.lease for here in (picking(seed=1), picking(seed=2)) for _ in range(50)
    ]
    assert len(set(ids)) == 100


def test_the_load_goes_where_the_request_was_served() -> None:
    here = picking()
    placed = place(here, arrived(chat()))
    chosen, other = placed.placement.destinations
    placed.flight.responded(Responded(200, other, None))
    assert placed.flight.moved
    counted = {one.endpoint.address: one.requests for one in here.ledgers}
    assert counted == {chosen: 0, other: 1}
    here.director.end(placed.flight, 2.0)
    assert here.in_flight() == 0


@pytest.mark.parametrize("served", [None, "10.0.0.99:8000"])
def test_the_load_stays_where_it_was_sent_if_nobody_known_served_it(served: str | None) -> None:
    here = picking()
    placed = place(here, arrived(chat()))
    placed.flight.responded(Responded(200, served, None))
    assert not placed.flight.moved and here.in_flight() == 1


def test_the_first_byte_is_timed_once() -> None:
    placed = place(picking(), arrived(chat()), now=1.0)
    assert placed.flight.first_byte(1.25) == 0.25
    assert placed.flight.first_byte(2.0) is None


def test_an_ended_request_is_told_nothing_more() -> None:
    here = picking()
    placed = place(here, arrived(chat()))
    here.director.end(placed.flight, 2.0)
    placed.flight.responded(Responded(200, placed.placement.destinations[1], None))
    assert placed.flight.first_byte(3.0) is None
    assert (placed.flight.moved, here.in_flight()) == (False, 0)


@pytest.mark.parametrize(("status", "learnt"), [(200, True), (503, False)])
@pytest.mark.parametrize("bytes_seen", [True, False])
def test_the_index_learns_only_from_requests_that_went_well(status: int, learnt: bool, bytes_seen: bool) -> None:
    here = picking()
    placed = place(here, arrived(chat(content=LONG)))
    placed.flight.responded(Responded(status, None, None))
    if bytes_seen:
        placed.flight.first_byte(2.0)
    here.director.end(placed.flight, 3.0)
    assert (place(here, arrived(chat(content=LONG))).flight.decision.cached_tokens > 0) is learnt


def test_without_a_view_of_responses_the_end_of_a_request_teaches() -> None:
    here = picking()
    here.director.end(place(here, arrived(chat(content=LONG))).flight, 2.0)
    assert place(here, arrived(chat(content=LONG))).flight.decision.cached_tokens > 0


def test_a_pool_may_go_while_its_requests_are_in_flight() -> None:
    here = picking()
    placed = place(here, arrived(chat()))
    ledger = placed.flight.first_choice
    here.serve()
    with pytest.raises(NoEndpoints):
        place(here, arrived(chat()))
    here.director.end(placed.flight, 2.0)
    assert ledger.requests == 0 and not here.director.flights


def test_what_is_placed_is_logged_only_for_those_who_ask(caplog: pytest.LogCaptureFixture) -> None:
    """Prompts never are."""
    here = picking()
    place(here, arrived(chat(content="secret")))
    assert not caplog.records
    with caplog.at_level("DEBUG", logger="igw_extproc.director"):
        placed = place(here, arrived(chat(content="secret")))
    assert placed.placement.lease in caplog.text
    assert "secret" not in caplog.text


def test_equal_seeds_decide_equally() -> None:
    """No hidden source of chance: what was seen can be replayed."""

    def decisions(seed: int) -> list[tuple[str, ...]]:
        here = picking(model("m", a=1, b=1), engines=5, seed=seed)
        rng = random.Random(1)
        return [place(here, arrived(chat("m", "x" * rng.randrange(2000)))).placement.destinations for _ in range(30)]

    assert decisions(7) == decisions(7) != decisions(8)
