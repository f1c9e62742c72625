"""Responses pass as their body mode demands, whole, with the client's name of the model, however they are cut."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from igw_api import wire
from igw_extproc.messages import BodyMode, Chunk, Finish, Message, Part, Reply, Responded, Step
from igw_extproc.stream import CHUNK_BYTES, Exchange
from igw_testing.builders import message, pieces
from igw_testing.exchanges import (
    BODIES,
    DUPLEX,
    LIMIT,
    PASSES,
    first,
    placed,
    replies,
    response_body,
    response_headers,
    streamed,
)

# ------------------------------------------------------------------------------------------------ responses


def test_a_response_is_marked_and_its_end_point_reported() -> None:
    exchange = placed(*DUPLEX)
    step = exchange.receive(response_headers()._replace(served="10.0.0.2:8000"))
    assert step.outputs == (Reply(Part.RESPONSE_HEADERS, ((wire.WENT_INTO_RESPONSE_HEADER, "true"),)),)
    assert step.notice == Responded(200, "10.0.0.2:8000", None)


@pytest.mark.parametrize(
    ("headers", "attributes", "status"),
    [
        ({":status": "503"}, {}, 503),
        ({}, {"response.code": "404"}, 404),
        ({":status": "200"}, {"response.code": "404"}, 200),
        ({}, {}, 0),
        ({":status": "²"}, {}, 0),
        ({":status": "-1"}, {}, 0),
        ({":status": "ok"}, {}, 0),
    ],
)
def test_the_status_is_a_header_or_an_attribute_and_0_where_it_makes_no_sense(
    headers: dict[str, str], attributes: dict[str, str], status: int
) -> None:
    exchange = placed(*DUPLEX)
    notice = exchange.receive(message(Part.RESPONSE_HEADERS, headers=headers, attributes=attributes)).notice
    assert isinstance(notice, Responded)
    assert notice.status == status


def test_a_response_may_come_before_any_decision() -> None:
    """The proxy itself answers, for example a body that is too long: nothing was placed, and nothing is restored."""
    exchange = Exchange(LIMIT)
    exchange.receive(first(*DUPLEX))
    assert len(exchange.receive(response_headers("text/plain", "413")).outputs) == 1
    (reply,) = exchange.receive(response_body(b"too long", end=True)).outputs
    assert reply == Reply(Part.RESPONSE_BODY, body=b"too long", streamed=True, end_of_stream=True)


def test_a_response_body_may_come_without_its_headers() -> None:
    """A proxy may be told to skip them."""
    exchange = placed(*DUPLEX)
    step = exchange.receive(response_body(b"data"))
    assert step.outputs == (Reply(Part.RESPONSE_BODY, body=b"data", streamed=True),)
    assert step.notice == Chunk(b"data", False)


@pytest.mark.parametrize("mode", [mode for mode in BodyMode if mode is not BodyMode.FULL_DUPLEX])
@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
def test_outside_full_duplex_a_response_passes_untouched(mode: BodyMode, content_type: str) -> None:
    exchange = placed(BodyMode.NONE, mode, restore=("sent", "asked"))
    exchange.receive(response_headers(content_type))
    step = exchange.receive(response_body(b'{"model":"sent"}', end=True))
    assert step == Step((PASSES[Part.RESPONSE_BODY],), Chunk(b'{"model":"sent"}', True))


def respond(exchange: Exchange, content_type: str, parts: list[bytes], trailers: bool) -> list[Reply]:
    """All replies to a response's body, which came in these parts."""
    exchange.receive(response_headers(content_type))
    said: list[Reply] = []
    for at, part in enumerate(parts):
        last = at == len(parts) - 1 and not trailers
        said += replies(exchange.receive(response_body(part, end=last)).outputs)
    if trailers:
        said += replies(exchange.receive(message(Part.RESPONSE_TRAILERS)).outputs)
    return said


CONTENT_TYPES = st.sampled_from(["application/json", "Application/JSON; charset=utf-8", "text/event-stream", "", "a/b"])


@given(
    body=BODIES,
    cuts=st.lists(st.integers(0, 3 * CHUNK_BYTES), max_size=5),
    content_type=CONTENT_TYPES,
    restore=st.sampled_from([None, ("sent", "asked")]),
    trailers=st.booleans(),
)
def test_in_full_duplex_a_response_comes_back_whole_and_ends_once(
    body: bytes, cuts: list[int], content_type: str, restore: tuple[str, str] | None, trailers: bool
) -> None:
    said = respond(placed(*DUPLEX, restore=restore), content_type, pieces(body, cuts), trailers)
    assert streamed(said, Part.RESPONSE_BODY) == body
    if trailers:
        assert said[-1] == PASSES[Part.RESPONSE_TRAILERS]
        assert not any(reply.end_of_stream for reply in said)
    else:
        assert [reply.end_of_stream for reply in said] == [False] * (len(said) - 1) + [True]


NAMES = st.text(min_size=1, max_size=12)


