"""The other ways in which a proxy may hand out bodies: the picker answers as the stream's first message announces."""

import json
from collections.abc import Mapping

import pytest

from igw_protos import ext_proc_pb2 as pb
from igw_testing.ext_proc import (
    BUFFERED,
    BUFFERED_PARTIAL,
    DESTINATION,
    LEASE,
    NONE,
    OBJECTIVE,
    STREAMED,
    First,
    chat,
    common,
    destinations,
    headers_set,
    kind,
    metadata,
    refusal,
    request_body,
    request_headers,
    request_trailers,
    response_body,
    response_headers,
    response_trailers,
    with_attributes,
)
from igw_testing.metrics_stub import EngineStub
from igw_testing.picker import PickerProcess, model, objective, pool, rewrite

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODEL = "request.headers['x-gateway-model-name']"
CONTENT_TYPE = "request.headers['content-type']"


def one_message(body: bytes, attributes: Mapping[str, str] | None = None, *, end: bool = True) -> pb.ProcessingRequest:
    """The whole request in one message: the body, and what else matters as attributes."""
    given = {"request.path": "/v1/chat/completions", CONTENT_TYPE: "application/json", **(attributes or {})}
    return with_attributes(request_body(body, end=end), given)


ONE_MESSAGE = First(BUFFERED_PARTIAL, NONE)


# ------------------------------------------------------------------------------------------------ BUFFERED


async def test_buffered_headers_are_answered_at_once_and_the_body_carries_the_decision(plain: PickerProcess) -> None:
    """Envoy collects the body only after the headers' answer, so that one comes first and says nothing."""
    async with plain.stream(First(BUFFERED, BUFFERED)) as stream:
        await stream.send(request_headers())
        assert await stream.receive() == pb.ProcessingResponse(
            request_headers=pb.HeadersResponse(response=pb.CommonResponse())
        )
        await stream.send(request_body(chat()))
        reply = await stream.receive()
        assert kind(reply) == "request_body"
        assert destinations(reply)
        assert not common(reply).HasField("body_mutation")
        assert "content-length" not in headers_set(reply)


async def test_a_buffered_body_is_replaced_only_where_it_must_change_and_its_length_with_it(
    shared: PickerProcess,
) -> None:
    """A length that does not fit the body would be answered with 4xx by the engine, or worse."""
    async with (
        pool(shared, EngineStub(), parts=[rewrite("r", ("short", {"a-longer-name": 1}))]) as served,
        served.stream(BUFFERED, BUFFERED) as stream,
    ):
        await stream.send(request_headers(), request_body(chat("short")))
        _, reply = await stream.replies(2)
        body = common(reply).body_mutation.body
        assert json.loads(body) == json.loads(chat("a-longer-name"))
        assert headers_set(reply)["content-length"] == str(len(body))
        assert destinations(reply) == [served.engines[0].address]


async def test_a_buffered_body_before_trailers_is_whole(shared: PickerProcess) -> None:
    """With trailers to follow, Envoy sends the buffered body without the end of the stream."""
    async with (
        pool(shared, EngineStub(), parts=[rewrite("r", ("short", {"a-longer-name": 1}))]) as served,
        served.stream(BUFFERED, BUFFERED) as stream,
    ):
        await stream.send(request_headers(), request_body(chat("short"), end=False), request_trailers(checksum="1"))
        _, reply, trailers = await stream.replies(3)
        assert json.loads(common(reply).body_mutation.body)["model"] == "a-longer-name"
        assert kind(trailers) == "request_trailers"


async def test_a_buffered_response_passes_unchanged(plain: PickerProcess) -> None:
    """Every part is answered, none is touched but for the header that says we saw it."""
    async with plain.stream(First(BUFFERED, BUFFERED)) as stream:
        await stream.send(request_headers(), request_body(chat()))
        await stream.replies(2)
        await stream.send(response_headers(), response_body(b"{}"), response_trailers(checksum="1"))
        head, data, tail = await stream.replies(3)
        assert headers_set(head) == {"x-went-into-resp-headers": "true"}
        assert data == pb.ProcessingResponse(request_body=None, response_body=pb.BodyResponse(response={}))
        assert kind(tail) == "response_trailers"


# ------------------------------------------------------------------------------------------------ STREAMED, NONE


@pytest.mark.parametrize("mode", [STREAMED, NONE], ids=["streamed", "none"])
async def test_without_a_held_body_the_headers_alone_decide(plain: PickerProcess, mode: pb.BodySendMode) -> None:
    """What came with the body's answer would be too late: the request is on its way by then."""
    async with plain.stream(First(mode, mode)) as stream:
        await stream.send(request_headers())
        reply = await stream.receive()
        assert kind(reply) == "request_headers"
        assert destinations(reply)
        assert common(reply).clear_route_cache


async def test_a_streamed_body_is_waved_through(plain: PickerProcess) -> None:
    """Each chunk has one answer, without a mutation."""
    async with plain.stream(First(STREAMED, STREAMED)) as stream:
        await stream.send(request_headers(), request_body(b"{", end=False), request_body(b"}"))
        replies = await stream.replies(3)
        assert [kind(reply) for reply in replies] == ["request_headers", "request_body", "request_body"]
        assert all(not common(reply).HasField("body_mutation") for reply in replies)
        await stream.send(response_headers(), response_body(b"x", end=False), response_body(b""))
        replies = await stream.replies(3)
        assert [kind(reply) for reply in replies] == ["response_headers", "response_body", "response_body"]
        assert all(not common(reply).HasField("body_mutation") for reply in replies)


