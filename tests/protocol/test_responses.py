"""The response on its way back, in full duplex: every part answered in order, nothing changed but the model name."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from igw_protos import ext_proc_pb2 as pb
from igw_testing.ext_proc import (
    BUFFERED,
    BUFFERED_PARTIAL,
    NONE,
    STREAMED,
    First,
    Stream,
    chat,
    headers_set,
    kind,
    metadata,
    request_body,
    request_headers,
    response_body,
    response_headers,
    response_trailers,
    streamed,
)
from igw_testing.metrics_stub import EngineStub
from igw_testing.picker import Part, PickerProcess, Pool, model, pool, rewrite

pytestmark = pytest.mark.asyncio(loop_scope="session")

SSE = {"content-type": "text/event-stream; charset=utf-8"}
COST = "x-gateway-inference-request-cost"
USAGE = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}


@asynccontextmanager
async def placed(served: Pool | PickerProcess, name: str = "tiny") -> AsyncIterator[Stream]:
    """A stream whose request is on its way to the engine."""
    async with served.stream() as stream:
        await stream.send(request_headers(), request_body(chat(name)))
        await stream.replies(2)
        yield stream


async def answer(
    stream: Stream, pieces: Sequence[bytes], count: int, headers: dict[str, str] | None = None
) -> list[pb.StreamedBodyResponse]:
    """Send a response in these pieces, the last of which ends it; its body as the picker gives it back."""
    bodies = [response_body(piece, end=at == len(pieces) - 1) for at, piece in enumerate(pieces)]
    await stream.send(response_headers(headers), *bodies)
    head, *replies = await stream.replies(1 + count)
    assert kind(head) == "response_headers"
    return streamed(replies, "response_body")


def events(*documents: dict[str, object]) -> bytes:
    """Server-sent events as engines write them."""
    lines = [b"data: " + json.dumps(one, separators=(",", ":")).encode() + b"\n\n" for one in documents]
    return b"".join(lines)


# ------------------------------------------------------------------------------------------------ headers


async def test_response_headers_are_answered_with_nothing_but_a_mark(plain: PickerProcess) -> None:
    """Copying headers back would repeat `transfer-encoding` or a length that no longer holds."""
    headers = {"transfer-encoding": "chunked", "content-length": "17", "connection": "keep-alive", "x-custom": "1"}
    async with placed(plain) as stream:
        await stream.send(response_headers(headers))
        reply = await stream.receive()
        assert headers_set(reply) == {"x-went-into-resp-headers": "true"}
        assert not reply.response_headers.response.header_mutation.remove_headers


async def test_a_response_without_a_body_is_answered(plain: PickerProcess) -> None:
    """204 and HEAD end with their headers."""
    async with placed(plain) as stream:
        await stream.send(response_headers(status=204, end=True))
        assert kind(await stream.receive()) == "response_headers"
        assert await stream.rest() == []


# ------------------------------------------------------------------------------------------------ JSON


@pytest.mark.parametrize(
    "pieces",
    [
        [b'{"id":"1","usa', b'ge":{}}'],
        [b"this is", b" no JSON"],
        [b'{"id":"1"}', b""],
        [b"", b'{"id":"1"}'],
        [b""],
    ],
    ids=["two-chunks", "invalid", "empty-end", "empty-beginning", "empty"],
)
async def test_a_json_response_comes_back_as_one_piece(plain: PickerProcess, pieces: list[bytes]) -> None:
    """A document is whole before its model name can be restored; what is no document passes as it is."""
    async with placed(plain) as stream:
        (chunk,) = await answer(stream, pieces, 1)
        assert chunk.body == b"".join(pieces) and chunk.end_of_stream


async def test_a_long_json_response_comes_back_in_chunks(plain: PickerProcess) -> None:
    """Embeddings are long."""
    document = json.dumps({"data": "x" * 150_000}).encode()
    pieces = [document[at : at + 16_384] for at in range(0, len(document), 16_384)]
    async with placed(plain) as stream:
        chunks = await answer(stream, pieces, 3)
        assert b"".join(chunk.body for chunk in chunks) == document
        assert [chunk.end_of_stream for chunk in chunks] == [False, False, True]
        assert max(len(chunk.body) for chunk in chunks) <= 62_000


async def test_trailers_flush_a_json_response_that_no_chunk_has_ended(plain: PickerProcess) -> None:
    """The body goes before the trailers, without an end of its own."""
    async with placed(plain) as stream:
        await stream.send(response_headers(), response_body(b'{"a":', end=False), response_body(b"1}", end=False))
        await stream.send(response_trailers(checksum="1"))
        _, data, tail = await stream.replies(3)
        (chunk,) = streamed([data], "response_body")
        assert chunk.body == b'{"a":1}' and not chunk.end_of_stream
        assert kind(tail) == "response_trailers"


# ------------------------------------------------------------------------------------------------ streams of events


async def test_events_are_given_back_one_by_one_and_at_once(plain: PickerProcess) -> None:
    """A token that waits for the next one is a token late. The empty end is given back as well."""
    pieces = [events({"choices": ["a"]}), events({"choices": ["b"], "usage": USAGE}), b"data: [DONE]\n\n"]
    async with placed(plain) as stream:
        await stream.send(response_headers(SSE))
        await stream.receive()
        for piece in pieces:
            await stream.send(response_body(piece, end=False))
            (chunk,) = streamed([await stream.receive()], "response_body")
            assert chunk.body == piece and not chunk.end_of_stream
        await stream.send(response_body(b""))
        (chunk,) = streamed([await stream.receive()], "response_body")
        assert chunk.body == b"" and chunk.end_of_stream


async def test_other_content_passes_as_it_comes(plain: PickerProcess) -> None:
    """Audio, files: chunk by chunk, byte for byte."""
    pieces = [bytes(range(256)), b"\x00\xff" * 1000, b"end"]
    async with placed(plain) as stream:
        chunks = await answer(stream, pieces, 3, {"content-type": "audio/mpeg"})
        assert [chunk.body for chunk in chunks] == pieces


async def test_a_chunk_longer_than_envoy_takes_is_divided(plain: PickerProcess) -> None:
    """The end of the stream stays with the last part."""
    body = bytes(range(256)) * 500
    async with placed(plain) as stream:
        chunks = await answer(stream, [body], 3, {"content-type": "application/octet-stream"})
        assert b"".join(chunk.body for chunk in chunks) == body
        assert [chunk.end_of_stream for chunk in chunks] == [False, False, True]


async def test_trailers_after_events_are_answered(plain: PickerProcess) -> None:
    """As gRPC's responses end."""
    async with placed(plain) as stream:
        await stream.send(response_headers(SSE), response_body(b"x", end=False), response_trailers(checksum="1"))
        replies = await stream.replies(3)
        assert [kind(reply) for reply in replies] == ["response_headers", "response_body", "response_trailers"]


