"""Full-duplex streaming, the endpoint picker protocol's own mode: the whole body is seen before anything is sent on."""

import json

import pytest

from igw_testing.ext_proc import (
    DESTINATION,
    First,
    chat,
    common,
    destinations,
    headers_set,
    kind,
    request_body,
    request_headers,
    request_trailers,
    response_headers,
    streamed,
)
from igw_testing.picker import PickerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

LIMIT = 62_000


async def test_a_request_is_answered_with_its_destination_and_then_its_body(plain: PickerProcess) -> None:
    """The headers' answer waits for the body, since the body decides; then the body follows unchanged."""
    body = chat()
    async with plain.stream() as stream:
        await stream.send(request_headers({"x-request-id": "test", "hi": "mom"}), request_body(body))
        head, data = await stream.replies(2)
        assert kind(head) == "request_headers"
        assert destinations(head)
        assert common(head).clear_route_cache
        assert headers_set(head)["content-length"] == str(len(body))
        (chunk,) = streamed([data])
        assert chunk.body == body and chunk.end_of_stream


async def test_a_json_body_in_two_chunks_leads_to_one_decision(plain: PickerProcess) -> None:
    """A cut in the middle of a word does not matter."""
    body = chat(prompt="the quick brown fox")
    async with plain.stream() as stream:
        await stream.send(request_headers(), request_body(body[:25], end=False), request_body(body[25:]))
        head, data = await stream.replies(2)
        assert destinations(head)
        (chunk,) = streamed([data])
        assert chunk.body == body and chunk.end_of_stream
        # Nothing else was said: the next reply is about the next message.
        await stream.send(response_headers())
        assert kind(await stream.receive()) == "response_headers"


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1, 5 * LIMIT, 5 * LIMIT + 17])
async def test_a_long_body_comes_back_in_chunks_of_62000_bytes_and_only_the_last_ends_it(
    plain: PickerProcess, size: int
) -> None:
    """Envoy takes chunks of up to 64 KiB."""
    body = chat(prompt="x" * (size - len(chat(prompt=""))))
    assert len(body) == size
    pieces = [body[at : at + 40_000] for at in range(0, size, 40_000)]
    async with plain.stream() as stream:
        await stream.send(request_headers(), *(request_body(piece, end=False) for piece in pieces), request_body(b""))
        head, *data = await stream.replies(1 + -(-size // LIMIT))
        assert headers_set(head)["content-length"] == str(size)
        chunks = streamed(data)
        assert b"".join(chunk.body for chunk in chunks) == body
        assert all(len(chunk.body) == LIMIT for chunk in chunks[:-1])
        assert [chunk.end_of_stream for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


async def test_an_empty_body_comes_back_as_one_empty_chunk_that_ends_it(plain: PickerProcess) -> None:
    """Without that chunk Envoy would wait for the body's end for ever."""
    async with plain.stream() as stream:
        await stream.send(request_headers(path="/tokenize"), request_body(b""))
        head, data = await stream.replies(2)
        assert destinations(head)
        assert headers_set(head)["content-length"] == "0"
        (chunk,) = streamed([data])
        assert chunk.body == b"" and chunk.end_of_stream


async def test_a_request_without_a_body_is_answered_at_once(plain: PickerProcess) -> None:
    """A GET has nothing to wait for, and its length is nobody's business."""
    async with plain.stream() as stream:
        await stream.send(request_headers(path="/v1/models", method="GET", end=True))
        head = await stream.receive()
        assert kind(head) == "request_headers"
        assert destinations(head)
        assert common(head).clear_route_cache
        assert "content-length" not in headers_set(head)


async def test_trailers_end_a_body_that_no_chunk_has_ended(plain: PickerProcess) -> None:
    """The order in which the parts go on is theirs: headers, body, trailers; the trailers end the stream."""
    body = chat()
    async with plain.stream() as stream:
        await stream.send(request_headers(), request_body(body, end=False), request_trailers(checksum="1"))
        head, data, tail = await stream.replies(3)
        assert destinations(head)
        (chunk,) = streamed([data])
        assert chunk.body == body and not chunk.end_of_stream
        assert kind(tail) == "request_trailers"


async def test_trailers_after_a_whole_body_are_answered(plain: PickerProcess) -> None:
    """Each message that Envoy waits for has its answer."""
    async with plain.stream() as stream:
        await stream.send(request_headers(), request_body(chat()), request_trailers(checksum="1"))
        replies = await stream.replies(3)
        assert [kind(reply) for reply in replies] == ["request_headers", "request_body", "request_trailers"]


async def test_a_second_end_of_the_body_is_ignored(plain: PickerProcess) -> None:
    """Some proxies send an empty chunk after the last one; answering it would corrupt the request."""
    async with plain.stream() as stream:
        await stream.send(request_headers(), request_body(chat()), request_body(b""), response_headers())
        replies = await stream.replies(3)
        assert [kind(reply) for reply in replies] == ["request_headers", "request_body", "response_headers"]


async def test_the_stream_stays_open_until_the_proxy_ends_it(plain: PickerProcess) -> None:
    """A picker that ends the stream early, in good order, loses the request's body."""
    async with plain.stream() as stream:
        await stream.send(request_headers(), request_body(chat()))
        await stream.replies(2)
        await stream.send(response_headers())
        assert kind(await stream.receive()) == "response_headers"
        assert await stream.rest() == []
        assert (await stream.status()).name == "OK"


async def test_header_values_may_be_text_instead_of_bytes(plain: PickerProcess) -> None:
    """Envoy fills `raw_value`; other clients of the protocol fill `value`."""
    message = request_headers(path="/v1/chat/completions")
    for header in message.request_headers.headers.headers:
        header.value, header.raw_value = header.raw_value.decode(), b""
    async with plain.stream() as stream:
        await stream.send(message, request_body(b"no JSON"))
        assert (await stream.last()).immediate_response.status.code == 400


async def test_a_field_that_the_picker_does_not_know_does_not_disturb_it(plain: PickerProcess) -> None:
    """Newer proxies send more: here field 10, `observability_mode`, and one from the future."""
    message = First().tell(request_headers(path="/v1/models", method="GET", end=True))
    async with plain.stream() as stream:
        await stream.send_bytes(message.SerializeToString() + b"\x50\x00" + b"\xfa\x3f\x03abc")
        assert destinations(await stream.receive())


async def test_header_values_that_are_not_utf8_are_taken_as_they_are(plain: PickerProcess) -> None:
    """HTTP allows any byte above 0x7f in a header."""
    async with plain.stream() as stream:
        await stream.send(request_headers({"x-name": "caf\xe9", DESTINATION: "\xff"}), request_body(chat()))
        assert DESTINATION in headers_set(await stream.receive())


async def test_text_beyond_ascii_survives(plain: PickerProcess) -> None:
    """Prompts are in every language; a body that needs no change is passed on byte for byte."""
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "你好 🌍"}]}, ensure_ascii=False)
    async with plain.stream() as stream:
        await stream.send(request_headers(), request_body(body.encode()))
        _, data = await stream.replies(2)
        assert streamed([data])[0].body == body.encode()
