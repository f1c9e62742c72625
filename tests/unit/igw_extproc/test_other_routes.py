"""Routes that are none of ours, on a port that we share with them: their requests go on as if nobody had been asked."""

from collections import Counter

import pytest

from igw_extproc.datastore import Datastore
from igw_extproc.messages import PASSES, BodyMode, Finish, Message, Part, Passed, Reply, Step
from igw_extproc.stream import CHUNK_BYTES, Exchange
from igw_extproc.transport import GrpcStatus
from igw_testing.builders import Picking, chat, lead, member, message, model, pool
from igw_testing.conversations import LIMIT, Serving, modes
from igw_testing.exchanges import (
    DUPLEX,
    HEADERS,
    first,
    replies,
    request_body,
    response_body,
    response_headers,
    streamed,
)
from igw_testing.ext_proc import BUFFERED, NONE, request_headers, with_attributes
from igw_testing.ext_proc import request_body as body_message

OURS, OTHER = "httproute/infra/igw-llm/rule/0", "httproute/users/web/rule/0/match/0/*"
HELD = [BodyMode.NONE, BodyMode.STREAMED, BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL]
# Show no more of this request, which goes on as it came; and goodbye.
LET_GO = (Reply(Part.REQUEST_HEADERS, headers_only=True), Finish())


def picking(**leads: str) -> Picking:
    """One pool that serves the model m; leads to it by route."""
    objects = (pool(), member(1), model("m"))
    return Picking(*objects, leads={route: lead(name) for route, name in leads.items()})


# ------------------------------------------------------------------------------------------------ which are ours


@pytest.mark.parametrize(
    ("route", "foreign"),
    [
        (OURS, False),
        (f"{OURS}/match/1/*", False),
        ("default/llm", False),
        (OTHER, True),
        ("httproute/infra/igw-llm/rule/1/match/0/*", True),
        ("httproute/infra/igw-llm/rule/00", True),
        ("default/gone", True),
        ("", False),
        (None, False),
    ],
    ids=["a lead", "its match", "a pool's name", "another's", "another rule", "longer", "no pool", "empty", "unknown"],
)
def test_where_leads_say_which_routes_are_ours_the_others_are_not(route: str | None, foreign: bool) -> None:
    assert picking(**{OURS: "llm"}).director.is_foreign(route) is foreign


def test_a_lead_whose_pools_are_not_there_yet_is_ours_all_the_same() -> None:
    assert not picking(**{OURS: "missing"}).director.is_foreign(OURS)


@pytest.mark.parametrize("route", [OTHER, "default/gone", None])
def test_without_leads_every_route_is_ours(route: str | None) -> None:
    """Other gateways name their routes as they like."""
    assert not picking().director.is_foreign(route)


def test_before_anything_is_known_no_route_is_anybody_elses() -> None:
    assert not Datastore("prefix-cache", lambda: 0.0).is_foreign(OTHER)


# ------------------------------------------------------------------------------------------------ what is said


def exchange() -> Exchange:
    """On a route that is not ours."""
    return Exchange(LIMIT, lambda route: route == OTHER)


def foreign(one: Message) -> Message:
    """The same on that route."""
    return one._replace(attributes={"xds.route_name": OTHER})


WEBSOCKET = {":method": "GET", "connection": "Upgrade", "upgrade": "websocket"}


@pytest.mark.parametrize("mode", HELD)
@pytest.mark.parametrize("headers", [{}, {":method": "GET"}, WEBSOCKET], ids=["post", "get", "websocket"])
def test_its_headers_pass_unchanged_and_nothing_more_of_it_is_asked_for(
    mode: BodyMode, headers: dict[str, str]
) -> None:
    """Its body must not be held: it may be larger than ours, or have no end before the response begins."""
    here = exchange()
    end = headers == {":method": "GET"}
    message_ = first(mode, BodyMode.STREAMED, end=end)._replace(headers={**HEADERS, **headers})
    assert here.receive(foreign(message_)) == Step(LET_GO, Passed())
    for late in (request_body(b"not json"), message(Part.REQUEST_TRAILERS), response_headers(), response_body(b"x")):
        assert here.receive(late) == Step(), "a proxy that does not heed that is not answered on an ended stream"


