"""grpcio's clients, blocking and asyncio, talk to our HTTP/2 transport: the reference for gRPC on the wire."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from igw_extproc.http2 import Http2Server, Limits
from igw_extproc.transport import GrpcStatus
from igw_testing.http2_peers import ECHO, Talk, Talks, echo, finish_at_once, nothing, until

CERTIFICATE = Path(__file__).parent / "localhost.pem"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@contextlib.asynccontextmanager
async def served(talks: Talks, limits: Limits | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A running server's address; nothing may be open when it is left."""
    server = Http2Server(talks.methods, limits, tls)
    port = await server.start("127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.drain(5.0)
    assert all(talk.ends == 1 for talk in talks.all)


@contextlib.asynccontextmanager
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """A client that shares no connection with other tests."""
    options = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as opened:
        yield opened


def blocking_calls(address: str, credentials: grpc.ChannelCredentials | None = None) -> tuple[bytes, list[bytes]]:
    """A unary call and a stream with grpcio's blocking client."""
    opened = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with opened:
        unary = opened.unary_unary(ECHO)(b"one", timeout=10)
        stream = list(opened.stream_stream(ECHO)(iter([b"a", b"", b"c"]), timeout=10))
        return unary, stream


async def test_the_blocking_client_gets_unary_and_streamed_answers() -> None:
    async with served(Talks()) as address:
        assert await asyncio.to_thread(blocking_calls, address) == (b"one", [b"a", b"", b"c"])


async def test_tls_with_alpn_serves_the_same() -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)
    credentials = grpc.ssl_channel_credentials(root_certificates=CERTIFICATE.read_bytes())
    async with served(Talks(), tls=tls) as address:
        assert await asyncio.to_thread(blocking_calls, address, credentials) == (b"one", [b"a", b"", b"c"])


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 1_000_000, 4 * 1024 * 1024])
async def test_a_message_of_any_size_comes_back_whole(size: int) -> None:
    text = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with served(Talks()) as address, channel(address) as client:
        assert await client.unary_unary(ECHO)(text, timeout=10) == text


async def test_a_stream_of_large_messages_keeps_order_both_ways() -> None:
    texts = [bytes([n]) * 300_000 for n in range(20)]
    async with served(Talks()) as address, channel(address) as client:
        stream = client.stream_stream(ECHO)(_later(texts), timeout=20)
        assert [answer async for answer in stream] == texts


