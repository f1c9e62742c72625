"""A picker in memory, and a proxy's streams to it, without a transport between them."""

from igw_api import wire
from igw_extproc.admission import Admission
from igw_extproc.conversation import Picker
from igw_extproc.telemetry import Telemetry
from igw_extproc.transport import Call, Conversation, GrpcStatus
from igw_protos import ext_proc_pb2 as pb
from igw_testing.builders import Picking, address, chat
from igw_testing.ext_proc import (
    FULL_DUPLEX,
    NONE,
    STREAMED,
    request_body,
    request_headers,
    response_headers,
    with_attributes,
)

LIMIT = 10_000
USAGE = b'{"usage":{"prompt_tokens":7,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":4}}}'
POOL = "default/llm"


class Stream(Call):
    """A transport's call that writes down what was said, and the stream's side of the peer."""

    def __init__(self, here: "Serving", path: str) -> None:
        self.said: list[bytes] = []
        self.status: GrpcStatus | None = None
        self.detail = ""
        self.conversation: Conversation = here.picker.methods()[path](self)

    def send(self, message: bytes) -> None:
        assert self.status is None, "nothing is said after the end"
        self.said.append(message)

    def finish(self, status: GrpcStatus = GrpcStatus.OK, detail: str = "") -> None:
        if self.status is None:
            self.status, self.detail = status, detail

    def tell(self, *messages: pb.ProcessingRequest) -> list[pb.ProcessingResponse]:
        """Give the conversation these messages; its answers to them."""
        before = len(self.said)
        for message in messages:
            if self.status is None:
                self.conversation.receive(message.SerializeToString())
        return [pb.ProcessingResponse.FromString(data) for data in self.said[before:]]


class Serving:
    """A picker over idle engines, at a time that the test tells."""

    def __init__(self, picking: Picking) -> None:
        self.picking = picking
        self.director = picking.director
        self.telemetry = Telemetry()
        self.now = 100.0
        self.suspects: list[str] = []
        self.is_ready = True
        self.alarms: list[float] = []
        self.admission = Admission(self.director, bytes(16), self.alarms.append)
        self.picker = Picker(
            self.director,
            self.telemetry,
            lambda: self.now,
            LIMIT,
            self.suspects.append,
            lambda: self.is_ready,
            self.admission,
        )

    def stream(self) -> Stream:
        """A proxy opens a stream."""
        return Stream(self, wire.EXT_PROC_METHOD)

    def wake(self, host: int) -> None:
        """There may be room at `host`."""
        ledger = self.picking.ledgers.get(address(host))
        assert ledger is not None
        self.admission.wake(ledger, self.now)

    def in_flight(self) -> int:
        """Requests counted at all engines."""
        return self.picking.in_flight()


def modes(message: pb.ProcessingRequest, request: pb.BodySendMode, response: pb.BodySendMode) -> pb.ProcessingRequest:
    """`message` as the first of its stream."""
    message.protocol_config.request_body_mode = request
    message.protocol_config.response_body_mode = response
    return message


def duplex(stream: Stream, body: bytes = b"") -> list[pb.ProcessingResponse]:
    """A whole request in full duplex."""
    return stream.tell(modes(request_headers(), FULL_DUPLEX, FULL_DUPLEX), request_body(body or chat()))


def observe(stream: Stream, lease: str, status: int = 200, served: str | None = None) -> list[pb.ProcessingResponse]:
    """The first message of the first-byte filter about a stream of events."""
    message = modes(
        response_headers({"content-type": "text/event-stream"}, status=status, served=served), NONE, STREAMED
    )
    return stream.tell(with_attributes(message, {f"request.headers['{wire.LEASE_HEADER}']": lease}))
