"""The exchange answers each message exactly as its body mode demands, however the bodies are cut."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from igw_api import wire
from igw_extproc.errors import NoEndpoints, TooLarge, UnknownModel
from igw_extproc.messages import Arrived, BodyMode, Chunk, Finish, Immediate, Message, Part, Reply, Step
from igw_extproc.stream import CHUNK_BYTES, Exchange
from igw_testing.builders import message, pieces
from igw_testing.exchanges import (
    BODIES,
    DUPLEX,
    HEADERS,
    LIMIT,
    PASSES,
    PLACEMENT,
    ROUTING,
    arrival,
    first,
    replies,
    request_body,
    streamed,
)

# ------------------------------------------------------------------------------------------------ full duplex


@given(body=BODIES, cuts=st.lists(st.integers(0, 3 * CHUNK_BYTES), max_size=6), trailers=st.booleans())
@example(body=b"", cuts=[], trailers=False)
@example(body=b"", cuts=[], trailers=True)
@example(body=b"x" * CHUNK_BYTES, cuts=[], trailers=False)
@example(body=b"x" * (CHUNK_BYTES + 1), cuts=[1], trailers=False)
def test_in_full_duplex_the_body_comes_back_whole_after_the_headers_however_it_was_cut(
    body: bytes, cuts: list[int], trailers: bool
) -> None:
    exchange = Exchange(LIMIT)
    parts = pieces(body, cuts)
    messages = [first(*DUPLEX), *(request_body(part, end=False) for part in parts)]
    if trailers:
        messages.append(message(Part.REQUEST_TRAILERS))
    else:
        messages[-1] = request_body(parts[-1], end=True)
    for one in messages[:-1]:
        assert exchange.receive(one) == Step(), "nothing is answered before the whole body is there"
    request = arrival(exchange.receive(messages[-1]))
    assert (request.body, request.complete, request.headers) == (body, True, HEADERS)

    head, *rest = replies(exchange.place(PLACEMENT))
    assert (head.part, head.body, head.clear_route_cache) == (Part.REQUEST_HEADERS, None, True)
    assert streamed(rest) == body
    if trailers:
        assert rest[-1] == PASSES[Part.REQUEST_TRAILERS]
        assert not any(reply.end_of_stream for reply in rest)
        assert dict(head.set_headers) == ROUTING
    else:
        assert rest[-1].end_of_stream and sum(reply.end_of_stream for reply in rest) == 1
        assert dict(head.set_headers) == {**ROUTING, "content-length": str(len(body))}


@pytest.mark.parametrize("trailers", [False, True])
def test_in_full_duplex_a_changed_body_is_sent_with_its_own_length(trailers: bool) -> None:
    exchange = Exchange(LIMIT)
    exchange.receive(first(*DUPLEX))
    exchange.receive(request_body(b"the body that came", end=not trailers))
    if trailers:
        exchange.receive(message(Part.REQUEST_TRAILERS))
    head, *rest = replies(exchange.place(PLACEMENT._replace(body=b"another")))
    assert dict(head.set_headers)["content-length"] == "7"
    assert streamed(rest) == b"another"


def test_in_full_duplex_a_second_end_of_the_body_is_ignored() -> None:
    """Some proxies send an empty last chunk after the last one: a second answer would be a second body."""
    exchange = Exchange(LIMIT)
    exchange.receive(first(*DUPLEX))
    exchange.receive(request_body(b"{}"))
    exchange.place(PLACEMENT)
    assert exchange.receive(request_body(b"")) == Step()


def test_in_full_duplex_trailers_after_a_whole_body_are_answered() -> None:
    exchange = Exchange(LIMIT)
    exchange.receive(first(*DUPLEX))
    exchange.receive(request_body(b"{}"))
    exchange.place(PLACEMENT)
    assert exchange.receive(message(Part.REQUEST_TRAILERS)).outputs == (PASSES[Part.REQUEST_TRAILERS],)


def test_in_full_duplex_a_body_without_headers_before_it_is_answered_like_any_other() -> None:
    """Not what proxies do, but no reason to fail."""
    exchange = Exchange(LIMIT)
    request = arrival(exchange.receive(message(Part.REQUEST_BODY, b"{}", end=True, modes=DUPLEX)))
    assert request.body == b"{}"
    assert streamed(replies(exchange.place(PLACEMENT))) == b"{}"


@given(size=st.integers(0, 40), cut=st.integers(0, 40))
def test_in_full_duplex_a_body_is_held_up_to_the_limit_and_not_a_byte_longer(size: int, cut: int) -> None:
    exchange = Exchange(limit=20)
    exchange.receive(first(*DUPLEX))
    start, end = pieces(b"x" * size, [cut])

    def send() -> Step:
        exchange.receive(request_body(start, end=False))
        return exchange.receive(request_body(end))

    if size > 20:
        with pytest.raises(TooLarge, match="20 bytes"):
            send()
    else:
        assert arrival(send()).body == b"x" * size


# ------------------------------------------------------------------------------------------------ buffered


@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL])
def test_buffered_headers_are_answered_at_once_and_the_body_carries_the_decision(mode: BodyMode) -> None:
    """Envoy waits for the answer to the headers before it sends the body."""
    exchange = Exchange(LIMIT)
    assert exchange.receive(first(mode)) == Step((PASSES[Part.REQUEST_HEADERS],))
    request = arrival(exchange.receive(request_body(b"{}")))
    assert (request.headers, request.body, request.complete) == (HEADERS, b"{}", True)
    (reply,) = replies(exchange.place(PLACEMENT))
    assert reply == Reply(Part.REQUEST_BODY, tuple(ROUTING.items()), metadata=ROUTING)


def test_a_changed_buffered_body_has_its_own_length() -> None:
    """Envoy refuses a length that does not fit."""
    exchange = Exchange(LIMIT)
    exchange.receive(first(BodyMode.BUFFERED))
    exchange.receive(request_body(b"the body that came"))
    (reply,) = replies(exchange.place(PLACEMENT._replace(body=b"another")))
    assert reply.body == b"another"
    assert dict(reply.set_headers) == {**ROUTING, "content-length": "7"}
    assert not reply.streamed


@pytest.mark.parametrize(
    ("mode", "end", "complete"),
    [
        (BodyMode.BUFFERED, True, True),
        (BodyMode.BUFFERED, False, True),
        (BodyMode.BUFFERED_PARTIAL, True, True),
        (BodyMode.BUFFERED_PARTIAL, False, False),
    ],
)
def test_only_a_partly_buffered_body_may_be_cut(mode: BodyMode, end: bool, complete: bool) -> None:
    """Before trailers, a body that was buffered whole does not end the stream either."""
    exchange = Exchange(LIMIT)
    exchange.receive(first(mode))
    assert arrival(exchange.receive(request_body(b"{}", end=end))).complete is complete


@pytest.mark.parametrize("mode", [mode for mode in BodyMode if mode is not BodyMode.FULL_DUPLEX])
def test_whatever_follows_the_decision_is_answered_once_and_passes(mode: BodyMode) -> None:
    """Outside full duplex the proxy waits for an answer to each message, and for a timeout without one."""
    exchange = Exchange(LIMIT)
    exchange.receive(first(mode, mode))
    if mode in (BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL):
        exchange.receive(request_body(b"{}"))
    exchange.place(PLACEMENT)
    for part in (Part.REQUEST_BODY, Part.REQUEST_BODY, Part.REQUEST_TRAILERS, Part.RESPONSE_BODY, Part.RESPONSE_BODY):
        assert exchange.receive(message(part, b"more")).outputs == (PASSES[part],)
    step = exchange.receive(message(Part.RESPONSE_TRAILERS))
    assert step == Step((PASSES[Part.RESPONSE_TRAILERS],), Chunk(b"", True)), "trailers end a response too"


# ------------------------------------------------------------------------------------------------ one message


@pytest.mark.parametrize("modes", [(BodyMode.BUFFERED_PARTIAL, BodyMode.NONE), None], ids=["announced", "silent"])
def test_one_message_with_attributes_is_a_whole_request(modes: tuple[BodyMode, BodyMode] | None) -> None:
    """The proxy has sent no headers, so it has none to change: metadata alone carries the decision."""
    exchange = Exchange(LIMIT)
    told = {"request.path": "/v1/completions"}
    one = message(Part.REQUEST_BODY, b"{}", end=True, modes=modes, attributes=told)._replace(subset=("10.0.0.1:8000",))
    assert arrival(exchange.receive(one)) == Arrived({}, told, b"{}", True, ("10.0.0.1:8000",))
    assert exchange.place(PLACEMENT) == (Reply(Part.REQUEST_BODY, metadata=ROUTING),)


def test_one_message_may_be_answered_with_another_body() -> None:
    exchange = Exchange(LIMIT)
    exchange.receive(message(Part.REQUEST_BODY, b"{}", end=True, modes=(BodyMode.BUFFERED_PARTIAL, BodyMode.NONE)))
    assert exchange.place(PLACEMENT._replace(body=b"new")) == (Reply(Part.REQUEST_BODY, body=b"new", metadata=ROUTING),)


# ------------------------------------------------------------------------------------------------ headers alone


@pytest.mark.parametrize("mode", [BodyMode.NONE, BodyMode.STREAMED])
def test_where_no_body_is_held_the_headers_alone_decide(mode: BodyMode) -> None:
    exchange = Exchange(LIMIT)
    request = arrival(exchange.receive(first(mode)))
    assert (request.body, request.complete) == (b"", False)
    (reply,) = replies(exchange.place(PLACEMENT))
    assert reply == Reply(Part.REQUEST_HEADERS, tuple(ROUTING.items()), metadata=ROUTING, clear_route_cache=True)


@pytest.mark.parametrize("mode", list(BodyMode))
def test_a_request_without_a_body_is_decided_at_its_headers_in_every_mode(mode: BodyMode) -> None:
    exchange = Exchange(LIMIT)
    assert arrival(exchange.receive(first(mode, end=True))).complete
    (reply,) = replies(exchange.place(PLACEMENT))
    assert reply.part is Part.REQUEST_HEADERS
    assert "content-length" not in dict(reply.set_headers)
    assert reply.headers_only is (mode in (BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL)), "else it ends too early"


@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL])
def test_a_response_that_the_proxy_shows_is_not_hidden_because_the_request_has_no_body(mode: BodyMode) -> None:
    exchange = Exchange(LIMIT)
    exchange.receive(first(mode, BodyMode.STREAMED, end=True))
    (reply,) = replies(exchange.place(PLACEMENT))
    assert not reply.headers_only


WEBSOCKET = {":method": "GET", "connection": "keep-alive, Upgrade", "upgrade": "websocket"}


@pytest.mark.parametrize("headers", [WEBSOCKET, {":method": "CONNECT"}], ids=["websocket", "connect"])
@pytest.mark.parametrize("mode", list(BodyMode))
def test_what_switches_protocols_is_decided_at_its_headers_and_shows_no_more_where_it_would_wait(
    mode: BodyMode, headers: dict[str, str]
) -> None:
    """Its body has no end that a proxy could collect."""
    exchange = Exchange(LIMIT)
    assert not arrival(exchange.receive(first(mode)._replace(headers={**HEADERS, **headers}))).complete
    (reply,) = replies(exchange.place(PLACEMENT))
    assert (reply.part, dict(reply.set_headers)) == (Part.REQUEST_HEADERS, ROUTING)
    assert reply.headers_only is (mode in (BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL))


@pytest.mark.parametrize(
    "headers", [{"upgrade": "websocket"}, {"connection": "upgrade"}, {"connection": "close", "upgrade": "websocket"}]
)
def test_half_a_switch_of_protocols_is_none(headers: dict[str, str]) -> None:
    """Any client may send one of the two headers; its body is a body."""
    exchange = Exchange(LIMIT)
    passed = exchange.receive(first(BodyMode.BUFFERED)._replace(headers={**HEADERS, **headers}))
    assert passed == Step((PASSES[Part.REQUEST_HEADERS],))


def test_in_full_duplex_what_follows_a_switch_of_protocols_is_given_back_at_once() -> None:
    exchange = Exchange(LIMIT)
    exchange.receive(first(*DUPLEX)._replace(headers={**HEADERS, **WEBSOCKET}))
    exchange.place(PLACEMENT)
    for body, end in ((b"one", False), (b"two", False), (b"", True)):
        (reply,) = replies(exchange.receive(request_body(body, end=end)).outputs)
        assert (reply.streamed, reply.body, reply.end_of_stream) == (True, body, end)


def test_a_second_set_of_request_headers_is_ignored() -> None:
    """A second decision on one stream would leave the first one's load counted for ever."""
    exchange = Exchange(LIMIT)
    exchange.receive(first(BodyMode.NONE))
    exchange.place(PLACEMENT)
    assert exchange.receive(first(BodyMode.NONE)) == Step()


