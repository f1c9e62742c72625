"""One HTTP request's ext_proc conversation as a pure state machine: messages in, replies out, nothing else.

Sans-I/O: no protobuf, no clock, no event loop. `codec` turns bytes into `Message` and replies into bytes;
`conversation` shuttles them, asks the director when `receive` says that the request is complete (`Arrived`), and hands
the answer back through `place` or `refuse`.

Which reply fits depends on the body mode that the proxy announces with its first message:

    mode                      the decision needs       it is carried by
    one message (headers      the body, or the part    the answer to the body
      SKIP, BUFFERED_PARTIAL)   that was buffered
    BUFFERED(_PARTIAL)        the body                 the answer to the body; headers are answered at once, empty
    STREAMED, NONE            the headers alone        the answer to the headers: later mutations would not count
    FULL_DUPLEX_STREAMED      the whole body           the headers' answer, held back; then the body in chunks

A request that switches protocols (WebSocket), or has no body, is decided by its headers in every mode, and the answer
asks the proxy to show no more of it. So it asks on routes that are none of ours, where the stream then ends; in full
duplex it cannot ask, so every part is given back as it came.

A conversation that begins with response headers is the first-byte filter's: it reports the status and the first byte
of one response, then we end it; the proxy carries on alone.
"""

from collections.abc import Callable, Mapping

import orjson

from igw_api import wire
from igw_extproc.errors import RoutingError, TooLarge
from igw_extproc.messages import (
    PASSES,
    ROUTE_ATTRIBUTE,
    Arrived,
    BodyMode,
    Chunk,
    Finish,
    Immediate,
    Message,
    Output,
    Part,
    Passed,
    Placement,
    Reply,
    Responded,
    Step,
)

# Envoy documents 64 KiB for one streamed chunk; other pickers stay a little below, and so do we.
CHUNK_BYTES = 62_000
# So much of a JSON response is held to be given back in one piece; a longer one passes as it comes.
MOST_HELD = 1024 * 1024

_NOTHING = Step()
_FINISH = Finish()
_LOOKS_ON = (PASSES[Part.RESPONSE_HEADERS],)
_SEEN = (*_LOOKS_ON, _FINISH)
_OF_THE_REQUEST = (Part.REQUEST_HEADERS, Part.REQUEST_BODY, Part.REQUEST_TRAILERS)
_LEASE_ATTRIBUTE = f"request.headers['{wire.LEASE_HEADER}']"
# Clients may name requests where the proxy trusts them.
_LONGEST_ID = 128
_RESPONSE_SEEN = ((wire.WENT_INTO_RESPONSE_HEADER, "true"),)


def _none(_name: str | None) -> bool:
    return False


