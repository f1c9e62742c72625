"""The seam between gRPC transports and what is said over them.

A transport accepts gRPC streams and moves whole messages; a conversation gives them meaning. Neither knows the other:
`grpc_transport` (grpc.aio) and `http2` (our own) both drive the same `Method` table. Everything runs on one event
loop, and every call here is synchronous: a conversation never blocks, and may answer later through its `Call`.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Protocol


class GrpcStatus(IntEnum):
    """The gRPC status codes that we send."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class Call(Protocol):
    """What a conversation may do to its gRPC stream. After `finish` or `Conversation.ended`, both do nothing."""

    def send(self, message: bytes) -> None:
        """Queue one gRPC message to the peer; in order; never blocks."""

    def finish(self, status: GrpcStatus = GrpcStatus.OK, detail: str = "") -> None:
        """End the stream with this status, after all that was sent."""


class Conversation(Protocol):
    """One gRPC stream, as seen by us. Called by the transport, from the event loop, never concurrently."""

    def receive(self, message: bytes) -> None:
        """One whole gRPC message, without its five-byte prefix."""

    def half_closed(self) -> None:
        """The peer sends no more. The transport does nothing by itself: answer with `finish`, now or later."""

    def ended(self) -> None:
        """The stream is gone, whoever ended it. Called exactly once, last."""


Method = Callable[[Call], Conversation]
# By ":path", for example "/grpc.health.v1.Health/Check".
Methods = Mapping[str, Method]
