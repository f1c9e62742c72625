"""One gRPC stream as its conversation sees it (`Call`), and the way out that all streams of a connection share.

What a stream sends goes out as long as the peer's windows last, else it waits here, bounded. No I/O and no clock but
the driver's two callbacks. `connection` feeds it and takes the bytes; conversations hold a `Stream` as their `Call`.
"""

from collections import deque
from typing import Protocol

from igw_extproc.http2 import frames, responses
from igw_extproc.http2.deframe import Deframer
from igw_extproc.http2.frames import ErrorCode
from igw_extproc.http2.limits import Held, Limits
from igw_extproc.http2.request import HttpRefusal, Opening
from igw_extproc.transport import Conversation, GrpcStatus


class Driver(Protocol):
    """What a connection asks of whoever owns its socket."""

    def wake(self) -> None:
        """Output was made outside a call of the driver: come and `take` it, soon, once."""

    def alarm(self, at: float) -> None:
        """Call `expire` at this loop time; an earlier alarm replaces a later one."""


class Outbound:
    """Frames to send, and the sending half of flow control (RFC 9113 section 5.2)."""

    __slots__ = (
        "blocked",
        "driver",
        "ended",
        "held",
        "held_by_all",
        "initial_window",
        "limits",
        "max_frame",
        "out",
        "queued",
        "quiet",
        "urgent",
        "window",
    )

    def __init__(self, driver: Driver, limits: Limits, held_by_all: Held) -> None:
        self.driver = driver
        self.limits = limits
        self.held_by_all = held_by_all
        self.out: list[bytes | memoryview] = []
        self.quiet = True  # nobody will come for the output unless woken
        self.urgent = False  # the peer waits for some of the output: all but the end of what it has ended itself
        self.held = False  # the socket takes no more: DATA waits in the queues
        self.window = frames.DEFAULT_WINDOW
        self.initial_window = frames.DEFAULT_WINDOW
        self.max_frame = frames.DEFAULT_MAX_FRAME
        self.queued = 0
        # Streams that wait for the connection only, next first. One that waits for its own window is in no list.
        self.blocked: dict[int, Stream] = {}
        # Streams whose last frame is out: the connection forgets them and tells their conversations.
        self.ended: list[Stream] = []

    def put(self, data: bytes) -> None:
        """Send this frame, whatever the windows say: for all frames but DATA."""
        self.out.append(data)
        self.urgent = True
        if self.quiet:
            self.stir()

    def stir(self) -> None:
        """Have the driver come for the output."""
        self.quiet = False
        self.driver.wake()

    def enqueue(self, stream: "Stream", data: bytes) -> None:
        """Send as DATA what the windows allow; keep the rest, or reset the stream when too much is kept."""
        self._count(len(data))
        if stream.queue is None:
            stream.queue = deque()
        stream.queue.append(memoryview(data))
        self.advance(stream)
        most, held = self.limits, self.held_by_all
        if stream.queue and (self.queued > most.max_queued or held.queued > most.max_all_queued):
            self.reset(stream, ErrorCode.ENHANCE_YOUR_CALM)

    def _count(self, queued: int) -> None:
        self.queued += queued
        self.held_by_all.queued += queued

    def advance(self, stream: "Stream") -> None:
        """Send all that the windows allow of one stream's queue."""
        while stream.queue and self._send_frame(stream, stream.queue):
            pass
        self._settle(stream)

    def advance_all(self) -> None:
        """Send what the connection's window allows, one frame per waiting stream in turn."""
        blocked = self.blocked
        while blocked and self.window > 0 and not self.held:
            stream = blocked.pop(next(iter(blocked)))
            if stream.queue:
                self._send_frame(stream, stream.queue)
            self._settle(stream)

    def _send_frame(self, stream: "Stream", queue: deque[memoryview]) -> bool:
        """Send one DATA frame from the queue; False if the windows allow none."""
        room = min(stream.window, self.window, self.max_frame)
        if room <= 0 or self.held:
            return False
        piece = queue.popleft()
        if len(piece) > room:
            queue.appendleft(piece[room:])
            piece = piece[:room]
        size = len(piece)
        stream.window -= size
        self.window -= size
        self._count(-size)
        stream.progressed = True
        self.put(frames.FRAME_HEADER.pack(size >> 16, size & 0xFFFF, frames.DATA, 0, stream.id))
        self.out.append(piece)
        return True

    def _settle(self, stream: "Stream") -> None:
        """Note what a stream waits for after its queue was tried; end it if it waits for nothing."""
        if not stream.queue:
            self.blocked.pop(stream.id, None)
            if stream.last_frame:
                self.end(stream, stream.last_frame)
        elif stream.window > 0:
            self.blocked[stream.id] = stream

    def end(self, stream: "Stream", last_frame: bytes) -> None:
        """Send a stream's last frame; tell a peer that still sends to stop (RFC 9113 section 8.1)."""
        if stream.remote_closed and not self.quiet:
            self.out.append(last_frame)
        else:
            self.put(last_frame)
        if not stream.remote_closed:
            self.put(frames.rst_stream(stream.id, ErrorCode.NO_ERROR))
        self.ended.append(stream)

    def reset(self, stream: "Stream", code: ErrorCode) -> None:
        """End a stream at once; what it had queued is dropped."""
        self.put(frames.rst_stream(stream.id, code))
        self.drop(stream)

    def drop(self, stream: "Stream") -> None:
        """Forget what a stream had queued and count it as ended; sends nothing."""
        stream.finished = True
        if stream.queue:
            self._count(-sum(map(len, stream.queue)))
            stream.queue.clear()
            self.blocked.pop(stream.id, None)
        self.ended.append(stream)


