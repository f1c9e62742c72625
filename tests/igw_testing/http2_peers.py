"""An HTTP/2 client for tests, frame by frame, and conversations that record what they see.

Frames are written and read here independently of `igw_extproc.http2.frames`, so that the two check each other.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hpack import Decoder, Encoder

from igw_extproc.http2.connection import Connection
from igw_extproc.http2.limits import Held, Limits
from igw_extproc.transport import Call, GrpcStatus, Methods

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 0, 1, 3, 5
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 6, 7, 8, 9, 11

ECHO = "/test.Echo/Say"
REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", ECHO),
    (":authority", "picker"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


@dataclass(frozen=True)
class Frame:
    """One frame as read from the server."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of RST_STREAM or GOAWAY."""
        return int.from_bytes(self.payload[4:8] if self.kind == GOAWAY else self.payload[:4], "big")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame as bytes."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(**values: int) -> bytes:
    """SETTINGS from parameters like p4=0: the name is "p" and the parameter's number."""
    return frame(
        SETTINGS, 0, 0, b"".join(int(k[1:]).to_bytes(2, "big") + v.to_bytes(4, "big") for k, v in values.items())
    )


def window(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE."""
    return frame(WINDOW, 0, stream, increment.to_bytes(4, "big"))


def rst(stream: int, code: int = CANCEL) -> bytes:
    """RST_STREAM."""
    return frame(RST, 0, stream, code.to_bytes(4, "big"))


def message(text: bytes, compressed: int = 0) -> bytes:
    """A gRPC message with its prefix."""
    return bytes((compressed,)) + len(text).to_bytes(4, "big") + text


def data(stream: int, payload: bytes, end: bool = False) -> bytes:
    """DATA."""
    return frame(DATA, END_STREAM if end else 0, stream, payload)


def plain_block(fields: Sequence[tuple[str, str]]) -> bytes:
    """A header block that neither reads nor changes the dynamic table: literals without indexing, short values."""
    block = b""
    for name, value in fields:
        raw, text = name.encode(), value.encode()
        assert len(raw) < 127
        assert len(text) < 127
        block += b"\0" + bytes((len(raw),)) + raw + bytes((len(text),)) + text
    return block


def headers(stream: int, fields: Sequence[tuple[str, str]] = REQUEST, end: bool = False) -> bytes:
    """HEADERS with a whole plain block."""
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, plain_block(fields))


def parse(output: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames in `output`, and the rest."""
    found: list[Frame] = []
    while len(output) >= 9:
        size = int.from_bytes(output[:3], "big")
        if len(output) < 9 + size:
            break
        found.append(Frame(output[3], output[4], int.from_bytes(output[5:9], "big"), output[9 : 9 + size]))
        output = output[9 + size :]
    return found, output


@dataclass
class Talk:
    """A conversation that records; `answer` is what it does with a message, `finishes` whether half-closing ends it."""

    call: Call
    answer: Callable[["Talk", bytes], None]
    finishes: bool = True
    received: list[bytes] = field(default_factory=list)
    half_closes: int = 0
    ends: int = 0

    def receive(self, message: bytes) -> None:
        assert not self.ends
        self.received.append(message)
        self.answer(self, message)

    def half_closed(self) -> None:
        assert not self.ends
        self.half_closes += 1
        if self.finishes:
            self.call.finish()

    def ended(self) -> None:
        self.ends += 1


def echo(talk: Talk, message: bytes) -> None:
    """Send the message back."""
    talk.call.send(message)


def nothing(talk: Talk, message: bytes) -> None:
    """Answer later, if at all."""


def finish_at_once(talk: Talk, message: bytes) -> None:
    """Refuse after the first message."""
    talk.call.finish(GrpcStatus.UNAVAILABLE, "später")


class Talks:
    """A method table with one method, and every conversation it began."""

    def __init__(self, answer: Callable[[Talk, bytes], None] = echo, *, finishes: bool = True) -> None:
        self.answer = answer
        self.finishes = finishes
        self.all: list[Talk] = []

    def begin(self, call: Call) -> Talk:
        """The method."""
        self.all.append(Talk(call, self.answer, self.finishes))
        return self.all[-1]

    @property
    def methods(self) -> Methods:
        """The table."""
        return {ECHO: self.begin}


class Wire:
    """A `Connection` with its peer's end: what is sent in comes back as frames. It is the connection's driver too."""

    def __init__(
        self, talks: Talks, limits: Limits | None = None, *, greet: bool = True, held: Held | None = None
    ) -> None:
        self.now = 100.0
        self.alarms: list[float] = []
        self.wakes = 0
        self.talks = talks
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.raw = b""
        self._rest = b""
        self.connection = Connection(talks.methods, limits or Limits(), self, held)
        self.connection.start(self.now)
        self.greeting = self.take()
        if greet:
            self.send(PREFACE, settings())

    def wake(self) -> None:
        self.wakes += 1

    def alarm(self, at: float) -> None:
        self.alarms.append(at)

    def send(self, *pieces: bytes) -> list[Frame]:
        """Hand the server these bytes in one chunk; what it sends for them."""
        self.connection.receive(b"".join(pieces), self.now)
        return self.take()

    def take(self) -> list[Frame]:
        """What the server has sent since the last call."""
        output = self.connection.take()
        self.raw += output
        found, self._rest = parse(self._rest + output)
        return found

    def fields(self, frame: Frame) -> dict[str, str]:
        """The header list of a HEADERS frame of the server."""
        assert frame.kind == HEADERS
        assert frame.flags & END_HEADERS
        return {str(name): str(value) for name, value in self.decoder.decode(frame.payload)}

    def goaway(self) -> int | None:
        """The error code that closed the connection, or None while it is open."""
        return None if self.connection.fault is None else int(self.connection.fault.code)


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition with a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it is told by other processes' sockets, not by an event
            await asyncio.sleep(0.01)
