"""One HTTP/2 connection of a gRPC server as a state machine: bytes in, conversations driven, bytes out. No I/O.

`server` owns the socket, hands in what arrived and the time, and takes what is to be sent. Nothing that a peer sends
raises out of here: a fault ends in RST_STREAM or GOAWAY. Section numbers are RFC 9113's.
"""

from collections.abc import Callable
from typing import Final

from igw_extproc.http2 import frames
from igw_extproc.http2.calls import Calls
from igw_extproc.http2.frames import ConnectionFault, ErrorCode, Setting, StreamFault
from igw_extproc.http2.limits import CalmBudget, Held, Limits
from igw_extproc.http2.streams import Driver, Outbound
from igw_extproc.transport import Methods

# The PING between the two GOAWAYs of a shutdown, and the one that asks a silent peer.
_SHUTDOWN_PING: Final = b"shutdown"
_ALIVE_PING: Final = b"youthere"
# No peer needs more parameters than this in one SETTINGS frame.
_MAX_SETTINGS_SIZE: Final = 6 * 64

_HEADER_SIZE: Final = frames.HEADER_SIZE
_unpack_header: Final = frames.FRAME_HEADER_READ.unpack_from
_STREAM_ID: Final = frames.STREAM_ID_MASK


class Connection:
    """See the module. When `closed`, take the output a last time and close the socket."""

    def __init__(self, methods: Methods, limits: Limits, driver: Driver, held: Held | None = None) -> None:
        """`held`: what all connections of the server hold; by default this is the only one."""
        self.limits = limits
        self.closed = False
        self.fault: ConnectionFault | None = None
        self.greeted = False  # the peer's preface and first SETTINGS are in
        self._outbound = Outbound(driver, limits, held if held is not None else Held())
        self._calm = CalmBudget(limits.calm_burst, limits.calm_rate)
        self._calls = Calls(methods, limits, self._outbound, self._calm)
        self._handlers = _GREETING
        self._preface_left = frames.PREFACE
        self._tail = bytearray()  # an unfinished frame
        self._credit = limits.connection_window
        self._low_credit = limits.connection_window // 2
        self._block = bytearray()  # an unfinished header block, with its flags, stream and fault
        self._block_of = (0, 0, False)
        self._continuations = 0
        self._leaving = False  # close when the last stream ends
        self._shutting_since: float | None = None
        self._active_at = 0.0
        self._asked_at: float | None = None  # when _ALIVE_PING went out

    @property
    def open_streams(self) -> int:
        """Streams that have not ended."""
        return len(self._calls.streams)

    # What the driver calls

    def start(self, now: float) -> None:
        """Queue our preface: SETTINGS and the connection's window."""
        self._active_at = now
        self._outbound.quiet = False
        limits = self.limits
        values = {
            Setting.ENABLE_PUSH: 0,
            Setting.MAX_CONCURRENT_STREAMS: limits.max_streams,
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_FRAME_SIZE: limits.max_frame,
            Setting.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
        }
        self._outbound.put(frames.settings(values))
        self._outbound.put(frames.window_update(0, limits.connection_window - frames.DEFAULT_WINDOW))

    def receive(self, data: bytes, now: float) -> None:
        """What arrived on the socket, cut anywhere."""
        if self.closed:
            return
        self._calls.now = self._active_at = now
        self._asked_at = None
        self._outbound.quiet = False
        at = 0
        try:
            if self._preface_left:
                at = self._greet(data)
            if self._tail:
                at = self._finish_frame(data)
            self._tail += data[self._frames(data, at) :]
        except ConnectionFault as fault:
            self._fail(fault)

    def settle(self) -> bool:
        """Tell conversations that ended. Whether somebody waits for the output; if not, `take` may come a bit later."""
        outbound = self._outbound
        outbound.quiet = False
        if outbound.ended:
            self._calls.bury()
        outbound.quiet = True
        return outbound.urgent or self._leaving or self.closed

    def take(self) -> bytes:
        """All output so far. The driver calls this or `settle` after every other call here, and when woken."""
        self.settle()
        outbound = self._outbound
        self.closed = self.closed or (self._leaving and not self._calls.streams)
        outbound.urgent = False
        output = b"".join(outbound.out)
        outbound.out.clear()
        return output

    def expire(self, now: float) -> None:
        """The time of an alarm has come."""
        self._outbound.quiet = False
        self._calls.expire(now)

    def sweep(self, now: float) -> None:
        """Look for a peer that is silent, idle or takes nothing; call about once a second."""
        self._outbound.quiet = False
        limits = self.limits
        silent = now - self._active_at
        self._calls.reset_stalled(now)
        self._calls.finish_overdue(now)
        if not self.greeted:
            if silent >= limits.handshake_s:
                self._fail(ConnectionFault(ErrorCode.SETTINGS_TIMEOUT, "no preface in time"))
        elif self._shutting_since is not None and now - self._shutting_since >= limits.keepalive_timeout_s:
            self._refuse_from_now()
        elif not self._calls.streams:
            if silent >= limits.idle_s:
                self.shut_down(now)
        elif self._asked_at is not None:
            if now - self._asked_at >= limits.keepalive_timeout_s:
                self._fail(ConnectionFault(ErrorCode.NO_ERROR, "no answer to PING"))
        elif silent >= limits.keepalive_s:
            self._asked_at = now
            self._outbound.put(frames.frame(frames.PING, 0, 0, _ALIVE_PING))

    def hold(self) -> None:
        """The socket takes no more for now: keep DATA back, within `max_queued`."""
        self._outbound.held = True

    def release(self) -> None:
        """The socket takes data again."""
        self._outbound.held = False
        self._outbound.quiet = False
        self._outbound.advance_all()

    def shut_down(self, now: float) -> None:
        """Take no new streams and close after the open ones.

        Streams may be under way, so the first GOAWAY names the highest id there is, and the answer to a PING shows
        that the peer has read it (6.8).
        """
        if self._shutting_since is not None or self.closed:
            return
        self._shutting_since = now
        self._outbound.quiet = False
        self._outbound.put(frames.goaway(frames.MAX_WINDOW, ErrorCode.NO_ERROR))
        self._outbound.put(frames.frame(frames.PING, 0, 0, _SHUTDOWN_PING))

    def abort(self, code: ErrorCode, detail: str) -> None:
        """End all streams and close, for a reason of ours."""
        if not self.closed:
            self._fail(ConnectionFault(code, detail))

    def lost(self) -> None:
        """The socket is gone."""
        self.closed = True
        self._outbound.quiet = False  # nobody comes for output any more
        self._calls.drop_all()

    # Bytes to frames

    def _greet(self, data: bytes) -> int:
        """Check the client's preface (3.4); return how many bytes of it are in `data`."""
        seen = data[: len(self._preface_left)]
        if not self._preface_left.startswith(seen):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "not an HTTP/2 preface")
        self._preface_left = self._preface_left[len(seen) :]
        return len(seen)

    def _finish_frame(self, data: bytes) -> int:
        """Complete the frame in `_tail` from the front of `data` and handle it; return how many bytes that took.

        Only this one frame is copied, however large the chunk after it.
        """
        tail = self._tail
        used = max(0, _HEADER_SIZE - len(tail))
        tail += data[:used]
        if len(tail) < _HEADER_SIZE:
            return len(data)
        size = int.from_bytes(tail[:3], "big")
        missing = min(size, self.limits.max_frame) + _HEADER_SIZE - len(tail)
        tail += data[used : used + missing]
        if len(data) < used + missing and size <= self.limits.max_frame:
            return len(data)
        self._frames(bytes(tail), 0)  # refuses a size above the limit by its header
        tail.clear()
        return used + missing

    def _frames(self, data: bytes, at: int) -> int:
        """Handle the whole frames in `data` from `at` on; return where the rest begins."""
        end = len(data)
        max_frame = self.limits.max_frame
        ended = self._outbound.ended
        while end - at >= _HEADER_SIZE:
            size_and_kind, flags, stream = _unpack_header(data, at)
            size = size_and_kind >> 8
            if size > max_frame:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "frame above MAX_FRAME_SIZE")
            start = at + _HEADER_SIZE
            if start + size > end:
                break
            at = start + size
            stream &= _STREAM_ID
            try:
                self._handlers[size_and_kind & 0xFF](self, flags, stream, data, start, at)
            except StreamFault as fault:
                self._calm.spend(1, self._calls.now, "stream faults")
                self._calls.reset(stream, fault.code)
            if ended:
                self._calls.bury()
        return at

    def _fail(self, fault: ConnectionFault) -> None:
        self.fault = fault
        self.closed = True
        self._outbound.quiet = False
        self._outbound.put(frames.goaway(self._calls.last_stream, fault.code, fault.detail))
        self._calls.drop_all()

    # One handler per frame type: flags, stream, data, start and end of the payload

    def _on_data(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        size = end - start
        self._credit -= size
        if self._credit < self._low_credit:
            if self._credit < 0:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "DATA beyond the connection's window")
            self._outbound.put(frames.window_update(0, self.limits.connection_window - self._credit))
            self._credit = self.limits.connection_window
        if flags & frames.PADDED:
            start, end = _unpadded(data, start, end)
        self._calls.data(flags, stream, data, start, end, size)

    def _on_headers(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        if not stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        self_dependent = False
        if flags & (frames.PADDED | frames.PRIORITISED):
            if flags & frames.PADDED:
                start, end = _unpadded(data, start, end)
            if flags & frames.PRIORITISED:
                self_dependent = _dependency(data, start, end) == stream
                start += 5
        if flags & frames.END_HEADERS:
            self._calls.headers(flags, stream, data[start:end], self_dependent)
            return
        self._block = bytearray(data[start:end])
        self._block_of = (flags, stream, self_dependent)
        self._continuations = 0
        self._handlers = _IN_BLOCK

    def _on_continuation(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        first_flags, of_stream, self_dependent = self._block_of
        if stream != of_stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of another stream")
        self._block += data[start:end]
        self._continuations += 1
        limits = self.limits
        if len(self._block) > limits.max_header_bytes or self._continuations > limits.max_continuations:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        if flags & frames.END_HEADERS:
            self._handlers = _OPEN
            self._calls.headers(first_flags, stream, bytes(self._block), self_dependent)

    def _on_priority(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        self._calm.spend(1, self._calls.now, "PRIORITY")
        if not stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if end - start != 5:
            raise StreamFault(ErrorCode.FRAME_SIZE_ERROR)
        if _dependency(data, start, end) == stream:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)

    def _on_rst_stream(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        if end - start != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not four bytes")
        self._calls.peer_reset(stream)

    def _on_first_settings(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        if flags & frames.ACK:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        self._handlers = _OPEN
        self._on_settings(flags, stream, data, start, end)
        self.greeted = True

    def _on_settings(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if start != end:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            return
        self._calm.spend(1, self._calls.now, "SETTINGS")
        if end - start > _MAX_SETTINGS_SIZE:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many parameters in SETTINGS")
        values = frames.parse_settings(data[start:end])
        self._outbound.max_frame = values.get(Setting.MAX_FRAME_SIZE, self._outbound.max_frame)
        self._outbound.put(frames.SETTINGS_ACK)
        if Setting.INITIAL_WINDOW_SIZE in values:
            self._calls.resize_windows(values[Setting.INITIAL_WINDOW_SIZE])

    def _on_ping(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if end - start != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is not eight bytes")
        payload = data[start:end]
        if not flags & frames.ACK:
            self._calm.spend(1, self._calls.now, "PING")
            self._outbound.put(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _SHUTDOWN_PING and self._shutting_since is not None:
            self._refuse_from_now()

    def _refuse_from_now(self) -> None:
        if self._calls.refusing:
            return
        self._calls.refusing = self._leaving = True
        self._outbound.put(frames.goaway(self._calls.last_stream, ErrorCode.NO_ERROR))

    def _on_goaway(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        if stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if end - start < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is under eight bytes")
        self._leaving = True  # the peer opens no more streams; it waits for the answers

    def _on_window_update(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        if end - start != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not four bytes")
        increment = int.from_bytes(data[start:end], "big") & frames.MAX_WINDOW
        if stream:
            if self._calls.is_idle(stream):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
            self._calls.widen(stream, increment)
            return
        if not increment:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
        if self._outbound.window + increment > frames.MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "WINDOW_UPDATE overflows the connection's window")
        self._outbound.window += increment
        if self._outbound.blocked:
            self._outbound.advance_all()

    def _on_extension(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        self._calm.spend(1, self._calls.now, "unknown frames")  # ignored (5.5)

    def _on_unexpected(self, flags: int, stream: int, data: bytes, start: int, end: int) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a frame that may not come here")


def _unpadded(data: bytes, start: int, end: int) -> tuple[int, int]:
    if start == end:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a length")
    padding = data[start]
    if padding >= end - start:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than the frame")
    return start + 1, end - padding


def _dependency(data: bytes, start: int, end: int) -> int:
    if end - start < 5:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "no room for the priority fields")
    return int.from_bytes(data[start : start + 4], "big") & frames.STREAM_ID_MASK


_Handler = Callable[[Connection, int, int, bytes, int, int], None]
_TYPES: Final = 256

# What may come, by frame type: plain functions, so that a connection holds no cycle of bound methods.
_OPEN: Final[tuple[_Handler, ...]] = (
    Connection._on_data,
    Connection._on_headers,
    Connection._on_priority,
    Connection._on_rst_stream,
    Connection._on_settings,
    Connection._on_unexpected,  # PUSH_PROMISE is the server's alone
    Connection._on_ping,
    Connection._on_goaway,
    Connection._on_window_update,
    Connection._on_unexpected,  # CONTINUATION without an open block
    *(Connection._on_extension,) * (_TYPES - frames.CONTINUATION - 1),
)
_NOTHING: Final[tuple[_Handler, ...]] = (Connection._on_unexpected,) * _TYPES
# The first frame of a peer is SETTINGS (3.4); within a header block nothing but its CONTINUATION may come (6.10).
_GREETING: Final = (*_NOTHING[: frames.SETTINGS], Connection._on_first_settings, *_NOTHING[frames.SETTINGS + 1 :])
_IN_BLOCK: Final = (*_NOTHING[: frames.CONTINUATION], Connection._on_continuation, *_NOTHING[frames.CONTINUATION + 1 :])