# ------------------------------------------------------------------------------------------------ refusals


def test_a_refusal_answers_the_client_and_ends_the_stream() -> None:
    exchange = Exchange(LIMIT)
    exchange.receive(first(BodyMode.NONE))
    answer, end = exchange.refuse(UnknownModel("gpt-9", ["llama"]), (("retry-after", "1"),))
    assert isinstance(answer, Immediate) and isinstance(end, Finish)
    assert answer.status == 404
    assert json.loads(answer.body)["error"]["code"] == "model_not_found"
    assert dict(answer.headers) == {
        "content-type": "application/json",
        wire.DROP_REASON_HEADER: "rejected-unknown-model",
        "retry-after": "1",
    }


MESSAGES = st.builds(
    message,
    part=st.sampled_from(Part),
    body=st.binary(max_size=20),
    end=st.booleans(),
    headers=st.sampled_from([{}, HEADERS, {":status": "200", "content-type": "application/json"}]),
    modes=st.none() | st.tuples(st.sampled_from(BodyMode), st.sampled_from(BodyMode)),
)


@given(before=st.lists(MESSAGES, max_size=4), after=st.lists(MESSAGES, min_size=1, max_size=6))
def test_nothing_is_said_after_a_refusal(before: list[Message], after: list[Message]) -> None:
    exchange = Exchange(LIMIT)
    for one in before:
        exchange.receive(one)
    exchange.refuse(NoEndpoints("none"))
    assert [exchange.receive(one) for one in after] == [Step()] * len(after)


@given(messages=st.lists(MESSAGES, max_size=8))
def test_a_request_is_decided_at_most_once_and_outside_full_duplex_no_message_has_two_answers(
    messages: list[Message],
) -> None:
    """Whatever a proxy sends, in whatever order."""
    exchange, decided = Exchange(LIMIT), 0
    duplex = bool(messages) and BodyMode.FULL_DUPLEX in (messages[0].request_mode, messages[0].response_mode)
    for one in messages:
        outputs, notice = exchange.receive(one)
        if isinstance(notice, Arrived):
            decided += 1
            outputs += exchange.place(PLACEMENT)
        said = [output for output in outputs if isinstance(output, Reply)]
        assert duplex or [reply.part for reply in said] in ([], [one.part])
    assert decided <= 1