# ------------------------------------------------------------------------------------------------ the model's name

RENAMED: list[Part] = [model("public", {"adapter-v2": 1})]


@pytest.mark.parametrize("gap", ["", " "], ids=["dense", "with-blank"])
async def test_the_clients_model_name_is_restored_in_json(shared: PickerProcess, gap: str) -> None:
    """Clients compare: the answer must name what they asked for. A mention in a text stays."""
    sent = f'{{"model":{gap}"adapter-v2","text":"adapter-v2"}}'.encode()
    async with pool(shared, EngineStub(), parts=RENAMED) as served, placed(served, "public") as stream:
        (chunk,) = await answer(stream, [sent[:14], sent[14:]], 1)
        assert json.loads(chunk.body) == {"model": "public", "text": "adapter-v2"}


async def test_the_clients_model_name_is_restored_in_every_event(shared: PickerProcess) -> None:
    """Each event repeats it."""
    piece = events({"model": "adapter-v2", "choices": []})
    async with pool(shared, EngineStub(), parts=RENAMED) as served, placed(served, "public") as stream:
        chunks = await answer(stream, [piece, piece * 2, b""], 3, SSE)
        assert [chunk.body.count(b'"model":"public"') for chunk in chunks] == [1, 2, 0]
        assert b"adapter-v2" not in b"".join(chunk.body for chunk in chunks)


async def test_the_name_is_restored_wherever_events_are_cut(shared: PickerProcess) -> None:
    """Where a read ends is the network's choice, not the engine's."""
    whole = events({"model": "adapter-v2", "choices": []}) * 2
    wanted = whole.replace(b"adapter-v2", b"public")
    async with pool(shared, EngineStub(), parts=RENAMED) as served:
        for cut in range(1, len(whole)):
            async with placed(served, "public") as stream:
                await stream.send(
                    response_headers(SSE), response_body(whole[:cut], end=False), response_body(whole[cut:])
                )
                replies, ended = [await stream.receive()], False
                while not ended:
                    replies.append(await stream.receive())
                    ended = streamed(replies[-1:], "response_body")[0].end_of_stream
                assert b"".join(chunk.body for chunk in streamed(replies, "response_body")) == wanted, cut


