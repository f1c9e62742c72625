"""The transport on grpc.aio: any ext_proc client, at the price of its machinery for each message.

Moves bytes between `grpc.aio` and the conversations of a `Methods` table; knows nothing of their meaning. Messages are
not deserialised here. `http2` does the same for less CPU; both are held to the same tests.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import grpc.aio

from igw_extproc.transport import Conversation, GrpcStatus, Method, Methods

log = logging.getLogger(__name__)

_CODES = {status: code for status in GrpcStatus for code in grpc.StatusCode if code.value[0] == status}


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
            ]
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
                await _converse(call, conversation, context)
            finally:
                call.over = True
                conversation.ended()

        return behave


async def _converse(call: "_Call", conversation: Conversation, context: Any) -> None:
    try:
        while (message := await call.read()) is not None:
            with call.answering():
                conversation.receive(message)
            await call.flush()
        if not call.finished.is_set():
            with call.answering():
                conversation.half_closed()
            await call.flush()
            await call.finished.wait()
    except Exception:
        log.exception("conversation failed")
        call.finish(GrpcStatus.INTERNAL, "internal error")
    await call.flush()
    if call.status is not GrpcStatus.OK:
        await context.abort(_CODES[call.status], call.detail)


class _Call:
    """`transport.Call` on a grpc.aio context: one writer at a time, in the order of `send`."""

    def __init__(self, context: Any, group: asyncio.TaskGroup) -> None:
        self._context = context
        self._group = group
        self._outbox: deque[bytes] = deque()
        self._writing = asyncio.Lock()
        self._reading: asyncio.Timeout | None = None
        self._answering = False
        self.over = False
        self.finished = asyncio.Event()
        self.status = GrpcStatus.OK
        self.detail = ""

    def send(self, message: bytes) -> None:
        if self.over or self.finished.is_set():
            return
        self._outbox.append(message)
        if not self._answering and not self._writing.locked():
            self._group.create_task(self._flush_later(), name="deferred-answer")

    def finish(self, status: GrpcStatus = GrpcStatus.OK, detail: str = "") -> None:
        if self.over or self.finished.is_set():
            return
        self.status, self.detail = status, detail
        self.finished.set()
        if self._reading is not None:
            self._reading.reschedule(0.0)  # in the past: the wait for the peer ends now

    @contextmanager
    def answering(self) -> Iterator[None]:
        """What is sent in here is flushed by the caller."""
        self._answering = True
        try:
            yield
        finally:
            self._answering = False

    async def read(self) -> bytes | None:
        """The peer's next message. None: it sends no more, or the stream is finished."""
        message: Any = grpc.aio.EOF
        if not self.finished.is_set():
            # A stream lives as long as the client's HTTP request: only the peer or `finish` bounds this wait.
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as self._reading:
                    message = await self._context.read()
            self._reading = None
        return None if message is grpc.aio.EOF else bytes(message)

    async def flush(self) -> None:
        """Write all that was sent. Returns when nothing is under way any more, whoever writes it."""
        async with self._writing:
            while self._outbox:
                await self._context.write(self._outbox.popleft())

    async def _flush_later(self) -> None:
        try:
            await self.flush()
        except Exception as error:
            # The stream is gone, which its own task sees as well. grpc has many names for that, some private.
            log.debug("answer not delivered reason=%s", error)