def test_in_one_message_its_body_passes_unchanged() -> None:
    here = exchange()
    only = message(Part.REQUEST_BODY, b"not json", end=True, modes=(BodyMode.BUFFERED_PARTIAL, BodyMode.NONE))
    assert here.receive(foreign(only)) == Step((PASSES[Part.REQUEST_BODY], Finish()), Passed())


@pytest.mark.parametrize("headers_first", [True, False])
def test_in_full_duplex_every_part_is_given_back_as_it_came_and_at_once(headers_first: bool) -> None:
    """There a proxy cannot be told to show no more."""
    here = exchange()
    shown = [first(*DUPLEX)] if headers_first else []
    parts = [*shown, request_body(b"x" * (CHUNK_BYTES + 1), end=False)._replace(request_mode=BodyMode.FULL_DUPLEX)]
    parts += [request_body(b"y" * 2 * LIMIT, end=False), message(Part.REQUEST_TRAILERS)]
    if not headers_first:
        parts[0] = parts[0]._replace(response_mode=BodyMode.FULL_DUPLEX)
    parts[0] = foreign(parts[0])
    steps = [here.receive(one) for one in parts]
    said = [reply for step in steps for reply in replies(step.outputs)]
    assert [step.notice for step in steps] == [Passed(), *[None] * (len(parts) - 1)]
    assert [one for one in said if one.part is Part.REQUEST_HEADERS] == [PASSES[Part.REQUEST_HEADERS]] * headers_first
    assert streamed(said) == b"x" * (CHUNK_BYTES + 1) + b"y" * 2 * LIMIT
    assert said[-1] == PASSES[Part.REQUEST_TRAILERS]
    head, body = response_headers("application/json"), response_body(b'{"model":"m"}', end=True)
    assert here.receive(head) == Step((PASSES[Part.RESPONSE_HEADERS],)), "no header of ours either"
    (reply,) = replies(here.receive(body).outputs)
    assert (reply.streamed, reply.body, reply.end_of_stream) == (True, b'{"model":"m"}', True)


def test_only_responses_in_full_duplex_are_given_back_while_the_request_passes() -> None:
    here = exchange()
    assert here.receive(foreign(first(BodyMode.BUFFERED, BodyMode.FULL_DUPLEX))).outputs == (
        PASSES[Part.REQUEST_HEADERS],
    )
    assert here.receive(request_body(b"x")).outputs == (PASSES[Part.REQUEST_BODY],)
    (reply,) = replies(here.receive(response_body(b"y")).outputs)
    assert (reply.streamed, reply.body) == (True, b"y")


# ------------------------------------------------------------------------------------------------ accounting


def test_it_is_counted_as_passed_and_neither_placed_nor_in_flight_nor_refused() -> None:
    """Whatever the body says: the model is not ours to know."""
    here = Serving(picking(**{OURS: "llm"}))
    stream = here.stream()
    head = with_attributes(modes(request_headers(), BUFFERED, NONE), {"xds.route_name": OTHER})
    (reply,) = stream.tell(head, body_message(chat("unheard-of")))
    assert reply.WhichOneof("response") == "request_headers"
    assert not reply.request_headers.response.HasField("header_mutation")
    assert not reply.request_headers.response.clear_route_cache and not reply.HasField("dynamic_metadata")
    assert stream.status is GrpcStatus.OK
    assert (here.in_flight(), here.director.flights) == (0, {})
    assert here.telemetry.requests == Counter({("", "", "passed"): 1})
    stream.conversation.ended()
    assert here.telemetry.open_streams == 0
    ours = here.stream()
    head = with_attributes(modes(request_headers(), BUFFERED, NONE), {"xds.route_name": f"{OURS}/match/0/*"})
    ours.tell(head, body_message(chat("m")))
    assert here.in_flight() == 1
