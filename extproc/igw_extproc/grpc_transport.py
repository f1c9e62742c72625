"""The transport on grpc.aio: any ext_proc client, at the price of its machinery for each message.

Moves bytes between `grpc.aio` and the conversations of a `Methods` table; knows nothing of their meaning. Messages are
not deserialised here. `http2` does the same for less CPU; both are held to the same tests.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
import grpc.aio

from igw_extproc.transport import Conversation, GrpcStatus, Method, Methods

log = logging.getLogger(__name__)

_CODES = {status: code for status in GrpcStatus for code in grpc.StatusCode if code.value[0] == status}

# As `http2.Limits` has them. How many connections there are, and what all hold together, grpc does not bound.
_MOST_STREAMS = 65_536
_LIMITS = (
    ("grpc.max_concurrent_streams", 16_384),
    ("grpc.max_metadata_size", 32 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class GrpcServer:
    """Serves `methods`. `group` runs what a conversation sends later than in `receive`."""

    def __init__(
        self,
        methods: Methods,
        group: asyncio.TaskGroup,
        max_message_bytes: int,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._group = group
        self._credentials = credentials
        self._server = grpc.aio.server(
            options=[
                # Two programs must never share our port silently.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", -1),
                *_LIMITS,
            ],
            maximum_concurrent_rpcs=_MOST_STREAMS,
        )
        for path, method in methods.items():
            service, _, name = path.lstrip("/").partition("/")
            handler = grpc.stream_stream_rpc_method_handler(self._behaviour(method))
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))

    async def start(self, host: str, port: int) -> int:
        """Listen; the bound port. Raises OSError when the port is taken."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._credentials is not None:
                bound = self._server.add_secure_port(address, self._credentials)
            else:
                bound = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}") from error
        await self._server.start()
        return int(bound)

    async def drain(self, grace: float) -> None:
        """Take no new streams, let the open ones end for `grace` seconds, then end them."""
        await self._server.stop(grace)

    def _behaviour(self, method: Method) -> Callable[[Any, Any], Awaitable[None]]:
        async def behave(_: Any, context: Any) -> None:
            call = _Call(context, self._group)
            conversation = method(call)
            try:
                await _converse(call, conversation)
            finally:
                call.over = True
                conversation.ended()

        return behave


async def _converse(call: "_Call", conversation: Conversation) -> None:
    try:
        while (message := await call.read()) is not None:
            call.answering = True
            conversation.receive(message)
            del message  # a request may wait for long, and its body with it
            call.answering = False
            await call.flush()
        if not call.finished:
            call.answering = True
            conversation.half_closed()
            call.answering = False
            await call.flush()
            await call.wait_for_finish()
    except Exception:
        log.exception("conversation failed")
        call.finish(GrpcStatus.INTERNAL, "internal error")
    await call.close()


class _Call:
    """`transport.Call` on a grpc.aio context: one writer at a time, in the order of `send`.

    Lean on purpose: all of it runs for every request. While the stream's task waits for the peer, a `finish` that comes
    from elsewhere ends that wait by cancelling the task, which takes its own cancellation back.
    """

    __slots__ = (
        "_context",
        "_group",
        "_outbox",
        "_task",
        "_waiting",
        "_writing",
        "answering",
        "detail",
        "finished",
        "over",
        "status",
    )

    def __init__(self, context: Any, group: asyncio.TaskGroup) -> None:
        self._context = context
        self._group = group
        self._task = asyncio.current_task()
        self._outbox: deque[bytes] = deque()
        self._writing: asyncio.Future[None] | None = None
        self._waiting = False
        self.answering = False  # what is sent meanwhile is flushed by the stream's task
        self.over = False
        self.finished = False
        self.status = GrpcStatus.OK
        self.detail = ""

    def send(self, message: bytes) -> None:
        if self.over or self.finished:
            return
        self._outbox.append(message)
        if not self.answering and self._writing is None:
            self._group.create_task(self._flush_later(), name="deferred-answer")

    def finish(self, status: GrpcStatus = GrpcStatus.OK, detail: str = "") -> None:
        if self.over or self.finished:
            return
        self.status, self.detail, self.finished = status, detail, True
        if self._waiting and self._task is not None:
            self._task.cancel()

    async def read(self) -> bytes | None:
        """The peer's next message. None: it sends no more, or the stream is finished."""
        if self.finished:
            return None
        # A stream lives as long as the client's HTTP request: only the peer or `finish` bounds this wait.
        message = await self._wait(self._context.read())
        return None if message is None or message is grpc.aio.EOF else cast(bytes, message)

    async def wait_for_finish(self) -> None:
        """Until `finish`, which may be long after the peer has said all."""
        if not self.finished:
            await self._wait(asyncio.get_running_loop().create_future())

    async def _wait(self, peer: Awaitable[Any]) -> Any:
        self._waiting = True
        try:
            return await peer
        except asyncio.CancelledError:
            if not self.finished or self._task is None or self._task.uncancel() > 0:
                raise
            return None
        finally:
            self._waiting = False

    async def flush(self) -> None:
        """Write all that was sent. Returns when nothing is under way any more, whoever writes it."""
        while self._writing is not None:
            await asyncio.wait((self._writing,))
        if not self._outbox:
            return
        self._writing = asyncio.get_running_loop().create_future()
        try:
            while self._outbox:
                await self._context.write(self._outbox.popleft())
        finally:
            self._writing.set_result(None)
            self._writing = None

    async def close(self) -> None:
        """Write the rest and tell the status."""
        await self.flush()
        if self.status is not GrpcStatus.OK:
            await self._context.abort(_CODES[self.status], self.detail)

    async def _flush_later(self) -> None:
        try:
            await self.flush()
        except Exception as error:
            # The stream is gone, which its own task sees as well. grpc has many names for that, some private.
            log.debug("answer not delivered reason=%s", error)