class Stream:
    """A `Call`, with what `connection` keeps of the stream."""

    __slots__ = (
        "conversation",
        "credit",
        "finished",
        "id",
        "last_frame",
        "opening",
        "outbound",
        "partial",
        "progressed",
        "queue",
        "received",
        "remote_closed",
        "stalled_since",
        "started",
        "window",
    )

    def __init__(self, id_: int, opening: Opening, outbound: Outbound, credit: int) -> None:
        self.id = id_
        self.opening = opening
        self.outbound = outbound
        self.credit = credit  # bytes the peer may still send
        self.window = outbound.initial_window  # bytes we may still send
        self.conversation: Conversation | None = None
        self.partial: Deframer | None = None
        self.queue: deque[memoryview] | None = None  # what waits for the windows; most streams never wait
        self.last_frame = b""  # to send when the queue is empty
        self.received = 0  # body bytes, counted only where they matter
        self.started = False  # our headers are out
        self.finished = False  # we send no more messages
        self.remote_closed = False
        self.progressed = False
        self.stalled_since: float | None = None

    def send(self, message: bytes) -> None:
        """See `Call`."""
        if self.finished:
            return
        outbound = self.outbound
        size = len(message)
        framed = size + 5
        if framed > min(self.window, outbound.window, outbound.max_frame) or self.queue or outbound.held:
            self._send_later(message)
            return
        self.window -= framed
        outbound.window -= framed
        start = responses.next_message_start if self.started else responses.first_message_start
        self.started = True
        outbound.put(start(self.id, size) + message)

    def _send_later(self, message: bytes) -> None:
        if not self.started:
            self.started = True
            self.outbound.put(responses.grpc_headers(self.id))
        self.outbound.enqueue(self, b"\0" + len(message).to_bytes(4, "big") + message)

    def finish(self, status: GrpcStatus = GrpcStatus.OK, detail: str = "") -> None:
        """See `Call`."""
        if self.finished:
            return
        self.finished = True
        last = responses.trailers if self.started else responses.trailers_only
        self._end_with(last(self.id, status, detail))

    def refuse(self, refusal: HttpRefusal) -> None:
        """Answer a request that is not gRPC."""
        if self.finished:
            return
        self.finished = True
        self.started = True
        self.outbound.put(responses.http_headers(self.id, refusal.status, refusal.body))
        if refusal.body:
            self.outbound.enqueue(self, refusal.body)
        self._end_with(frames.frame(frames.DATA, frames.END_STREAM, self.id))

    def _end_with(self, last_frame: bytes) -> None:
        if self.queue:
            self.last_frame = last_frame
        else:
            self.outbound.end(self, last_frame)
