"""Pools whose Pods nobody could list: not empty but unseen, so the proxy chooses, unless the pool fails closed."""

from collections import Counter
from dataclasses import replace

import pytest

from igw_api import wire
from igw_api.objects import FailureMode, Pool
from igw_extproc.director import Unseen
from igw_extproc.errors import NoEndpoints, UnknownModel
from igw_extproc.messages import BodyMode, Part, Placement, Reply
from igw_extproc.stream import Exchange
from igw_extproc.transport import GrpcStatus
from igw_testing.builders import Picking, address, arrived, chat, lead, member, model, pool
from igw_testing.conversations import LIMIT, Serving, modes
from igw_testing.exchanges import first
from igw_testing.exchanges import request_body as body_of
from igw_testing.ext_proc import BUFFERED, NONE, headers_set, metadata, request_body, request_headers, with_attributes


def picking(hidden: Pool | None = None, *, announce: bool = True) -> Picking:
    """The pool a (serves m), seen, and b (serves n as tuned), unseen, behind one route."""
    made = Picking()
    objects = (pool("a"), hidden or pool("b"), member(1, "a"), model("m", pool="a"), model("n", pool="b", tuned=1))
    made.serve(*objects, leads={"r": lead("a", "b", announce=announce)}, unseen=["b"])
    return made


@pytest.mark.parametrize("announce", [True, False])
def test_the_proxy_is_told_the_pool_and_the_models_new_name_but_no_endpoint(announce: bool) -> None:
    """A new name is needed by whichever engine it will be."""
    with pytest.raises(Unseen) as caught:
        picking(announce=announce).director.place(arrived(chat("n"), route="r"), 1.0)
    told = caught.value.placement
    assert (told.destinations, told.lease, told.pool) == ((), "", "default/b" if announce else None)
    assert told.body == chat("tuned").replace(b": ", b":").replace(b", ", b",")
    assert (caught.value.name, caught.value.model) == ("default/b", "n")


def test_a_pool_that_fails_closed_refuses_what_cannot_be_placed() -> None:
    closed = replace(pool("b"), failure_mode=FailureMode.CLOSE)
    with pytest.raises(NoEndpoints, match="default/b has no endpoints"):
        picking(closed).director.place(arrived(chat("n"), route="r"), 1.0)


def test_what_is_wrong_with_a_request_is_said_all_the_same() -> None:
    with pytest.raises(UnknownModel):
        picking().director.place(arrived(chat("x"), route="r"), 1.0)


def test_the_pools_that_are_seen_place_as_ever() -> None:
    placed = picking().director.place(arrived(chat("m"), route="r"), 1.0)
    assert placed.placement.destinations == (address(1),)


def test_a_pool_that_is_seen_to_be_empty_refuses() -> None:
    """Where there is nobody, the proxy has nobody to choose."""
    here = picking()
    here.serve(pool("b"))
    with pytest.raises(NoEndpoints, match="default/b has no endpoints"):
        here.director.place(arrived(chat("n")), 1.0)


@pytest.mark.parametrize(("name", "told"), [("default/b", {wire.POOL_HEADER: "default/b"}), (None, {})])
def test_the_answer_says_no_more_than_that(name: str | None, told: dict[str, str]) -> None:
    exchange = Exchange(LIMIT)
    exchange.receive(first(BodyMode.BUFFERED))
    exchange.receive(body_of(b"{}"))
    (reply,) = exchange.place(Placement((), "", pool=name))
    again = name is not None
    assert reply == Reply(Part.REQUEST_BODY, tuple(told.items()), metadata=told, clear_route_cache=again)


def test_such_a_request_is_counted_as_passed_in_its_pool_and_is_not_in_flight() -> None:
    here = Serving(picking())
    stream = here.stream()
    head = with_attributes(modes(request_headers(), BUFFERED, NONE), {"xds.route_name": "r"})
    _, reply = stream.tell(head, request_body(chat("n")))
    assert headers_set(reply)[wire.POOL_HEADER] == metadata(reply)[wire.POOL_HEADER] == "default/b"
    assert reply.request_body.response.clear_route_cache
    assert wire.DESTINATION_HEADER not in headers_set(reply) and wire.LEASE_HEADER not in metadata(reply)
    assert (stream.status, here.in_flight(), here.director.flights) == (None, 0, {})
    assert here.telemetry.requests == Counter({("default/b", "n", "passed"): 1})
    stream.conversation.half_closed()
    assert stream.status is GrpcStatus.OK
    stream.conversation.ended()
    assert here.telemetry.open_streams == 0
