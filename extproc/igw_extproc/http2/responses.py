"""Our side of a stream as header blocks and frames: gRPC answers, trailers, plain HTTP refusals. Pure.

Blocks use only the static table and literals without indexing (RFC 7541 section 6.2.2), so they never change, need no
encoder state, and are the same for every peer. Called by `streams` and `request`.
"""

import struct
from typing import Final

from igw_extproc.http2 import frames
from igw_extproc.transport import GrpcStatus

_STATUS_200: Final = b"\x88"  # static index 8
_STATUS_NAME: Final = 8
_CONTENT_TYPE_NAME: Final = 31
_CONTENT_LENGTH_NAME: Final = 28
_ALLOW_NAME: Final = 22
# Longer texts are cut: they are for a person, and header lists are limited.
_MAX_DETAIL: Final = 1024


def _integer(value: int, prefix_bits: int) -> bytes:
    """An integer with an N-bit prefix, the bits above it zero (RFC 7541 section 5.1)."""
    full = (1 << prefix_bits) - 1
    if value < full:
        return bytes((value,))
    value -= full
    out = bytearray((full,))
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _literal(name: bytes | int, value: bytes) -> bytes:
    """A field without indexing; `name` is text or a static table index."""
    head = _integer(name, 4) if isinstance(name, int) else b"\0" + _integer(len(name), 7) + name
    return head + _integer(len(value), 7) + value


_GRPC_HEADERS: Final = _STATUS_200 + _literal(_CONTENT_TYPE_NAME, b"application/grpc")
_ACCEPT_ENCODING: Final = _literal(b"grpc-accept-encoding", b"identity")


def _percent_encoded(text: str) -> bytes:
    """A grpc-message: printable ASCII but "%" as it is, all other bytes of the UTF-8 as %XX (gRPC over HTTP/2)."""
    raw = text.encode(errors="replace")[:_MAX_DETAIL]
    return b"".join(bytes((c,)) if 0x20 <= c <= 0x7E and c != 0x25 else b"%%%02X" % c for c in raw)


def _status_block(status: GrpcStatus, detail: str) -> bytes:
    block = _literal(b"grpc-status", b"%d" % status)
    return block + _literal(b"grpc-message", _percent_encoded(detail)) if detail else block


def _last_headers(stream: int, block: bytes) -> bytes:
    return frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, block)


_OK_BLOCK: Final = _status_block(GrpcStatus.OK, "")
_OK_TRAILERS: Final = struct.Struct(f">5sI{len(_OK_BLOCK)}s")
_OK_START: Final = _last_headers(0, _OK_BLOCK)[:5]


def trailers(stream: int, status: GrpcStatus, detail: str) -> bytes:
    """The HEADERS frame that ends a stream after its response headers."""
    if status == 0 and not detail:
        return _OK_TRAILERS.pack(_OK_START, stream, _OK_BLOCK)
    return _last_headers(stream, _status_block(status, detail))


def trailers_only(stream: int, status: GrpcStatus, detail: str) -> bytes:
    """The one HEADERS frame of a stream that ends with nothing sent before."""
    accept = _ACCEPT_ENCODING if status == GrpcStatus.UNIMPLEMENTED else b""
    return _last_headers(stream, _GRPC_HEADERS + accept + _status_block(status, detail))


# The response headers and the start of the first message, in one call: two frame headers, block, gRPC prefix.
_FIRST: Final = struct.Struct(f">5sI{len(_GRPC_HEADERS)}sBHHIBI")
_FIRST_START: Final = frames.frame(frames.HEADERS, frames.END_HEADERS, 0, _GRPC_HEADERS)[:5]
_NEXT: Final = struct.Struct(">BHHIBI")


def first_message_start(stream: int, size: int) -> bytes:
    """All that goes before the `size` bytes of a stream's first message, sent as one DATA frame."""
    framed = size + 5
    return _FIRST.pack(_FIRST_START, stream, _GRPC_HEADERS, framed >> 16, framed & 0xFFFF, 0, stream, 0, size)


def next_message_start(stream: int, size: int) -> bytes:
    """All that goes before the `size` bytes of a later message, sent as one DATA frame."""
    framed = size + 5
    return _NEXT.pack(framed >> 16, framed & 0xFFFF, 0, stream, 0, size)


def grpc_headers(stream: int) -> bytes:
    """The response headers alone, for a message that cannot go out at once."""
    return frames.frame(frames.HEADERS, frames.END_HEADERS, stream, _GRPC_HEADERS)


def http_headers(stream: int, status: int, body: bytes) -> bytes:
    """Response headers of a request that is not gRPC; `body` follows as DATA."""
    block = _literal(_STATUS_NAME, b"%d" % status)
    block += _literal(_CONTENT_TYPE_NAME, b"text/plain") + _literal(_CONTENT_LENGTH_NAME, b"%d" % len(body))
    if status == 405:
        block += _literal(_ALLOW_NAME, b"POST")
    return frames.frame(frames.HEADERS, frames.END_HEADERS, stream, block)
