"""What tests of the exchange share: a proxy's messages, and how its answers add up."""

from hypothesis import strategies as st

from igw_api import wire
from igw_extproc.messages import Arrived, BodyMode, Message, Output, Part, Placement, Reply, Step
from igw_extproc.stream import CHUNK_BYTES, Exchange
from igw_testing.builders import message

LIMIT = 1_000_000
PLACEMENT = Placement(("10.0.0.1:8000", "10.0.0.2:8000"), "lease-1")
ROUTING = {wire.DESTINATION_HEADER: "10.0.0.1:8000,10.0.0.2:8000", wire.LEASE_HEADER: "lease-1"}
PASSES = {part: Reply(part) for part in Part}
HEADERS = {":path": "/v1/chat/completions", "content-type": "application/json"}
DUPLEX = (BodyMode.FULL_DUPLEX, BodyMode.FULL_DUPLEX)
BODIES = st.binary(max_size=200) | st.integers(0, 3 * CHUNK_BYTES).map(lambda size: bytes(range(256)) * (size // 256))


def first(mode: BodyMode, response_mode: BodyMode = BodyMode.NONE, *, end: bool = False) -> Message:
    """Request headers that announce the modes."""
    return message(Part.REQUEST_HEADERS, headers=HEADERS, modes=(mode, response_mode), end=end)


def request_body(body: bytes, *, end: bool = True) -> Message:
    """A piece of the request's body."""
    return message(Part.REQUEST_BODY, body, end=end)


def response_headers(content_type: str = "text/event-stream", status: str = "200", **headers: str) -> Message:
    """The beginning of a response."""
    return message(Part.RESPONSE_HEADERS, headers={":status": status, "content-type": content_type, **headers})


def response_body(body: bytes, *, end: bool = False) -> Message:
    """A piece of the response's body."""
    return message(Part.RESPONSE_BODY, body, end=end)


def arrival(step: Step) -> Arrived:
    """The request that this step says is complete; nothing may be answered before the decision."""
    assert step.outputs == ()
    assert isinstance(step.notice, Arrived)
    return step.notice


def replies(outputs: tuple[Output, ...]) -> list[Reply]:
    """The outputs, which must all be replies."""
    assert all(isinstance(output, Reply) for output in outputs)
    return [output for output in outputs if isinstance(output, Reply)]


def streamed(outputs: list[Reply], part: Part = Part.REQUEST_BODY) -> bytes:
    """What the chunks of a full-duplex answer add up to. None is too long; only the last may end the stream."""
    chunks = [output for output in outputs if output.part is part]
    assert all(chunk.streamed and chunk.body is not None and len(chunk.body) <= CHUNK_BYTES for chunk in chunks)
    assert not any(chunk.end_of_stream for chunk in chunks[:-1])
    return b"".join(chunk.body or b"" for chunk in chunks)


def placed(request_mode: BodyMode, response_mode: BodyMode, restore: tuple[str, str] | None = None) -> Exchange:
    """An exchange whose request has been placed, in any mode."""
    exchange = Exchange(LIMIT)
    exchange.receive(first(request_mode, response_mode, end=True))
    exchange.place(PLACEMENT._replace(restore_model=restore))
    return exchange