@given(
    sent=NAMES,
    asked=NAMES,
    gap=st.sampled_from(["", " "]),
    cuts=st.lists(st.integers(0, 300), max_size=8),
    content_type=CONTENT_TYPES,
    trailers=st.booleans(),
)
@example(sent='"', asked="\\", gap="", cuts=list(range(300)), content_type="text/event-stream", trailers=False)
@example(sent="model", asked='model":"model', gap=" ", cuts=list(range(300)), content_type="a/b", trailers=True)
def test_the_clients_name_of_the_model_is_restored_wherever_the_response_is_cut(
    sent: str, asked: str, gap: str, cuts: list[int], content_type: str, trailers: bool
) -> None:
    """Clients compare. A mention of the model in the text stays what the engine wrote."""

    def document(name: str) -> bytes:
        text = json.dumps(f'the "model":"{sent}" says', ensure_ascii=False)
        model = json.dumps(name, ensure_ascii=False)
        return f'{{"model":{gap}{model},"text":{text}}}\n'.encode()

    exchange = placed(*DUPLEX, restore=(sent, asked))
    said = respond(exchange, content_type, pieces(document(sent) * 2, cuts), trailers)
    for line in streamed(said, Part.RESPONSE_BODY).splitlines():
        assert json.loads(line) == json.loads(document(asked))


def test_events_pass_at_once_but_for_what_may_be_the_beginning_of_a_name() -> None:
    """A token that waits for the next one is a token late."""
    exchange = placed(*DUPLEX, restore=("sent", "asked"))
    exchange.receive(response_headers())
    (passed,) = replies(exchange.receive(response_body(b'data: {"id":1,"mod')).outputs)
    assert passed.body == b'data: {"id":1,'
    assert exchange.receive(response_body(b'el":"se')).outputs == ()
    (passed,) = replies(exchange.receive(response_body(b'nt","x":1}')).outputs)
    assert passed.body == b'"model":"asked","x":1}'


# ------------------------------------------------------------------------------------------------ first-byte filter


def observed(content_type: str = "text/event-stream", status: str = "200", lease: str | None = "lease-1") -> Message:
    """The first message of the first-byte filter's stream."""
    modes = (BodyMode.NONE, BodyMode.STREAMED)
    headers = {":status": status, "content-type": content_type}
    return message(Part.RESPONSE_HEADERS, headers=headers, modes=modes)._replace(lease=lease, served="10.0.0.2:8000")


def test_the_filter_shows_the_headers_and_the_first_chunk_and_is_let_go() -> None:
    exchange = Exchange(LIMIT)
    step = exchange.receive(observed())
    assert exchange.observer
    assert step == Step((PASSES[Part.RESPONSE_HEADERS],), Responded(200, "10.0.0.2:8000", "lease-1"))
    step = exchange.receive(response_body(b"data"))
    assert step == Step((PASSES[Part.RESPONSE_BODY], Finish()), Chunk(b"data", False))


def test_the_filter_is_let_go_at_trailers_and_they_are_no_first_byte() -> None:
    exchange = Exchange(LIMIT)
    exchange.receive(observed())
    step = exchange.receive(message(Part.RESPONSE_TRAILERS))
    assert step == Step((PASSES[Part.RESPONSE_TRAILERS], Finish()))


def test_the_lease_may_come_as_an_attribute_of_the_request() -> None:
    exchange = Exchange(LIMIT)
    attributes = {f"request.headers['{wire.LEASE_HEADER}']": "lease-2", "upstream.address": "10.0.0.3:8000"}
    one = message(Part.RESPONSE_HEADERS, headers={":status": "200"}, attributes=attributes)
    assert exchange.receive(one).notice == Responded(200, "10.0.0.3:8000", "lease-2", whole=True)


@pytest.mark.parametrize(
    "one",
    [
        observed(status="429"),
        observed(lease=None),
        observed(content_type="application/json"),
        observed()._replace(end_of_stream=True),
    ],
    ids=["refused", "nobody's", "no stream", "empty"],
)
def test_the_filter_is_let_go_at_the_headers_where_no_first_byte_comes_later(one: Message) -> None:
    step = Exchange(LIMIT).receive(one)
    assert step.outputs == (PASSES[Part.RESPONSE_HEADERS], Finish())
    assert isinstance(step.notice, Responded) and step.notice.whole


def test_a_response_that_somebody_is_curious_about_is_shown_to_its_first_chunk() -> None:
    """Its first byte is with its headers all the same."""
    exchange = Exchange(LIMIT, curious=lambda lease: lease == "lease-1")
    step = exchange.receive(observed(content_type="application/json"))
    assert step.outputs == (PASSES[Part.RESPONSE_HEADERS],)
    assert isinstance(step.notice, Responded) and step.notice.whole
    step = exchange.receive(response_body(b"{}"))
    assert step == Step((PASSES[Part.RESPONSE_BODY], Finish()), Chunk(b"{}", False))


@pytest.mark.parametrize("part", [Part.REQUEST_HEADERS, Part.REQUEST_BODY, Part.REQUEST_TRAILERS])
def test_the_filters_stream_never_places_a_request(part: Part) -> None:
    exchange = Exchange(LIMIT)
    exchange.receive(observed())
    assert exchange.receive(message(part, end=True)) == Step()