class Exchange:
    """The conversation about one request. `limit` bounds the body bytes held in full-duplex mode.

    `foreign` tells by its name whether a route is none of ours; `curious`, by its lease, whether the first-byte filter
    shall see the beginning of a response that is no stream.
    """

    __slots__ = (
        "_arrived",
        "_chunks",
        "_curious",
        "_ends",
        "_foreign",
        "_gathered",
        "_head",
        "_limit",
        "_mode",
        "_opened",
        "_over",
        "_passes",
        "_response",
        "_response_mode",
        "_switches",
        "observer",
    )

    def __init__(
        self,
        limit: int,
        foreign: Callable[[str | None], bool] = _none,
        curious: Callable[[str | None], bool] = _none,
    ) -> None:
        self._limit = limit
        self._foreign = foreign
        self._curious = curious
        self._opened: Part | None = None  # by a message about this
        self._ends = False  # that message says that nothing follows
        self._head: Message | None = None  # the same message, until the decision
        self._mode = self._response_mode = BodyMode.NONE
        self._chunks: list[bytes] = []
        self._gathered: bytes | bytearray = b""  # of a body that is not whole
        self._arrived: Part | None = None
        self._over = self._passes = self._switches = False
        self._response: _Response | None = None
        self.observer = False

    def receive(self, message: Message) -> Step:
        """Take one message. Raises TooLarge when the body exceeds the limit."""
        if self._over:
            return _NOTHING
        first = self._opened is None
        if first:
            self._begin(message)
        elif message.part is Part.REQUEST_HEADERS or (self.observer and message.part in _OF_THE_REQUEST):
            # No proxy does that. A second decision on one stream would leave the first one's load counted for ever.
            return _NOTHING
        return self._pass(message, first) if self._passes else _HANDLERS[message.part](self, message)

    def _begin(self, message: Message) -> None:
        self._opened, self._ends, self._head = message.part, message.end_of_stream, message
        self._mode = message.request_mode or BodyMode.NONE
        self._response_mode = message.response_mode or BodyMode.NONE
        self.observer = message.part is Part.RESPONSE_HEADERS
        self._passes = not self.observer and self._foreign(message.attributes.get(ROUTE_ATTRIBUTE))
        if self.observer or self._passes:
            self._head = None

    @property
    def held(self) -> bytes | None:
        """The request's body where only we have it, and must give it back."""
        return self._chunks[0] if self._chunks else None

    def place(self, placement: Placement) -> tuple[Output, ...]:
        """The replies that carry the decision."""
        assert self._arrived is not None, "place() answers an Arrived"
        if placement.restore_model is not None:
            self._response = _Response(self._response_mode, placement.restore_model)
        if self._opened is Part.REQUEST_BODY and self._mode is not BodyMode.FULL_DUPLEX:
            # The proxy sent no headers, and has none to change: the metadata alone tells.
            return (_answered_body(placement, ()),)
        headers = tuple(_routing(placement).items())
        if self._arrived is Part.REQUEST_BODY and self._mode is not BodyMode.FULL_DUPLEX:
            if placement.body is not None:
                headers += (("content-length", str(len(placement.body))),)
            return (_answered_body(placement, headers),)
        if self._mode is BodyMode.FULL_DUPLEX and self._arrived is not Part.REQUEST_HEADERS:
            return self._full_duplex(placement, headers)
        # Not in the other modes: there the body does not wait, and the override would hide a response that is wanted.
        buffers = self._mode in (BodyMode.BUFFERED, BodyMode.BUFFERED_PARTIAL)
        last = self._ends and self._response_mode is BodyMode.NONE
        return (_answered_headers(placement, headers)._replace(headers_only=buffers and (self._switches or last)),)

    def refuse(self, error: RoutingError, headers: tuple[tuple[str, str], ...] = ()) -> tuple[Output, ...]:
        """The immediate response that tells the client why."""
        self._over = True
        named = (("content-type", "application/json"), (wire.DROP_REASON_HEADER, error.outcome.value), *headers)
        return (Immediate(error.status, error.body(), named, details=error.code), _FINISH)

    # ------------------------------------------------------------------------------------ others' requests

    def _pass(self, message: Message, first: bool) -> Step:
        """Whatever it is, it goes on as it came."""
        part, notice = message.part, Passed() if first else None
        if BodyMode.FULL_DUPLEX not in (self._mode, self._response_mode):
            self._over = True
            return Step((Reply(part, headers_only=part is Part.REQUEST_HEADERS), _FINISH), notice)
        if (part, BodyMode.FULL_DUPLEX) in ((Part.REQUEST_BODY, self._mode), (Part.RESPONSE_BODY, self._response_mode)):
            return Step(chunked(part, message.body, message.end_of_stream), notice)
        return Step((PASSES[part],), notice)

    # ------------------------------------------------------------------------------------ the request

    def _request_headers(self, message: Message) -> Step:
        self._switches = _switches_protocols(message.headers)
        if message.end_of_stream or self._switches or self._mode in (BodyMode.NONE, BodyMode.STREAMED):
            return self._arrive(Part.REQUEST_HEADERS, b"", complete=message.end_of_stream)
        if self._mode is BodyMode.FULL_DUPLEX:
            return _NOTHING
        return Step((PASSES[Part.REQUEST_HEADERS],))

    def _request_body(self, message: Message) -> Step:
        if self._arrived is not None:
            return self._late_body(message)
        if self._mode is not BodyMode.FULL_DUPLEX:
            # Before trailers the stream goes on, but a buffered body is whole: Envoy refuses those it cannot hold.
            complete = message.end_of_stream or self._mode is BodyMode.BUFFERED
            return self._arrive(Part.REQUEST_BODY, message.body, complete)
        self._gather(message.body)
        ended = message.end_of_stream
        return self._arrive(Part.REQUEST_BODY, bytes(self._gathered), complete=True) if ended else _NOTHING

    def _gather(self, piece: bytes) -> None:
        """Packed: a body that comes byte by byte takes little more than its own size."""
        if len(self._gathered) + len(piece) > self._limit:
            raise TooLarge(f"The body exceeds {self._limit} bytes.")
        if self._gathered and isinstance(self._gathered, bytes):
            self._gathered = bytearray(self._gathered)
        self._gathered += piece

    def _late_body(self, message: Message) -> Step:
        """Body after the decision passes.

        In full duplex it is what follows a switch of protocols, or a second end of the body, which is ignored.
        """
        if self._mode is not BodyMode.FULL_DUPLEX:
            return Step((PASSES[Part.REQUEST_BODY],))
        return Step(chunked(Part.REQUEST_BODY, message.body, message.end_of_stream)) if self._switches else _NOTHING

    def _request_trailers(self, message: Message) -> Step:
        if self._arrived is None and self._mode is BodyMode.FULL_DUPLEX:
            return self._arrive(Part.REQUEST_TRAILERS, bytes(self._gathered), complete=True)
        return Step((PASSES[Part.REQUEST_TRAILERS],))

    def _arrive(self, part: Part, body: bytes, complete: bool) -> Step:
        # Neither body nor headers are kept: a request may wait for long, and the headers have the client's key.
        first, self._head = self._head, None
        assert first is not None, "a request is complete once"
        self._arrived, self._gathered = part, b""
        self._chunks = [body] if self._mode is BodyMode.FULL_DUPLEX else []
        named = first.request_id or first.headers.get("x-request-id", "")
        return Step(notice=Arrived(first.headers, first.attributes, body, complete, first.subset, named[:_LONGEST_ID]))

    def _full_duplex(self, placement: Placement, headers: tuple[tuple[str, str], ...]) -> tuple[Output, ...]:
        body = placement.body if placement.body is not None else self._chunks[0]
        self._chunks = []
        trailers = self._arrived is Part.REQUEST_TRAILERS
        if not trailers or placement.body is not None:
            # Trailers follow bodies of unknown length; one that is told would keep HTTP/1 from carrying them.
            headers += (("content-length", str(len(body))),)
        end: tuple[Output, ...] = (PASSES[Part.REQUEST_TRAILERS],) if trailers else ()
        chunks = chunked(Part.REQUEST_BODY, body, end_of_stream=not trailers)
        return (_answered_headers(placement, headers), *chunks, *end)

    # ------------------------------------------------------------------------------------ the response

    def _response_headers(self, message: Message) -> Step:
        status = _number(message.headers.get(":status") or message.attributes.get("response.code"))
        served = message.served or message.attributes.get("upstream.address")
        lease = message.lease or message.attributes.get(_LEASE_ATTRIBUTE)
        prefill = message.headers.get(wire.PREFILL_OUTCOME_HEADER)
        if self.observer:
            more, whole = self._observed(message, status, lease)
            return Step(_LOOKS_ON if more else _SEEN, Responded(status, served, lease, whole, prefill))
        if self._response is None:
            self._response = _Response(self._response_mode, None)
        self._response.began(message.headers.get("content-type", ""))
        return Step((Reply(Part.RESPONSE_HEADERS, _RESPONSE_SEEN),), Responded(status, served, lease, prefill=prefill))

    def _observed(self, message: Message, status: int, lease: str | None) -> tuple[bool, bool]:
        """Whether the first-byte filter shall show more than these headers, and whether the first byte is now.

        Only a stream that goes well has a first byte later than its headers.
        """
        if not lease or status >= 400 or message.end_of_stream:
            return False, True
        if message.headers.get("content-type", "").lower().startswith("text/event-stream"):
            return True, False
        return self._curious(lease), True

    def _response_body(self, message: Message) -> Step:
        notice = Chunk(message.body, message.end_of_stream)
        if self.observer:
            return Step((PASSES[Part.RESPONSE_BODY], _FINISH), notice)
        if self._response is None:
            self._response = _Response(self._response_mode, None)
        return Step(self._response.body(message), notice)

    def _response_trailers(self, message: Message) -> Step:
        passes = PASSES[Part.RESPONSE_TRAILERS]
        if self.observer:
            return Step((passes, _FINISH))
        rest = self._response.rest(end_of_stream=False) if self._response is not None else ()
        return Step((*rest, passes), Chunk(b"", True))


