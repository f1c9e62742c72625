"""HTTP/2 frames as bytes (RFC 9113 sections 4, 6 and 7): constants, faults, serialisers. Pure; knows no stream state.

Called by `connection` and `streams`. Parsing lives where the bytes arrive, in `connection`, so that no object is made
per frame.
"""

import struct
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE: Final = 9
# Length as 8 + 16 bits, type, flags, stream id with its reserved bit.
FRAME_HEADER: Final = struct.Struct(">BHBBI")
# The same to be read: length and type together.
FRAME_HEADER_READ: Final = struct.Struct(">IBI")

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20

DEFAULT_WINDOW: Final = 65_535
MAX_WINDOW: Final = 2**31 - 1
DEFAULT_MAX_FRAME: Final = 16_384
LARGEST_MAX_FRAME: Final = 2**24 - 1
STREAM_ID_MASK: Final = 2**31 - 1


class Setting(IntEnum):
    """The parameters of SETTINGS (section 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Why a stream was reset or a connection closed (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class ConnectionFault(Exception):
    """The peer broke a rule that costs it the connection: GOAWAY, then close."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class StreamFault(Exception):
    """The peer broke a rule that costs it one stream: RST_STREAM; the connection goes on."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    size = len(payload)
    return FRAME_HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """A SETTINGS frame with these values."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in values.items()))


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def window_update(stream: int, increment: int) -> bytes:
    """Give the peer `increment` more bytes on the stream, or on the connection for stream 0."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """End one stream at once."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last_stream: int, code: ErrorCode, detail: str = "") -> bytes:
    """Say that no stream above `last_stream` was or will be served."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream, code) + detail.encode())


def parse_settings(payload: bytes) -> dict[int, int]:
    """The parameters of a SETTINGS payload, checked against section 6.5.2; of repeated ones the last counts."""
    if len(payload) % 6:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS is not a list of six-byte parameters")
    values: dict[int, int] = {}
    for name, value in struct.iter_unpack(">HI", payload):
        _check_setting(name, value)
        values[name] = value
    return values


def _check_setting(name: int, value: int) -> None:
    if name == Setting.ENABLE_PUSH and value > 1:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
    if name == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is above 2^31-1")
    if name == Setting.MAX_FRAME_SIZE and not DEFAULT_MAX_FRAME <= value <= LARGEST_MAX_FRAME:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")
