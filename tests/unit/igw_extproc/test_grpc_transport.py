"""The grpc.aio transport over real channels: messages both ways, each way a stream can end, answers that come later."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest

from igw_extproc.grpc_transport import GrpcServer
from igw_extproc.transport import Call, Conversation, GrpcStatus

PATH = "/test.Service/Talk"
MEBIBYTE = 1024 * 1024
# Longest wait for anything; far above what is ever seen.
PATIENCE = 10.0
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Answer = Callable[[Call, bytes], None]
Farewell = Callable[[Call], None]


def echo(call: Call, message: bytes) -> None:
    """Answer each message with itself."""
    call.send(message)


def keep_quiet(call: Call, message: bytes) -> None:
    """Say nothing."""


def finish(call: Call) -> None:
    """Answer the half close at once."""
    call.finish()


@dataclass
class Talk(Conversation):
    """A conversation of the given behaviour that writes down what the transport told it."""

    call: Call
    answer: Answer
    farewell: Farewell
    heard: list[bytes] = field(default_factory=list)
    half_closes: int = 0
    endings: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def receive(self, message: bytes) -> None:
        self.heard.append(message)
        self.answer(self.call, message)

    def half_closed(self) -> None:
        self.half_closes += 1
        self.farewell(self.call)

    def ended(self) -> None:
        self.endings += 1
        self.gone.set()


@dataclass
class Served:
    """A running server and the conversations it has begun."""

    server: GrpcServer
    channel: grpc.aio.Channel
    talks: list[Talk]

    async def began(self, count: int) -> None:
        """Wait until this many conversations have heard something."""
        async with asyncio.timeout(PATIENCE):
            while sum(bool(talk.heard) for talk in self.talks) < count:  # noqa: ASYNC110  (nothing to wait on)
                await asyncio.sleep(0.001)

    def stream(self) -> grpc.aio.StreamStreamCall:
        """A new stream to the server."""
        return self.channel.stream_stream(PATH)()


@asynccontextmanager
async def served(
    answer: Answer = echo, farewell: Farewell = finish, limit: int = 64 * MEBIBYTE
) -> AsyncIterator[Served]:
    """A server on a free port of the loopback, and a channel to it. Each stream must have ended exactly once."""
    talks: list[Talk] = []

    def begin(call: Call) -> Talk:
        talks.append(Talk(call, answer, farewell))
        return talks[-1]

    async with asyncio.TaskGroup() as group:
        server = GrpcServer({PATH: begin}, group, limit)
        port = await server.start("127.0.0.1", 0)
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel:
                yield Served(server, channel, talks)
        finally:
            await server.drain(0.0)
        async with asyncio.timeout(PATIENCE):
            for talk in talks:
                await talk.gone.wait()
    assert [talk.endings for talk in talks] == [1] * len(talks)


async def code_of(stream: grpc.aio.StreamStreamCall) -> grpc.StatusCode:
    """The status that ends the stream."""
    async with asyncio.timeout(PATIENCE):
        code = await stream.code()
        assert isinstance(code, grpc.StatusCode)
        return code


async def read(stream: grpc.aio.StreamStreamCall) -> object:
    """The next message, or the end."""
    async with asyncio.timeout(PATIENCE):
        return await stream.read()


async def test_messages_are_answered_one_by_one_while_the_stream_stays_open() -> None:
    async with served() as here:
        stream = here.stream()
        for message in (b"first", b"", b"third"):
            await stream.write(message)
            assert await read(stream) == message
        await stream.done_writing()
        assert await read(stream) is grpc.aio.EOF
        assert await code_of(stream) is grpc.StatusCode.OK
        assert here.talks[0].heard == [b"first", b"", b"third"]
        assert here.talks[0].half_closes == 1


async def test_several_answers_to_one_message_keep_their_order() -> None:
    def thrice(call: Call, message: bytes) -> None:
        for number in range(3):
            call.send(message + b"%d" % number)

    async with served(thrice) as here:
        stream = here.stream()
        await stream.write(b"x")
        assert [await read(stream) for _ in range(3)] == [b"x0", b"x1", b"x2"]


@pytest.mark.parametrize("size", [MEBIBYTE, 5 * MEBIBYTE, 20 * MEBIBYTE])
async def test_a_big_message_comes_through_in_both_directions(size: int) -> None:
    """grpc's own limit is 4 MiB; bodies are longer."""
    async with served() as here:
        stream = here.stream()
        message = b"\x07" * size
        await stream.write(message)
        assert await read(stream) == message


async def test_a_message_above_the_limit_ends_only_its_stream() -> None:
    async with served(limit=MEBIBYTE) as here:
        stream, other = here.stream(), here.stream()
        await stream.write(b"x" * (2 * MEBIBYTE))
        assert await code_of(stream) is grpc.StatusCode.RESOURCE_EXHAUSTED
        await other.write(b"still here")
        assert await read(other) == b"still here"


async def test_an_answer_may_come_after_the_message_was_dealt_with() -> None:
    """A queued request is answered when its turn comes, while nothing arrives."""

    def later(call: Call, message: bytes) -> None:
        asyncio.get_running_loop().call_later(0.01, call.send, message)
        asyncio.get_running_loop().call_later(0.01, call.send, b"and " + message)

    async with served(later) as here:
        stream = here.stream()
        await stream.write(b"this")
        assert [await read(stream), await read(stream)] == [b"this", b"and this"]


