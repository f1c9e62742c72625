"""What the picker does not understand it passes on unread: other paths, forms with files, gRPC, anything at all."""

import struct

import pytest

from igw_testing.ext_proc import (
    chat,
    destinations,
    kind,
    request_body,
    request_headers,
    response_body,
    response_headers,
    response_trailers,
    streamed,
)
from igw_testing.metrics_stub import EngineStub
from igw_testing.picker import PickerProcess, model, pool

pytestmark = pytest.mark.asyncio(loop_scope="session")

FORM = "multipart/form-data; boundary=x"
UPLOAD = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    + bytes(range(256)) * 300
    + b"\r\n--x--"
)
# gRPC's frame: one byte for compression, four for the length.
FRAME = struct.pack(">BI", 0, 5) + b"\x0a\x03abc"


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("/unknown", "application/json", b"no JSON"),
        ("/v1/files", "text/plain", b"hello"),
        ("/tokenize", "application/json", b'{"prompt": "no model"}'),
        ("/v1/chat/completions/extra", "application/json", b"no JSON"),
        ("/", "application/octet-stream", bytes(range(256))),
        ("*", "application/json", b"{}"),
        ("/v1/audio/transcriptions", FORM, UPLOAD),
        ("/v1/chat/completions", FORM, UPLOAD),
        ("/vllm.Engine/Generate", "application/grpc", FRAME),
        ("/vllm.Engine/completions", "application/grpc+proto", FRAME),
    ],
)
async def test_an_opaque_body_is_placed_and_passed_on_byte_for_byte(
    plain: PickerProcess, path: str, content_type: str, body: bytes
) -> None:
    """Never refused: whether it makes sense is the engine's business."""
    async with plain.stream() as stream:
        await stream.send(request_headers({"content-type": content_type}, path=path))
        await stream.send(request_body(body[:10], end=False), request_body(body[10:]))
        replies = await stream.replies(1 + max(1, -(-len(body) // 62_000)))
        assert destinations(replies[0])
        chunks = streamed(replies[1:])
        assert b"".join(chunk.body for chunk in chunks) == body
        assert chunks[-1].end_of_stream


async def test_an_opaque_body_is_placed_where_the_pool_declares_its_models(shared: PickerProcess) -> None:
    """There is no model to look for, so none can be unknown."""
    async with pool(shared, EngineStub(), parts=[model("llama")]) as served, served.stream() as stream:
        await stream.send(
            request_headers({"content-type": FORM}, path="/v1/audio/transcriptions"), request_body(UPLOAD)
        )
        assert destinations(await stream.receive())


async def test_the_least_loaded_engine_wins_for_opaque_bodies_too(shared: PickerProcess) -> None:
    """Their size is the guess of what they cost."""
    async with pool(shared, EngineStub(5), EngineStub(0), EngineStub(9)) as served, served.stream() as stream:
        await stream.send(
            request_headers({"content-type": FORM}, path="/v1/audio/transcriptions"), request_body(UPLOAD)
        )
        assert destinations(await stream.receive())[0] == served.engines[1].address


async def test_a_grpc_call_with_its_trailers_passes(plain: PickerProcess) -> None:
    """Request and response bodies as they are; the response's status comes in trailers, which are answered."""
    headers = {"content-type": "application/grpc", "te": "trailers"}
    async with plain.stream() as stream:
        await stream.send(request_headers(headers, path="/vllm.Engine/Generate"), request_body(FRAME))
        head, data = await stream.replies(2)
        assert destinations(head) and streamed([data])[0].body == FRAME
        await stream.send(response_headers({"content-type": "application/grpc"}))
        await stream.send(response_body(FRAME, end=False), response_body(FRAME, end=False))
        await stream.send(response_trailers(**{"grpc-status": "0"}))
        replies = await stream.replies(4)
        assert [kind(reply) for reply in replies] == [
            "response_headers",
            "response_body",
            "response_body",
            "response_trailers",
        ]
        assert [chunk.body for chunk in streamed(replies, "response_body")] == [FRAME, FRAME]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
async def test_a_request_without_a_body_is_placed_on_any_path(plain: PickerProcess, method: str) -> None:
    """Also on one that takes JSON from POST."""
    async with plain.stream() as stream:
        await stream.send(request_headers(path="/v1/chat/completions", method=method, end=True))
        assert destinations(await stream.receive())


async def test_a_body_without_a_content_type_is_read_as_json(plain: PickerProcess) -> None:
    """As engines do; clients forget it."""
    message = request_headers()
    del message.request_headers.headers.headers[-1]
    async with plain.stream() as stream:
        await stream.send(message, request_body(chat()))
        assert destinations(await stream.receive())