async def test_headers_alone_may_name_a_model(shared: PickerProcess) -> None:
    """With no body in sight, the model's header decides what the request is."""
    async with (
        pool(shared, EngineStub(), parts=[model("served"), model("other")]) as served,
        served.stream(NONE, NONE) as stream,
    ):
        await stream.send(request_headers({"x-gateway-model-name": "unheard-of"}, path="/v1/completions"))
        refusal(await stream.last(), 404, "rejected-unknown-model")


# ------------------------------------------------------------------------------------------------ one message


def told(reply: pb.ProcessingResponse) -> list[str]:
    """Where the answer to a lone body sends the request: in metadata, since there are no headers to change."""
    assert kind(reply) == "request_body"
    assert not common(reply).HasField("header_mutation")
    return str(metadata(reply)[DESTINATION]).split(",")


async def test_one_message_with_attributes_is_enough(plain: PickerProcess) -> None:
    """Body first, headers never: half the messages. The answer to the body carries it all."""
    async with plain.stream(ONE_MESSAGE) as stream:
        await stream.send(one_message(chat()))
        reply = await stream.receive()
        assert told(reply) and metadata(reply)[LEASE]
        assert not common(reply).HasField("body_mutation")


async def test_one_message_is_refused_like_any_other_request(plain: PickerProcess) -> None:
    """Path and content type come from the attributes."""
    async with plain.stream(ONE_MESSAGE) as stream:
        await stream.send(one_message(b"no JSON"))
        refusal(await stream.last(), 400, "rejected-bad-request")
    async with plain.stream(ONE_MESSAGE) as stream:
        await stream.send(one_message(b"a=b", {CONTENT_TYPE: "application/x-www-form-urlencoded"}))
        refusal(await stream.last(), 415, "rejected-bad-request")
    async with plain.stream(ONE_MESSAGE) as stream:
        await stream.send(one_message(b"a=b", {"request.path": "/unknown"}))
        assert told(await stream.receive())


async def test_one_message_names_its_objective_in_an_attribute(shared: PickerProcess) -> None:
    """The objective's header counts in this mode, too."""
    busy = EngineStub(waiting=50, kv=1.0)
    attributes = {f"request.headers['{OBJECTIVE}']": "batch"}
    async with (
        pool(shared, busy, parts=[objective("batch", -1)]) as served,
        served.stream(BUFFERED_PARTIAL, NONE) as stream,
    ):
        await stream.send(one_message(chat(), attributes))
        refusal(await stream.last(), 429, "rejected-saturated")


async def test_a_cut_body_is_read_as_far_as_it_goes(shared: PickerProcess) -> None:
    """A proxy that holds only the beginning says so by leaving out the end of the stream."""
    body = chat("unheard-of", prompt="x" * 1000)[:600]
    async with (
        pool(shared, EngineStub(), parts=[model("served")]) as served,
        served.stream(BUFFERED_PARTIAL, NONE) as stream,
    ):
        await stream.send(one_message(body, end=False))
        refusal(await stream.last(), 404, "rejected-unknown-model")


async def test_a_cut_body_that_does_not_show_its_model_is_placed_all_the_same(shared: PickerProcess) -> None:
    """The model may stand behind the cut. Only a whole body can be said to lack it."""
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 1000}], "model": "served"}).encode()[:600]
    async with pool(shared, EngineStub(), parts=[model("served"), model("other")]) as served:
        async with served.stream(BUFFERED_PARTIAL, NONE) as stream:
            await stream.send(one_message(body, end=False))
            reply = await stream.receive()
            assert told(reply) == [served.engines[0].address]
            assert not common(reply).HasField("body_mutation")
        async with served.stream(BUFFERED_PARTIAL, NONE) as stream:
            await stream.send(one_message(body, {MODEL: "unheard-of"}, end=False))
            refusal(await stream.last(), 404, "rejected-unknown-model")


async def test_a_cut_body_is_never_replaced(shared: PickerProcess) -> None:
    """The proxy still holds the rest: a replacement of the beginning would garble the whole."""
    body = chat("short", prompt="x" * 1000)[:600]
    async with (
        pool(shared, EngineStub(), parts=[rewrite("r", ("short", {"a-longer-name": 1}))]) as served,
        served.stream(BUFFERED_PARTIAL, NONE) as stream,
    ):
        await stream.send(one_message(body, end=False))
        reply = await stream.receive()
        assert told(reply)
        assert not common(reply).HasField("body_mutation")


# ------------------------------------------------------------------------------------------------ no announcement


async def test_a_proxy_that_announces_nothing_gets_the_answer_to_its_headers(plain: PickerProcess) -> None:
    """Older proxies do not tell their modes. Headers are then all that is sure to come."""
    async with plain.stream(None) as stream:
        await stream.send(request_headers())
        assert DESTINATION in headers_set(await stream.receive())


# ------------------------------------------------------------------------------------------------ partial, with headers


async def test_partly_buffered_headers_are_answered_at_once_and_the_cut_body_decides(plain: PickerProcess) -> None:
    """Like BUFFERED, except that the body may be cut."""
    async with plain.stream(First(BUFFERED_PARTIAL, NONE)) as stream:
        await stream.send(request_headers(), request_body(chat(prompt="x" * 1000)[:600], end=False))
        head, reply = await stream.replies(2)
        assert not common(head).HasField("header_mutation")
        assert destinations(reply)
