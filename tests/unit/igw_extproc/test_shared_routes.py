"""Routes that lead to several pools: whose a model is, and how the proxy is told."""

import logging

import pytest

from igw_api import wire
from igw_api.objects import AnyObject, Lead
from igw_api.objectset import ObjectSet
from igw_extproc.datastore import LINGERS, Datastore
from igw_extproc.errors import NoEndpoints, UnknownModel
from igw_extproc.messages import BodyMode, Part, Placement, Reply
from igw_extproc.stream import Exchange
from igw_testing.builders import (
    Picking,
    address,
    arrived,
    chat,
    lead,
    member,
    message,
    model,
    policy,
    pool,
)
from igw_testing.exchanges import LIMIT, ROUTING, first, replies, request_body

ROUTE = "httproute/infra/igw-llm/rule/0"
PLACEMENT = Placement(("10.0.0.1:8000", "10.0.0.2:8000"), "lease-1", pool="default/b")
ANNOUNCED = {**ROUTING, wire.POOL_HEADER: "default/b"}


def serving(*objects: AnyObject, **leads: Lead) -> Datastore:
    """A datastore with the pools a, b and c (c serves any model), and leads by their routes' names."""
    made = Datastore("prefix-cache", lambda: 0.0)
    made.replace(ObjectSet.of([pool("a"), pool("b"), pool("c"), *objects], leads))
    return made


def owner(here: Datastore, asked: str | None, route: str = "r") -> str:
    """The pool that a request for this model goes to."""
    return here.route(route).pool_for(asked).pool.key.name


# ------------------------------------------------------------------------------------------------ whose it is


@pytest.mark.parametrize("match", ["", "/match/0", "/match/1/llm.example", "/match/0/*"])
def test_a_route_is_known_by_its_name_up_to_its_match(match: str) -> None:
    """A gateway that names each match apart routes all of them to the same place."""
    here = serving(**{ROUTE: lead("b")})
    assert owner(here, "any", ROUTE + match) == "b"


def test_a_lead_of_one_pool_leads_there_whatever_the_model() -> None:
    assert [owner(serving(model("m", pool="b"), r=lead("a")), asked) for asked in ("m", "x", None)] == ["a", "a", "a"]


def test_a_lead_goes_before_the_pool_of_the_routes_name() -> None:
    assert owner(serving(**{"default/a": lead("b")}), "any", "default/a") == "b"


def test_of_several_pools_the_one_that_declares_the_model_takes_it_and_one_without_models_all_others() -> None:
    here = serving(model("m", pool="a"), model("n", pool="b"), r=lead("a", "b", "c"))
    assert [owner(here, asked) for asked in ("m", "n", "x")] == ["a", "b", "c"]


def test_a_request_that_names_no_model_goes_to_the_first_pool() -> None:
    here = serving(model("m", pool="a"), model("n", pool="b"), r=lead("b", "a"))
    assert owner(here, None) == "b"


def test_a_name_that_two_pools_declare_belongs_to_the_older_declaration() -> None:
    old, new = model("m", pool="b", created=1.0), model("m", pool="a", object_name="newer", created=2.0)
    for pools in (("a", "b"), ("b", "a")):
        assert owner(serving(old, new, r=lead(*pools)), "m") == "b"


def test_only_the_pools_of_the_route_count() -> None:
    here = serving(model("m", pool="a"), model("m", pool="b", object_name="other"), r=lead("c", "b"), s=lead("c", "a"))
    assert (owner(here, "m", "r"), owner(here, "m", "s")) == ("b", "a")


def test_a_model_that_no_pool_serves_is_unknown_and_the_client_is_told_those_of_all() -> None:
    here = serving(model("n", pool="b"), model("m", pool="a"), model("reserved", pool="a", t=0), r=lead("a", "b"))
    with pytest.raises(UnknownModel, match=r"`x` is not served here\. Models: `m`, `n`\."):
        owner(here, "x")


def test_pools_that_are_not_there_yet_are_passed_over() -> None:
    assert owner(serving(r=lead("missing", "b")), None) == "b"


def test_a_route_none_of_whose_pools_is_there_leads_nowhere_and_not_to_another_pool() -> None:
    here = Datastore("prefix-cache", lambda: 0.0)
    here.replace(ObjectSet.of([pool("a")], {"r": lead("missing")}))
    with pytest.raises(NoEndpoints, match="route `r`"):
        here.route("r")
    assert owner(here, None, "another") == "a"


# ------------------------------------------------------------------------------------------------ routes that are gone


def changed() -> Picking:
    """The pool a went a moment ago, and with it the route on which requests for b landed too."""
    here = shared()
    here.now = 100.0
    here.serve(pool("b"), member(2, "b"), model("n", pool="b"), leads={"b": lead("b")})
    return here


def test_a_route_that_is_gone_leads_for_a_while_to_what_is_left_of_its_pools() -> None:
    """Until proxies have learnt of it; and they are told the pool, since they may still route by that."""
    here = changed()
    here.now = 100.0 + LINGERS - 1
    assert not here.director.is_foreign("r/match/0/*")
    placed = here.director.place(arrived(chat("n"), route="r/match/0/*"), 1.0).placement
    assert (placed.destinations, placed.pool) == ((address(2),), "default/b")
    with pytest.raises(UnknownModel):
        here.director.place(arrived(chat("m"), route="r"), 1.0)


def test_in_the_end_it_is_a_strangers() -> None:
    here = changed()
    here.now = 100.0 + LINGERS
    assert here.director.is_foreign("r")


