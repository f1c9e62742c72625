"""gRPC messages out of DATA payloads (five-byte prefix: compressed flag, length). Pure; bytes are copied twice at most.

Called by `connection` for messages that do not come in exactly one frame.
"""

from igw_extproc.transport import GrpcStatus


class MessageFault(Exception):
    """The stream cannot go on: it ends with this status."""

    def __init__(self, status: GrpcStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Deframer:
    """The unfinished message of one stream."""

    __slots__ = ("_buffer", "_encoding", "_max_message", "_need")

    def __init__(self, max_message: int, encoding: str) -> None:
        self._max_message = max_message
        self._encoding = encoding
        self._buffer = bytearray()
        self._need = 5  # bytes in the buffer before anything can be done

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, chunk: memoryview) -> list[bytes]:
        """The messages that this chunk completes. Raises MessageFault."""
        buffer = self._buffer
        buffer += chunk
        if len(buffer) < self._need:
            return []
        messages: list[bytes] = []
        start = 0
        with memoryview(buffer) as view:
            while len(view) - start >= 5:
                end = start + 5 + self._checked_length(view[start : start + 5])
                self._need = end - start
                if end > len(view):
                    break
                messages.append(bytes(view[start + 5 : end]))
                start, self._need = end, 5
        del buffer[:start]
        return messages

    def _checked_length(self, prefix: memoryview) -> int:
        compressed, length = prefix[0], int.from_bytes(prefix[1:], "big")
        if compressed == 1 and self._encoding != "identity":
            raise MessageFault(GrpcStatus.UNIMPLEMENTED, f"grpc-encoding {self._encoding} is not supported")
        if compressed:
            raise MessageFault(GrpcStatus.INTERNAL, "compressed flag set without a grpc-encoding")
        if length > self._max_message:
            raise MessageFault(GrpcStatus.RESOURCE_EXHAUSTED, f"message of {length} bytes exceeds {self._max_message}")
        return length
