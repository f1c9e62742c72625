"""The streams of one connection and their gRPC calls: opening, messages, deadlines, ends. No frames are parsed here.

`connection` calls in with checked frames. A conversation's exception ends its own stream with INTERNAL and no more.
"""

import heapq
import logging
import struct
from functools import partial
from typing import Final

from igw_extproc.http2 import frames
from igw_extproc.http2.deframe import Deframer, MessageFault
from igw_extproc.http2.frames import END_STREAM, ConnectionFault, ErrorCode, StreamFault
from igw_extproc.http2.hpack_cache import HeaderBlocks
from igw_extproc.http2.limits import CalmBudget, Limits
from igw_extproc.http2.request import GrpcRefusal, HttpRefusal, Malformed, Opening, check_trailers, read_request
from igw_extproc.http2.streams import Outbound, Stream
from igw_extproc.transport import GrpcStatus, Methods

log = logging.getLogger(__name__)

# Streams that we reset may still get frames that were under way; so many are remembered to tell them from faults.
_MAX_REMEMBERED: Final = 4096
# A request that is not gRPC is read to its end for its checks, but not without bound.
_MAX_REFUSED_BODY: Final = 65_536
# In front of each message: whether it is compressed, and its length.
_prefix: Final = struct.Struct(">BI").unpack_from