def test_what_changes_meanwhile_holds_for_it_too_but_gives_it_no_more_time() -> None:
    here = changed()
    here.now = 120.0
    here.serve(pool("b"), member(3, "b"), leads={"b": lead("b")})
    assert here.director.place(arrived(chat("any"), route="r"), 1.0).placement.destinations == (address(3),)
    here.now = 100.0 + LINGERS
    assert here.director.is_foreign("r")


def test_a_route_that_comes_back_leads_where_it_is_said_now() -> None:
    here = changed()
    here.serve(pool("b"), pool("c"), member(2, "b"), member(3, "c"), leads={"r": lead("c")})
    assert here.director.place(arrived(chat("n"), route="r"), 1.0).placement.destinations == (address(3),)


def test_a_route_none_of_whose_pools_is_left_is_a_strangers_at_once() -> None:
    here = shared()
    here.serve(pool("c"), member(3, "c"), leads={"s": lead("c")})
    assert here.director.is_foreign("r")


# ------------------------------------------------------------------------------------------------ the placement


def shared(announce: bool = True) -> Picking:
    """The pools a (serves m, engine 1) and b (serves n, engine 2) behind one route."""
    return Picking(
        *(pool("a"), pool("b"), member(1, "a"), member(2, "b"), model("m", pool="a"), model("n", pool="b")),
        leads={"r": lead("a", "b", announce=announce)},
    )


@pytest.mark.parametrize(("asked", "host", "name"), [("m", 1, "default/a"), ("n", 2, "default/b")])
@pytest.mark.parametrize("announce", [True, False])
def test_a_request_is_placed_in_its_models_pool_which_is_named_where_the_proxy_asks_for_it(
    asked: str, host: int, name: str, announce: bool
) -> None:
    placed = shared(announce).director.place(arrived(chat(asked), route="r"), 1.0)
    assert placed.placement.destinations == (address(host),)
    assert placed.placement.pool == (name if announce else None)
    assert placed.flight.pool == name


def test_the_models_header_decides_where_the_body_does_not() -> None:
    headers = {wire.MODEL_HEADER: "n"}
    request = arrived(path="/v1/models", headers=headers, route="r")
    assert shared().director.place(request, 1.0).placement.pool == "default/b"


def test_a_clients_own_word_about_the_pool_does_not_count() -> None:
    request = arrived(chat("m"), headers={wire.POOL_HEADER: "default/b"}, route="r")
    assert shared().director.place(request, 1.0).placement.pool == "default/a"


def test_a_subset_of_another_pools_endpoints_allows_none() -> None:
    with pytest.raises(NoEndpoints, match="default/a"):
        shared().director.place(arrived(chat("m"), route="r", subset=[address(2)]), 1.0)


# ------------------------------------------------------------------------------------------------ the answer


@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL])
def test_a_buffered_body_is_answered_with_the_pool_and_a_new_choice_of_route(mode: BodyMode) -> None:
    exchange = Exchange(LIMIT)
    exchange.receive(first(mode))
    exchange.receive(request_body(b"{}"))
    (reply,) = exchange.place(PLACEMENT)
    assert reply == Reply(Part.REQUEST_BODY, tuple(ANNOUNCED.items()), metadata=ANNOUNCED, clear_route_cache=True)


@pytest.mark.parametrize("mode", [BodyMode.NONE, BodyMode.STREAMED, BodyMode.FULL_DUPLEX])
def test_answered_headers_name_the_pool(mode: BodyMode) -> None:
    exchange = Exchange(LIMIT)
    exchange.receive(first(mode))
    if mode is BodyMode.FULL_DUPLEX:
        exchange.receive(request_body(b"{}"))
    head = replies(exchange.place(PLACEMENT))[0]
    assert dict(head.set_headers)[wire.POOL_HEADER] == head.metadata[wire.POOL_HEADER] == "default/b"
    assert head.clear_route_cache


def test_whatever_header_the_answer_sets_no_client_may_send() -> None:
    """The proxy's routes and its balancing go by them, also while no picker is there to replace a client's own."""
    exchange = Exchange(LIMIT)
    exchange.receive(first(BodyMode.NONE))
    (head,) = replies(exchange.place(PLACEMENT))
    assert dict(head.set_headers).keys() <= set(wire.PRIVATE_HEADERS)


def test_one_message_is_answered_with_the_pool_as_metadata() -> None:
    exchange = Exchange(LIMIT)
    exchange.receive(message(Part.REQUEST_BODY, b"{}", end=True, modes=(BodyMode.BUFFERED_PARTIAL, BodyMode.NONE)))
    assert exchange.place(PLACEMENT) == (Reply(Part.REQUEST_BODY, metadata=ANNOUNCED, clear_route_cache=True),)


# ------------------------------------------------------------------------------------------------ policies


def test_a_policy_that_we_do_not_know_is_the_default_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """An operator may be newer than a picker."""
    with caplog.at_level(logging.ERROR):
        here = Picking(pool("a"), member(1, "a"), policy("from-the-future", "a"), default_policy="least-token")
        here.serve(pool("a"), member(1, "a"), policy("from-the-future", "a"))
    assert here.datastore.views["default/a"].policy == "least-token"
    assert [record.getMessage() for record in caplog.records] == [
        "unknown policy, the default is used name=from-the-future default=least-token"
    ]
    assert here.director.place(arrived(chat()), 1.0).placement.destinations == (address(1),)