async def test_a_stream_may_be_finished_while_nothing_arrives() -> None:
    """The peer has said all it will for now, and is told the end all the same, after what was sent before."""

    def later(call: Call, message: bytes) -> None:
        def end() -> None:
            call.send(b"last")
            call.finish(GrpcStatus.UNAVAILABLE, "closing time")
            call.send(b"too late")

        asyncio.get_running_loop().call_later(0.01, end)

    async with served(later) as here:
        stream = here.stream()
        await stream.write(b"x")
        assert await read(stream) == b"last"
        assert await code_of(stream) is grpc.StatusCode.UNAVAILABLE
        assert await stream.details() == "closing time"
        assert here.talks[0].half_closes == 0


async def test_a_half_closed_stream_may_be_answered_later() -> None:
    def farewell(call: Call) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, call.send, b"goodbye")
        loop.call_later(0.02, call.finish)

    async with served(keep_quiet, farewell) as here:
        stream = here.stream()
        await stream.done_writing()
        assert await read(stream) == b"goodbye"
        assert await read(stream) is grpc.aio.EOF
        assert await code_of(stream) is grpc.StatusCode.OK


@pytest.mark.parametrize("status", [status for status in GrpcStatus if status is not GrpcStatus.OK])
async def test_every_status_reaches_the_peer(status: GrpcStatus) -> None:
    def refuse(call: Call, message: bytes) -> None:
        call.send(b"before")
        call.finish(status, "why")
        call.finish(GrpcStatus.OK, "the first one counts")

    async with served(refuse) as here:
        stream = here.stream()
        await stream.write(b"x")
        assert await read(stream) == b"before"
        code = await code_of(stream)
        assert (code.value[0], await stream.details()) == (status, "why")


async def test_what_arrives_after_the_end_is_not_heard() -> None:
    """Which status a client sees that goes on writing is a race within grpc."""

    def once(call: Call, message: bytes) -> None:
        call.finish()

    async with served(once) as here:
        stream = here.stream()
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            for number in range(3):
                await stream.write(b"%d" % number)
        await code_of(stream)
        assert here.talks[0].heard == [b"0"]


async def test_a_cancelled_stream_ends_its_conversation() -> None:
    """A proxy resets its stream when the client has gone: from then on the request is no load."""
    async with served() as here:
        stream = here.stream()
        await stream.write(b"x")
        await read(stream)
        stream.cancel()
        async with asyncio.timeout(PATIENCE):
            await here.talks[0].gone.wait()


async def test_calls_to_a_stream_that_is_gone_do_nothing() -> None:
    """A queue may still hold the call of a client that has left. Nothing of it may reach the process's task group."""
    async with served(keep_quiet) as here:
        stream = here.stream()
        await stream.write(b"x")
        await here.began(1)
        call = here.talks[0].call
        stream.cancel()
        for _ in range(1000):  # on both sides of the moment at which the transport learns of it
            call.send(b"answer")
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            await here.talks[0].gone.wait()
        call.send(b"answer")
        call.finish()


async def test_a_failing_conversation_costs_only_its_stream(caplog: pytest.LogCaptureFixture) -> None:
    def fail(call: Call, message: bytes) -> None:
        if message == b"bad":
            raise RuntimeError("a fault of ours")
        call.send(message)

    async with served(fail) as here:
        stream, other = here.stream(), here.stream()
        with caplog.at_level(logging.CRITICAL, logger="igw_extproc"):
            await stream.write(b"bad")
            assert await code_of(stream) is grpc.StatusCode.INTERNAL
        await other.write(b"good")
        assert await read(other) == b"good"


async def test_two_hundred_streams_at_once_are_kept_apart() -> None:
    async with served() as here:

        async def talk(number: int) -> None:
            stream = here.stream()
            for turn in range(5):
                message = b"%d/%d" % (number, turn)
                await stream.write(message)
                assert await read(stream) == message
            await stream.done_writing()
            assert await code_of(stream) is grpc.StatusCode.OK

        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(talk(number))


async def test_an_unknown_method_is_unimplemented() -> None:
    async with served() as here:
        stream = here.channel.stream_stream("/test.Service/Other")()
        assert await code_of(stream) is grpc.StatusCode.UNIMPLEMENTED


async def test_draining_lets_open_streams_end() -> None:
    async with served() as here:
        stream = here.stream()
        await stream.write(b"before")
        assert await read(stream) == b"before"
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(here.server.drain(PATIENCE))
            await stream.write(b"after")
            assert await read(stream) == b"after"
            await stream.done_writing()
            assert await code_of(stream) is grpc.StatusCode.OK
            await draining


async def test_draining_ends_what_stays_open_after_its_grace() -> None:
    async with served() as here:
        stream = here.stream()
        await stream.write(b"x")
        await read(stream)
        await here.server.drain(0.05)
        assert await code_of(stream) is not grpc.StatusCode.OK
        assert here.talks[0].endings == 1


async def test_a_taken_port_is_an_error() -> None:
    """Two programs on one port would share its streams silently."""
    async with asyncio.TaskGroup() as group:
        first, second = GrpcServer({}, group, MEBIBYTE), GrpcServer({}, group, MEBIBYTE)
        port = await first.start("127.0.0.1", 0)
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            await second.start("127.0.0.1", port)
        await first.drain(0.0)
        await second.drain(0.0)