def _switches_protocols(headers: Mapping[str, str]) -> bool:
    """Whether what follows the headers is no body: a tunnel, or another protocol once the engine has agreed."""
    if headers.get(":method") == "CONNECT":
        return True
    return "upgrade" in headers and "upgrade" in headers.get("connection", "").lower()


_HANDLERS = {
    Part.REQUEST_HEADERS: Exchange._request_headers,
    Part.REQUEST_BODY: Exchange._request_body,
    Part.REQUEST_TRAILERS: Exchange._request_trailers,
    Part.RESPONSE_HEADERS: Exchange._response_headers,
    Part.RESPONSE_BODY: Exchange._response_body,
    Part.RESPONSE_TRAILERS: Exchange._response_trailers,
}


class _Response:
    """The response's body on its way back: passed on at once, but for JSON whose model name must be restored.

    Full duplex only: there each chunk must be given back. In the other modes an empty answer lets it pass.
    """

    __slots__ = ("_duplex", "_held", "_holds", "_restorations")

    def __init__(self, mode: BodyMode, restore_model: tuple[str, str] | None) -> None:
        self._duplex = mode is BodyMode.FULL_DUPLEX
        # Engines write JSON with or without a blank.
        self._restorations = [_restoration(restore_model, gap) for gap in (b"", b" ")] if restore_model else []
        self._holds = False
        self._held = bytearray()

    def began(self, content_type: str) -> None:
        self._holds = self._duplex and content_type.lower().startswith("application/json")

    def body(self, message: Message) -> tuple[Output, ...]:
        if not self._duplex:
            return (PASSES[Part.RESPONSE_BODY],)
        self._held += message.body
        if message.end_of_stream:
            return self.rest(end_of_stream=True)
        self._holds = self._holds and len(self._held) <= MOST_HELD
        if self._holds:
            return ()
        body = self._restored(bytes(self._held))
        end = len(body) - self._begun(body)
        self._held = bytearray(body[end:])
        return chunked(Part.RESPONSE_BODY, body[:end], end_of_stream=False)

    def rest(self, end_of_stream: bool) -> tuple[Output, ...]:
        """What was held back."""
        held, self._held = bytes(self._held), bytearray()
        return chunked(Part.RESPONSE_BODY, self._restored(held), end_of_stream)

    def _restored(self, body: bytes) -> bytes:
        for sent, asked in self._restorations:
            body = body.replace(sent, asked)
        return body

    def _begun(self, body: bytes) -> int:
        """How many bytes at the end may begin a name to restore, whose rest the next chunk would bring."""
        begun = (
            length for sent, _ in self._restorations for length in range(1, len(sent)) if body.endswith(sent[:length])
        )
        return max(begun, default=0)