async def test_what_is_held_back_as_the_beginning_of_a_name_is_not_lost_before_trailers(shared: PickerProcess) -> None:
    """It may have been no name after all."""
    async with pool(shared, EngineStub(), parts=RENAMED) as served, placed(served, "public") as stream:
        await stream.send(
            response_headers(SSE), response_body(b'data: {"mod', end=False), response_trailers(checksum="1")
        )
        replies = await stream.replies(4)
        assert b"".join(chunk.body for chunk in streamed(replies, "response_body")) == b'data: {"mod'
        assert kind(replies[-1]) == "response_trailers"


async def test_a_name_with_special_characters_is_restored_as_valid_json(shared: PickerProcess) -> None:
    """A generic rule takes whatever name clients make up, quotation marks and all."""
    parts = [rewrite("all", (None, {"base": 1}))]
    name = 'my "own"\\model'
    async with pool(shared, EngineStub(), parts=parts) as served, placed(served, name) as stream:
        (chunk,) = await answer(stream, [b'{"model":"base"}'], 1)
        assert json.loads(chunk.body) == {"model": name}


# ------------------------------------------------------------------------------------------------ usage

SPLIT_USAGE = b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":10,"total_tokens":17}}'


@pytest.mark.parametrize(
    ("pieces", "headers"),
    [
        ([events({"a": 1}), events({"usage": USAGE}), b"data: [DONE]\n\n", b""], SSE),
        ([events({"a": 1}), events({"usage": USAGE})], SSE),
        ([SPLIT_USAGE], {}),
        ([SPLIT_USAGE[:18], SPLIT_USAGE[18:40], SPLIT_USAGE[40:]], {}),
    ],
    ids=["events", "events-without-end", "json", "json-cut-inside"],
)
async def test_usage_is_counted_and_told_as_cost_with_the_last_piece(
    shared: PickerProcess, pieces: list[bytes], headers: dict[str, str]
) -> None:
    """The cost is for whoever reads the proxy's dynamic metadata: access logs, rate limits by tokens."""
    async with pool(shared, EngineStub(), parts=[model("tiny")]) as served, placed(served) as stream:
        bodies = [response_body(piece, end=at == len(pieces) - 1) for at, piece in enumerate(pieces)]
        await stream.send(response_headers(headers), *bodies)
        replies = [await stream.receive()]
        while kind(replies[-1]) != "response_body" or not streamed(replies[-1:], "response_body")[0].end_of_stream:
            assert not replies[-1].HasField("dynamic_metadata")
            replies.append(await stream.receive())
        assert metadata(replies[-1]) == {COST: 17.0}
        assert await shared.sample("igw_picker_input_tokens_sum", pool=served.route) == 7.0
        assert await shared.sample("igw_picker_input_tokens_bucket", pool=served.route, le="8.0") == 1.0
        assert await shared.sample("igw_picker_usage_tokens_total", pool=served.route, kind="completion") == 10.0


@pytest.mark.parametrize("mode", [STREAMED, BUFFERED], ids=["streamed", "buffered"])
async def test_the_cost_is_told_in_the_other_modes_too(plain: PickerProcess, mode: pb.BodySendMode) -> None:
    """Wherever the picker sees the end of the body."""
    async with plain.stream(First(BUFFERED_PARTIAL, mode)) as stream:
        await stream.send(request_headers(), request_body(chat()), response_headers(), response_body(SPLIT_USAGE))
        *_, last = await stream.replies(4)
        assert kind(last) == "response_body" and not last.response_body.response.HasField("body_mutation")
        assert metadata(last) == {COST: 17.0}


async def test_a_response_without_usage_has_no_cost(plain: PickerProcess) -> None:
    """Zero would be a statement; there is none to make."""
    async with placed(plain) as stream:
        await stream.send(response_headers(), response_body(b'{"usage":null}'))
        _, last = await stream.replies(2)
        assert not last.HasField("dynamic_metadata")


async def test_a_response_that_the_picker_does_not_see_needs_no_answers(plain: PickerProcess) -> None:
    """With response processing off, the stream is silent until the proxy ends it."""
    async with plain.stream(First(BUFFERED_PARTIAL, NONE)) as stream:
        await stream.send(request_headers(), request_body(chat()))
        await stream.replies(2)
        assert await stream.rest() == []
