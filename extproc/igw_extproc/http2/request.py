"""What a decoded request header list means: RFC 9113 section 8.3 checks, then the gRPC request. Pure.

Called by `connection` through the block cache, so an answer here depends on the headers and the method table alone.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from igw_extproc.transport import GrpcStatus, Method, Methods

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_BAD_VALUE: Final = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]$").search
_DIGITS: Final = re.compile(rb"[0-9]{1,19}").fullmatch
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])").fullmatch
_GRPC_TYPE: Final = re.compile(rb"application/grpc(\+proto)?\s*(;.*)?").fullmatch
_UNIT_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_HOP_BY_HOP: Final = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))


class Malformed(Exception):
    """Not a request, or not trailers, by RFC 9113: a stream error PROTOCOL_ERROR."""


@dataclass(frozen=True, slots=True)
class HttpRefusal:
    """An answer to a request that is not gRPC."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class GrpcRefusal:
    """A trailers-only answer."""

    status: GrpcStatus
    detail: str


@dataclass(frozen=True, slots=True)
class Opening:
    """What to do with a new stream: it has a gRPC method, or a refusal."""

    method: Method | None
    refusal: HttpRefusal | GrpcRefusal | None = None
    content_length: int | None = None
    timeout: float | None = None  # seconds, from grpc-timeout
    encoding: str = "identity"  # of compressed messages


Fields = Iterable[tuple[bytes, bytes]]


def read_request(fields: Fields, methods: Methods) -> Opening:
    """The meaning of a request's header list; raises Malformed."""
    pseudo, regular = _split(fields)
    _check_pseudo(pseudo)
    length = _content_length(regular)
    refusal = _not_grpc(pseudo, regular)
    if refusal is not None:
        return Opening(None, refusal, length)
    path = pseudo[b":path"].decode("latin-1")
    method = methods.get(path)
    if method is None:
        return Opening(None, GrpcRefusal(GrpcStatus.UNIMPLEMENTED, f"unknown method {path}"), length)
    timeout = regular.get(b"grpc-timeout")
    match = _TIMEOUT(timeout) if timeout is not None else None
    if timeout is not None and match is None:
        return Opening(None, GrpcRefusal(GrpcStatus.INTERNAL, "malformed grpc-timeout"), length)
    seconds = int(match[1]) * _UNIT_SECONDS[match[2]] if match else None
    encoding = regular.get(b"grpc-encoding", b"identity").decode("latin-1")
    return Opening(method, None, length, seconds, encoding)


def check_trailers(fields: Fields) -> None:
    """Raise Malformed unless these may end a request."""
    pseudo, _ = _split(fields)
    if pseudo:
        raise Malformed("pseudo header in trailers")


def _split(fields: Fields) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Pseudo headers and the others by name, each field checked; of repeated ones the last counts."""
    pseudo: dict[bytes, bytes] = {}
    regular: dict[bytes, bytes] = {}
    for name, value in fields:
        if _BAD_VALUE(value):
            raise Malformed("forbidden character in a value")
        if name[:1] == b":":
            if name not in _PSEUDO or name in pseudo or regular:
                raise Malformed("pseudo header unknown, repeated or late")
            pseudo[name] = value
        else:
            _check_regular(name, value, regular)
            regular[name] = value
    return pseudo, regular


def _check_regular(name: bytes, value: bytes, before: dict[bytes, bytes]) -> None:
    if not _TOKEN(name):
        raise Malformed("forbidden character in a name")
    if name in _HOP_BY_HOP or (name == b"te" and value.lower() != b"trailers"):
        raise Malformed("connection-specific header")
    if name == b"content-length" and before.get(name, value) != value:
        raise Malformed("content-length given twice")


def _check_pseudo(pseudo: dict[bytes, bytes]) -> None:
    if b":method" not in pseudo:
        raise Malformed("no :method")
    if pseudo[b":method"] == b"CONNECT":
        if b":scheme" in pseudo or b":path" in pseudo or b":authority" not in pseudo:
            raise Malformed("CONNECT takes :authority only")
    elif not pseudo.get(b":path") or not pseudo.get(b":scheme"):
        raise Malformed("no :path or no :scheme")


def _content_length(regular: dict[bytes, bytes]) -> int | None:
    value = regular.get(b"content-length")
    if value is None:
        return None
    if not _DIGITS(value):
        raise Malformed("content-length is not a number")
    return int(value)


def _not_grpc(pseudo: dict[bytes, bytes], regular: dict[bytes, bytes]) -> HttpRefusal | None:
    if pseudo[b":method"] != b"POST":
        # A HEAD request takes no body.
        return HttpRefusal(405, b"" if pseudo[b":method"] == b"HEAD" else b"gRPC methods take POST\n")
    if not _GRPC_TYPE(regular.get(b"content-type", b"")):
        return HttpRefusal(415, b"content-type must be application/grpc\n")
    return None