def _restoration(names: tuple[str, str], gap: bytes) -> tuple[bytes, bytes]:
    """What stands in the response, and what shall."""
    sent, asked = (b'"model":%s%s' % (gap, orjson.dumps(name)) for name in names)
    return sent, asked


def chunked(part: Part, body: bytes, end_of_stream: bool) -> tuple[Output, ...]:
    """`body` as streamed replies of at most CHUNK_BYTES. An empty body needs a chunk only to tell its end."""
    if not body and not end_of_stream:
        return ()
    starts = range(0, max(len(body), 1), CHUNK_BYTES)
    last = starts[-1]
    return tuple(
        Reply(part, body=body[at : at + CHUNK_BYTES], streamed=True, end_of_stream=end_of_stream and at == last)
        for at in starts
    )


def _answered_headers(placement: Placement, headers: tuple[tuple[str, str], ...]) -> Reply:
    return Reply(Part.REQUEST_HEADERS, headers, metadata=_metadata(placement), clear_route_cache=True)


def _answered_body(placement: Placement, headers: tuple[tuple[str, str], ...]) -> Reply:
    """The route is as good as before, unless it is to be chosen by the pool that the body's model belongs to."""
    announced = placement.pool is not None
    return Reply(Part.REQUEST_BODY, headers, placement.body, metadata=_metadata(placement), clear_route_cache=announced)


def _number(code: str | None) -> int:
    """An HTTP status; 0 for what is none: statuses become labels of metrics."""
    return int(code) if code is not None and len(code) == 3 and code.isdecimal() else 0


def _metadata(placement: Placement) -> dict[str, str]:
    told = _routing(placement)
    told.update(placement.shown)
    if placement.explained is not None:
        told[wire.DECISION_HEADER] = placement.explained
    return told


def _routing(placement: Placement) -> dict[str, str]:
    """What tells the proxy where to go and us whose response it was, as headers and as metadata."""
    told: dict[str, str] = {}
    if placement.destinations:
        told = {wire.DESTINATION_HEADER: ",".join(placement.destinations), wire.LEASE_HEADER: placement.lease}
    if placement.pool is not None:
        told[wire.POOL_HEADER] = placement.pool
    told.update(placement.headers)
    return told