class Calls:
    """The streams by id. Faults of the peer are raised; `now` is set by the owner before it calls in."""

    def __init__(self, methods: Methods, limits: Limits, outbound: Outbound, calm: CalmBudget) -> None:
        self.streams: dict[int, Stream] = {}
        self.last_stream = 0
        self.refusing = False  # no new streams
        self.now = 0.0
        self._limits = limits
        self._outbound = outbound
        self._calm = calm
        self._blocks = HeaderBlocks(partial(read_request, methods=methods), limits.max_header_bytes)
        self._low_credit = limits.stream_window // 2
        self._largest_frame = limits.max_message + 5  # of those that hold a whole message
        self._we_reset: dict[int, None] = {}
        self._deadlines: list[tuple[float, int]] = []
        self._held = outbound.held_by_all
        self._buffered = 0

    # Header blocks

    def headers(self, flags: int, id_: int, block: bytes, self_dependent: bool) -> None:
        """A whole header block: of a request, or trailers."""
        if id_ <= self.last_stream:
            self._late_headers(flags, id_, block)
            return
        if not id_ & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client's stream has an even id")
        self.last_stream = id_
        try:
            opening = self._blocks.request(block)
        except Malformed:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR) from None
        if self_dependent:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)
        if self.refusing or self._is_full():
            raise StreamFault(ErrorCode.REFUSED_STREAM)
        self._held.streams += 1
        self.streams[id_] = stream = Stream(id_, opening, self._outbound, self._limits.stream_window)
        if flags & END_STREAM:
            stream.remote_closed = True
        self._begin(stream, opening)
        if flags & END_STREAM:
            self._half_closed(stream)

    def _is_full(self) -> bool:
        most = self._limits
        return len(self.streams) >= most.max_streams or self._held.streams >= most.max_all_streams

    def _begin(self, stream: Stream, opening: Opening) -> None:
        if opening.method is None:
            # A plain HTTP request is answered at its end, so that its length is checked.
            if isinstance(opening.refusal, GrpcRefusal):
                stream.finish(opening.refusal.status, opening.refusal.detail)
            return
        if opening.timeout is not None:
            self._set_deadline(stream.id, self.now + opening.timeout)
        try:
            stream.conversation = opening.method(stream)
        except Exception:
            self._failed(stream, "begin")

    def _late_headers(self, flags: int, id_: int, block: bytes) -> None:
        fields = self._blocks.decode(block)
        stream = self.streams.get(id_)
        if stream is None:
            if id_ not in self._we_reset:
                raise ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")
            return
        if stream.remote_closed:
            raise StreamFault(ErrorCode.STREAM_CLOSED)
        try:
            check_trailers(fields)
        except Malformed:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR) from None
        if not flags & END_STREAM:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)
        stream.remote_closed = True
        self._half_closed(stream)

    # Messages

    def data(self, flags: int, id_: int, data: bytes, start: int, end: int, size: int) -> None:
        """A DATA frame of `size` bytes with padding; its payload is data[start:end]."""
        stream = self.streams.get(id_)
        if stream is None:
            self._must_not_be_idle(id_, "DATA")
            if id_ in self._we_reset:
                return
        if stream is None or stream.remote_closed:
            raise StreamFault(ErrorCode.STREAM_CLOSED)
        credit = stream.credit - size
        if credit < 0:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR)
        last = flags & END_STREAM
        if last:
            stream.remote_closed = True
        elif credit < self._low_credit:
            self._outbound.put(frames.window_update(id_, self._limits.stream_window - credit))
            credit = self._limits.stream_window
        stream.credit = credit
        if start != end:
            self._payload(stream, data, start, end)
        elif not last:
            self._calm.spend(1, self.now, "empty DATA")
        if last:
            self._half_closed(stream)

    def _payload(self, stream: Stream, data: bytes, start: int, end: int) -> None:
        size = end - start
        stream.received += size
        if stream.finished:
            return
        if stream.opening.method is None:
            self._refused_payload(stream)
        elif stream.partial is None and 5 <= size <= self._largest_frame and _prefix(data, start) == (0, size - 5):
            # The usual case: one frame is one message, so its bytes are copied once.
            self._deliver(stream, data[start + 5 : end])
        else:
            self._reassemble(stream, memoryview(data)[start:end])

    def _refused_payload(self, stream: Stream) -> None:
        if stream.received > _MAX_REFUSED_BODY and isinstance(stream.opening.refusal, HttpRefusal):
            stream.refuse(stream.opening.refusal)

    def _reassemble(self, stream: Stream, chunk: memoryview) -> None:
        unfinished = stream.partial
        if unfinished is None:
            unfinished = stream.partial = Deframer(self._limits.max_message, stream.opening.encoding)
            unfinished.since = self.now
        before = unfinished.held
        try:
            messages = unfinished.feed(chunk)
        except MessageFault as fault:
            stream.finish(fault.status, fault.detail)
            return
        finally:
            self._hold(unfinished.held - before)
        if messages:
            unfinished.since = self.now
        if not unfinished.held:
            stream.partial = None
        for message in messages:
            if not stream.finished:
                self._deliver(stream, message)
        if self._held.buffered > self._limits.max_buffered and stream.partial is not None:
            stream.finish(GrpcStatus.RESOURCE_EXHAUSTED, "too many bytes of unfinished messages")

    def _hold(self, size: int) -> None:
        self._buffered += size
        self._held.buffered += size

    def _deliver(self, stream: Stream, message: bytes) -> None:
        conversation = stream.conversation
        if conversation is not None:
            try:
                conversation.receive(message)
            except Exception:
                self._failed(stream, "receive")

    def _half_closed(self, stream: Stream) -> None:
        if stream.finished:
            return
        opening = stream.opening
        if opening.content_length is not None and opening.content_length != stream.received:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)
        if isinstance(opening.refusal, HttpRefusal):
            stream.refuse(opening.refusal)
        elif stream.partial is not None:
            stream.finish(GrpcStatus.INTERNAL, "the request ended inside a message")
        elif stream.conversation is not None:
            try:
                stream.conversation.half_closed()
            except Exception:
                self._failed(stream, "half_closed")

    def _failed(self, stream: Stream, where: str) -> None:
        log.exception("conversation failed in=%s stream=%d", where, stream.id)
        stream.finish(GrpcStatus.INTERNAL, "internal error")

    # Ends

    def is_idle(self, id_: int) -> bool:
        """True for a stream that the peer has not opened, nor skipped by opening a later one."""
        return id_ > self.last_stream or not id_ & 1

    def _must_not_be_idle(self, id_: int, frame: str) -> None:
        if self.is_idle(id_):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{frame} on an idle stream")

    def peer_reset(self, id_: int) -> None:
        """The peer ended this stream at once."""
        stream = self.streams.get(id_)
        if stream is None:
            self._must_not_be_idle(id_, "RST_STREAM")
            return
        if not stream.started:
            # Work asked for and thrown away (CVE-2023-44487). After an answer, a reset is how some proxies hang up.
            self._calm.spend(1, self.now, "resets before an answer")
        stream.remote_closed = True
        self._outbound.drop(stream)

    def reset(self, id_: int, code: ErrorCode) -> None:
        """The peer broke a rule on this stream."""
        stream = self.streams.get(id_)
        if stream is not None:
            self._outbound.reset(stream, code)
        else:
            self._outbound.put(frames.rst_stream(id_, code))
            self._remember(id_)

    def drop_all(self) -> None:
        """The connection is lost or closing: every stream ends."""
        for stream in list(self.streams.values()):
            stream.remote_closed = True
            self._outbound.drop(stream)
        self.bury()

    def bury(self) -> None:
        """Forget the streams that have ended, and tell their conversations; more may end meanwhile."""
        ended = self._outbound.ended
        for stream in ended:
            if self.streams.pop(stream.id, None) is None:
                continue
            self._held.streams -= 1
            if stream.partial is not None:
                self._hold(-stream.partial.held)
            if not stream.remote_closed:
                self._remember(stream.id)
            conversation, stream.conversation = stream.conversation, None  # and no cycle is left
            if conversation is not None:
                try:
                    conversation.ended()
                except Exception:
                    log.exception("conversation failed in=ended stream=%d", stream.id)
        ended.clear()

    def _remember(self, id_: int) -> None:
        self._we_reset[id_] = None
        if len(self._we_reset) > _MAX_REMEMBERED:
            del self._we_reset[next(iter(self._we_reset))]

    # Windows and time

    def widen(self, id_: int, increment: int) -> None:
        """WINDOW_UPDATE on a stream."""
        stream = self.streams.get(id_)
        if increment == 0:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)
        if stream is None:
            return
        if stream.window + increment > frames.MAX_WINDOW:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR)
        stream.window += increment
        if stream.queue:
            self._outbound.advance(stream)

    def resize_windows(self, initial: int) -> None:
        """The peer changed SETTINGS_INITIAL_WINDOW_SIZE: every open stream's window moves by the difference."""
        change = initial - self._outbound.initial_window
        self._outbound.initial_window = initial
        self._calm.spend(len(self.streams) // 64, self.now, "window size changes")
        for stream in self.streams.values():
            if stream.window + change > frames.MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE overflows a window")
            stream.window += change
            if stream.queue:
                self._outbound.advance(stream)

    def _set_deadline(self, id_: int, at: float) -> None:
        if not self._deadlines or at < self._deadlines[0][0]:
            self._outbound.driver.alarm(at)
        heapq.heappush(self._deadlines, (at, id_))
        # Ended streams leave theirs behind: drop those before they outnumber the others.
        if len(self._deadlines) > 2 * len(self.streams) + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self.streams]
            heapq.heapify(self._deadlines)

    def expire(self, now: float) -> None:
        """End the streams whose grpc-timeout has passed, and ask for the next alarm."""
        while self._deadlines and self._deadlines[0][0] <= now:
            stream = self.streams.get(heapq.heappop(self._deadlines)[1])
            if stream is None:
                continue
            if stream.finished:
                self._outbound.reset(stream, ErrorCode.CANCEL)
            else:
                stream.finish(GrpcStatus.DEADLINE_EXCEEDED, "grpc-timeout passed")
        if self._deadlines:
            self._outbound.driver.alarm(self._deadlines[0][0])

    def finish_overdue(self, now: float) -> None:
        """End streams whose peer takes longer than `message_s` to send one message."""
        for stream in list(self.streams.values()) if self._buffered else ():
            if stream.partial is not None and now - stream.partial.since >= self._limits.message_s:
                stream.finish(GrpcStatus.DEADLINE_EXCEEDED, "a message has taken too long")

    def reset_stalled(self, now: float) -> None:
        """Reset streams whose peer has taken nothing of what is queued for `stall_s`."""
        if not self._outbound.queued:
            return
        for stream in self.streams.values():
            if not stream.queue:
                continue
            if stream.progressed or stream.stalled_since is None:
                stream.progressed, stream.stalled_since = False, now
            elif now - stream.stalled_since >= self._limits.stall_s:
                self._outbound.reset(stream, ErrorCode.ENHANCE_YOUR_CALM)