async def _later(texts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for text in texts:
        yield text


async def test_a_thousand_streams_on_one_connection_are_all_answered() -> None:
    talks = Talks()
    async with served(talks) as address, channel(address) as client:
        streams = [client.stream_stream(ECHO)(timeout=30) for _ in range(1000)]
        for number, stream in enumerate(streams):
            await stream.write(b"%d" % number)
        assert [await stream.read() for stream in streams] == [b"%d" % number for number in range(1000)]
        assert sum(talk.ends for talk in talks.all) == 0
        for stream in streams:
            await stream.done_writing()
        assert [await stream.code() for stream in streams] == [grpc.StatusCode.OK] * 1000


async def test_an_answer_may_come_long_after_the_message() -> None:
    talks = Talks(nothing)
    async with served(talks) as address, channel(address) as client:
        stream = client.stream_stream(ECHO)(timeout=10)
        await stream.write(b"hello")
        await until(lambda: bool(talks.all and talks.all[0].received))
        talks.all[0].call.send(b"late")
        assert await stream.read() == b"late"
        talks.all[0].call.finish()
        assert await stream.read() == grpc.aio.EOF
        assert await stream.code() == grpc.StatusCode.OK


async def test_a_cancelled_stream_ends_its_conversation() -> None:
    talks = Talks(nothing)
    async with served(talks) as address, channel(address) as client:
        stream = client.stream_stream(ECHO)()
        await stream.write(b"hello")
        await until(lambda: bool(talks.all and talks.all[0].received))
        stream.cancel()
        await until(lambda: talks.all[0].ends == 1)
        talks.all[0].call.send(b"nobody hears this")
        talks.all[0].call.finish()
        assert talks.all[0].half_closes == 0


async def test_a_passed_deadline_ends_the_conversation_on_both_sides() -> None:
    talks = Talks(nothing)
    async with served(talks) as address, channel(address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            # half_closed() would finish a unary call, so its stream stays open for writing.
            await client.stream_unary(ECHO)(_never_ending(), timeout=0.3)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: talks.all[0].ends == 1)


async def _never_ending() -> AsyncIterator[bytes]:
    yield b"hello"
    await asyncio.Event().wait()


async def test_a_refusal_carries_its_status_and_its_text() -> None:
    async with served(Talks(finish_at_once)) as address, channel(address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.unary_unary(ECHO)(b"hello", timeout=10)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, "später")


async def test_an_unknown_method_is_unimplemented() -> None:
    async with served(Talks()) as address, channel(address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.unary_unary("/no.such/Method")(b"hello", timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_above_the_limit_is_refused_and_the_connection_goes_on() -> None:
    async with served(Talks(), Limits(max_message=100_000)) as address, channel(address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.unary_unary(ECHO)(b"x" * 100_001, timeout=10)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await client.unary_unary(ECHO)(b"x" * 100_000, timeout=10) == b"x" * 100_000


async def test_a_compressed_message_is_unimplemented() -> None:
    async with served(Talks()) as address, channel(address) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.unary_unary(ECHO)(b"x" * 10_000, timeout=10, compression=grpc.Compression.Gzip)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_failing_conversation_costs_only_its_stream(caplog: pytest.LogCaptureFixture) -> None:
    def fail_on_bad(talk: Talk, message: bytes) -> None:
        if message == b"bad":
            raise RuntimeError("a fault of ours")
        echo(talk, message)

    async with served(Talks(fail_on_bad)) as address, channel(address) as client:
        other = client.stream_stream(ECHO)(timeout=10)
        await other.write(b"good")
        assert await other.read() == b"good"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.unary_unary(ECHO)(b"bad", timeout=10)
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        await other.write(b"still good")
        assert await other.read() == b"still good"
        await other.done_writing()
        assert await other.code() == grpc.StatusCode.OK
    assert "conversation failed" in caplog.text


async def test_draining_finishes_open_streams_and_refuses_new_connections() -> None:
    talks = Talks()
    server = Http2Server(talks.methods)
    address = f"127.0.0.1:{await server.start('127.0.0.1', 0)}"
    async with channel(address) as client, asyncio.TaskGroup() as group:
        stream = client.stream_stream(ECHO)(timeout=20)
        await stream.write(b"before")
        assert await stream.read() == b"before"
        drained = group.create_task(server.drain(10.0))
        await until(lambda: server.draining)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with channel(address) as other:
                await other.unary_unary(ECHO)(b"new", timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        await stream.write(b"during")
        assert await stream.read() == b"during"
        assert not drained.done()
        await stream.done_writing()
        assert await stream.code() == grpc.StatusCode.OK
    assert server.connections == 0


async def test_a_drain_ends_what_is_open_after_its_grace() -> None:
    talks = Talks(nothing)
    server = Http2Server(talks.methods)
    address = f"127.0.0.1:{await server.start('127.0.0.1', 0)}"
    async with channel(address) as client:
        stream = client.stream_stream(ECHO)(timeout=20)
        await stream.write(b"hello")
        await until(lambda: bool(talks.all and talks.all[0].received))
        await server.drain(0.2)
        assert talks.all[0].ends == 1
        assert await stream.code() != grpc.StatusCode.OK
        await until(lambda: server.connections == 0)


async def test_many_answers_to_a_slow_reader_wait_for_its_windows() -> None:
    """The peer reads nothing while 30 MB are sent; later all of it arrives, in order."""
    count, size = 30, 1_000_000

    def flood(talk: Talk, message: bytes) -> None:
        for number in range(count):
            talk.call.send(bytes([number]) * size)
        talk.call.finish(GrpcStatus.OK)

    async with served(Talks(flood)) as address, channel(address) as client:
        stream = client.stream_stream(ECHO)(timeout=20)
        await stream.write(b"go")
        answers = [answer async for answer in stream]
        assert answers == [bytes([number]) * size for number in range(count)]
