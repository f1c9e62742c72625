"""gRPC messages out of DATA payloads (five-byte prefix: compressed flag, length). Pure; bytes are copied twice at most.

Called by `calls` for messages that do not come in exactly one frame.
"""

from typing import Final

from igw_extproc.transport import GrpcStatus

_PREFIX: Final = 5
# Small pieces are packed together up to this size: a message sent byte by byte takes little more than its own size,
# and one that comes in usual frames is never moved before it is whole.
_PACK: Final = 16_384


class MessageFault(Exception):
    """The stream cannot go on: it ends with this status."""

    def __init__(self, status: GrpcStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Deframer:
    """The unfinished message of one stream; `held` is its size in bytes, `since` its beginning, set by `calls`."""

    __slots__ = ("_encoding", "_max_message", "_missing", "_parts", "_prefix", "held", "since")

    def __init__(self, max_message: int, encoding: str) -> None:
        self.held = 0
        self.since = 0.0
        self._max_message = max_message
        self._encoding = encoding
        self._prefix = b""
        self._missing = -1  # bytes until the message is whole; -1 while its prefix is not
        self._parts: list[bytearray] = []

    def feed(self, chunk: memoryview) -> list[bytes]:
        """The messages that this chunk completes. Raises MessageFault."""
        messages: list[bytes] = []
        at, end = 0, len(chunk)
        while at < end or self._missing == 0:
            if self._missing < 0:
                used = min(_PREFIX - len(self._prefix), end - at)
                self._read_prefix(bytes(chunk[at : at + used]))
            else:
                used = min(self._missing, end - at)
                self._keep(chunk[at : at + used])
                if not self._missing:
                    messages.append(self._finish())
            at += used
        return messages

    def _read_prefix(self, piece: bytes) -> None:
        self._prefix += piece
        self.held += len(piece)
        if len(self._prefix) == _PREFIX:
            compressed, length = self._prefix[0], int.from_bytes(self._prefix[1:], "big")
            self._check(compressed, length)
            self._missing = length

    def _check(self, compressed: int, length: int) -> None:
        if compressed == 1 and self._encoding != "identity":
            raise MessageFault(GrpcStatus.UNIMPLEMENTED, f"grpc-encoding {self._encoding} is not supported")
        if compressed:
            raise MessageFault(GrpcStatus.INTERNAL, "compressed flag set without a grpc-encoding")
        if length > self._max_message:
            raise MessageFault(GrpcStatus.RESOURCE_EXHAUSTED, f"message of {length} bytes exceeds {self._max_message}")

    def _keep(self, piece: memoryview) -> None:
        size = len(piece)
        self._missing -= size
        self.held += size
        if self._parts and len(self._parts[-1]) + size <= _PACK:
            self._parts[-1] += piece
        else:
            self._parts.append(bytearray(piece))

    def _finish(self) -> bytes:
        message = b"".join(self._parts)
        self._parts.clear()
        self._prefix = b""
        self._missing = -1
        self.held = 0
        return message
