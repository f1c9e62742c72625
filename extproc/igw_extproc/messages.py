"""The words of an ext_proc conversation: what the proxy says, what is answered, what a message leads to. Values only.

`codec` turns bytes into `Message` and replies into bytes, `stream` one into the other, `director` an `Arrived` into a
`Placement`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from igw_api import wire

# The proxy's name of the route that a request is on, among a message's attributes.
ROUTE_ATTRIBUTE: Final = "xds.route_name"
# Those that are secrets.
CREDENTIAL_ATTRIBUTES: Final = tuple(f"request.headers['{name}']" for name in wire.CREDENTIAL_HEADERS)


class BodyMode(IntEnum):
    """Envoy's BodySendMode."""

    NONE = 0
    STREAMED = 1
    BUFFERED = 2
    BUFFERED_PARTIAL = 3
    FULL_DUPLEX = 4


class Part(IntEnum):
    """What a message or a reply is about."""

    REQUEST_HEADERS = 1
    REQUEST_BODY = 2
    REQUEST_TRAILERS = 3
    RESPONSE_HEADERS = 4
    RESPONSE_BODY = 5
    RESPONSE_TRAILERS = 6


class Message(NamedTuple):
    """One message from the proxy. Fields that its part does not have keep their defaults."""

    part: Part
    headers: Mapping[str, str] = {}
    body: bytes = b""
    end_of_stream: bool = False
    # The proxy's attributes by their own names, for example "request.path".
    attributes: Mapping[str, str] = {}
    # None: the message announces no modes, as all but the first of a stream.
    request_mode: BodyMode | None = None
    response_mode: BodyMode | None = None
    # The only addresses allowed; None: no restriction.
    subset: tuple[str, ...] | None = None
    # From the proxy's dynamic metadata: who served the request, and the lease that its placement gave it.
    served: str | None = None
    lease: str | None = None
    request_id: str = ""  # the proxy's name of the request


class Arrived(NamedTuple):
    """The request is as complete as it will get: decide."""

    headers: Mapping[str, str]
    attributes: Mapping[str, str]
    body: bytes
    complete: bool
    subset: tuple[str, ...] | None
    request_id: str = ""


class Responded(NamedTuple):
    """The engine's response began. `served` is the endpoint that answered, as the proxy names it."""

    status: int
    served: str | None
    lease: str | None  # only from the first-byte filter, whose stream is another than the request's
    whole: bool = False  # it is no stream: its first byte is now
    prefill: str | None = None  # who computed the prompt, in the sidecar's words


class Chunk(NamedTuple):
    """A piece of the response passed. The first one is the first byte. Trailers are an empty one that ends it."""

    body: bytes
    end_of_stream: bool


class Passed(NamedTuple):
    """The request is on a route that is none of ours, and goes on as it came."""


class Try(NamedTuple):
    """A try that failed, at `address`. `status` 0: there was no answer. `lost`: it broke off, or never came."""

    address: str
    lease: str | None
    status: int
    lost: bool


Notice = Arrived | Responded | Chunk | Passed


class Reply(NamedTuple):
    """One message to the proxy. `body` replaces the body; `streamed` marks it as one chunk of a full-duplex stream."""

    part: Part
    set_headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    streamed: bool = False
    end_of_stream: bool = False
    metadata: Mapping[str, str | int] = {}  # in the namespace wire.LB_NAMESPACE
    clear_route_cache: bool = False
    headers_only: bool = False  # show no body and no response of this request, but keep the stream to its end


@dataclass(frozen=True, slots=True)
class Immediate:
    """Answer the client in the engine's place; nothing more is said on this stream."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    details: str = ""


@dataclass(frozen=True, slots=True)
class Finish:
    """End the stream; the proxy goes on without us."""


Output = Reply | Immediate | Finish


class Placement(NamedTuple):
    """What the director decided. `destinations` are `ip:port`, best first; `body` only if it must change.

    No destinations, no lease: the proxy chooses among the pool's endpoints.
    """

    destinations: tuple[str, ...]
    lease: str
    body: bytes | None = None
    restore_model: tuple[str, str] | None = None  # (name in the response, name the client used)
    pool: str | None = None  # to be told to the proxy, which routes once more by it
    headers: tuple[tuple[str, str], ...] = ()  # what else the endpoint is told
    explained: str | None = None  # what the client is told of the decision, if it has asked
    shown: tuple[tuple[str, str], ...] = ()  # what the client is told with the response, where the proxy can do that


class Step(NamedTuple):
    """What one message led to: replies to send, in order, and at most one thing to act on."""

    outputs: tuple[Output, ...] = ()
    notice: Notice | None = None


# Said again and again, so made once: let this part pass as it is.
PASSES = {part: Reply(part) for part in Part}
