"""Envoy's side of an external processing stream: builders for its messages, and a stream over real gRPC.

Every answer is read twice: with our own messages, and with those that were generated from Envoy's complete protocol.
Both must see the same, so a wrong field number or type cannot hide.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict

from igw_protos import ext_proc_pb2 as pb
from igw_testing.envoy_messages import ext_proc as envoy

# Names of the endpoint picker protocol, written out: they are the contract under test.
METHOD: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
DESTINATION: Final = "x-gateway-destination-endpoint"
LEASE: Final = "x-igw-lease"
DROP_REASON: Final = "x-llm-d-request-dropped-reason"
OBJECTIVE: Final = "x-gateway-inference-objective"
LB: Final = "envoy.lb"
FILTER: Final = "envoy.filters.http.ext_proc"

NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, FULL_DUPLEX = (
    pb.BodySendMode.NONE,
    pb.BodySendMode.STREAMED,
    pb.BodySendMode.BUFFERED,
    pb.BodySendMode.BUFFERED_PARTIAL,
    pb.BodySendMode.FULL_DUPLEX_STREAMED,
)
# Longest wait for one message; far above anything seen, far below the test's own limit.
DEADLINE_S: Final = 10.0


# ------------------------------------------------------------------------------------------------ requests


def chat(model: str | None = "tiny", prompt: str = "hi", **fields: Any) -> bytes:
    """A chat completion's body."""
    named = {} if model is None else {"model": model}
    return json.dumps({**named, "messages": [{"role": "user", "content": prompt}], **fields}).encode()


def request_headers(
    headers: Mapping[str, str] | None = None,
    *,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    end: bool = False,
) -> pb.ProcessingRequest:
    """A client's request; JSON unless `headers` say otherwise."""
    given = {":method": method, ":path": path, ":scheme": "http", ":authority": "llm.example"}
    kind = {} if end else {"content-type": "application/json"}
    head = pb.HttpHeaders(headers=_header_map({**given, **kind, **(headers or {})}), end_of_stream=end)
    return pb.ProcessingRequest(request_headers=head)


def request_body(body: bytes, *, end: bool = True) -> pb.ProcessingRequest:
    """One message of the request's body."""
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=end))


def request_trailers(**trailers: str) -> pb.ProcessingRequest:
    """The end of a request that has trailers."""
    return pb.ProcessingRequest(request_trailers=pb.HttpTrailers(trailers=_header_map(trailers)))


def response_headers(
    headers: Mapping[str, str] | None = None, *, status: int = 200, served: str | None = None, end: bool = False
) -> pb.ProcessingRequest:
    """An engine's response begins. `served`: the endpoint that the proxy names in its metadata."""
    given = {":status": str(status), "content-type": "application/json", **(headers or {})}
    message = pb.ProcessingRequest(response_headers=pb.HttpHeaders(headers=_header_map(given), end_of_stream=end))
    if served is not None:
        message.metadata_context.filter_metadata[LB].update({f"{DESTINATION}-served": served})
    return message


def response_body(body: bytes, *, end: bool = True) -> pb.ProcessingRequest:
    """One message of the response's body."""
    return pb.ProcessingRequest(response_body=pb.HttpBody(body=body, end_of_stream=end))


def response_trailers(**trailers: str) -> pb.ProcessingRequest:
    """The end of a response that has trailers."""
    return pb.ProcessingRequest(response_trailers=pb.HttpTrailers(trailers=_header_map(trailers)))


def with_attributes(message: pb.ProcessingRequest, attributes: Mapping[str, str | int]) -> pb.ProcessingRequest:
    """`message` with attributes of the request, as the filter sends them."""
    message.attributes[FILTER].update(attributes)
    return message


def with_subset(message: pb.ProcessingRequest, subset: str | Sequence[str]) -> pb.ProcessingRequest:
    """`message` with the only endpoints allowed, as a list or as one string."""
    value = subset if isinstance(subset, str) else list(subset)
    message.metadata_context.filter_metadata["envoy.lb.subset_hint"].update({f"{DESTINATION}-subset": value})
    return message


def _header_map(headers: Mapping[str, str]) -> pb.HeaderMap:
    """As Envoy sends them: in `raw_value`."""
    return pb.HeaderMap(headers=[pb.HeaderValue(key=k, raw_value=v.encode("latin-1")) for k, v in headers.items()])


# ------------------------------------------------------------------------------------------------ answers


def kind(reply: pb.ProcessingResponse) -> str:
    """Which part the reply answers, or "immediate_response"."""
    return reply.WhichOneof("response") or "nothing"


def common(reply: pb.ProcessingResponse) -> pb.CommonResponse:
    """What a reply to headers or to a body says."""
    part = getattr(reply, kind(reply))
    assert isinstance(part, pb.HeadersResponse | pb.BodyResponse), kind(reply)
    return part.response


def headers_set(reply: pb.ProcessingResponse) -> dict[str, str]:
    """The headers that a reply sets. Each replaces what is there: appending would keep a client's forgery."""
    immediate = kind(reply) == "immediate_response"
    mutation = reply.immediate_response.headers if immediate else common(reply).header_mutation
    overwrite = pb.HeaderValueOption.AppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    assert all(option.append_action == overwrite for option in mutation.set_headers)
    return {option.header.key: option.header.raw_value.decode() for option in mutation.set_headers}


def destinations(reply: pb.ProcessingResponse) -> list[str]:
    """Where a reply sends the request, best first. The header and the metadata must say the same."""
    assert kind(reply) != "immediate_response", reply
    named = metadata(reply)[DESTINATION]
    assert headers_set(reply)[DESTINATION] == named
    return str(named).split(",")


def metadata(reply: pb.ProcessingResponse) -> dict[str, str | float]:
    """What a reply tells the proxy's load balancer."""
    told = MessageToDict(reply.dynamic_metadata).get(LB, {})
    assert isinstance(told, dict)
    return told


def streamed(replies: Sequence[pb.ProcessingResponse], part: str = "request_body") -> list[pb.StreamedBodyResponse]:
    """The chunks that the replies to `part` give back."""
    mutations = [common(reply).body_mutation for reply in replies if kind(reply) == part]
    assert all(mutation.WhichOneof("mutation") == "streamed_response" for mutation in mutations), mutations
    return [mutation.streamed_response for mutation in mutations]


def refusal(reply: pb.ProcessingResponse, status: int, outcome: str) -> dict[str, Any]:
    """The `error` object of an immediate response, which must be one in OpenAI's shape with this status."""
    assert kind(reply) == "immediate_response", reply
    immediate = reply.immediate_response
    assert immediate.status.code == status, immediate
    headers = headers_set(reply)
    assert headers["content-type"] == "application/json"
    assert headers[DROP_REASON] == outcome
    error = json.loads(immediate.body)["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert isinstance(error, dict)
    return error


# ------------------------------------------------------------------------------------------------ streams


@dataclass(frozen=True, slots=True)
class First:
    """What the proxy tells with a stream's first message."""

    request_mode: pb.BodySendMode = FULL_DUPLEX
    response_mode: pb.BodySendMode = FULL_DUPLEX
    route: str | None = None
    subset: str | Sequence[str] | None = None

    def tell(self, message: pb.ProcessingRequest) -> pb.ProcessingRequest:
        """A copy of `message` with all that."""
        told = pb.ProcessingRequest()
        told.CopyFrom(message)
        told.protocol_config.request_body_mode = self.request_mode
        told.protocol_config.response_body_mode = self.response_mode
        if self.route is not None:
            with_attributes(told, {"xds.route_name": self.route})
        return told if self.subset is None else with_subset(told, self.subset)


class Stream:
    """One stream, as the proxy holds it. Nothing waits longer than DEADLINE_S."""

    def __init__(self, call: Any, first: First | None) -> None:
        self._call = call
        self._first = first

    async def send(self, *messages: pb.ProcessingRequest) -> None:
        """Send in order; the stream's first message announces the modes."""
        for message in messages:
            told = message if self._first is None else self._first.tell(message)
            self._first = None
            await self.send_bytes(told.SerializeToString())

    async def send_bytes(self, data: bytes) -> None:
        """Send one gRPC message of any content."""
        async with asyncio.timeout(DEADLINE_S):
            await self._call.write(data)

    async def receive(self) -> pb.ProcessingResponse:
        """The next reply; the stream must not have ended."""
        async with asyncio.timeout(DEADLINE_S):
            data = await self._call.read()
        assert data is not grpc.aio.EOF, f"the stream ended: {await self.status()} {await self._call.details()}"
        return read_twice(data)

    async def replies(self, count: int) -> list[pb.ProcessingResponse]:
        """The next `count` replies."""
        return [await self.receive() for _ in range(count)]

    async def rest(self) -> list[pb.ProcessingResponse]:
        """End our side; all replies until the picker ends its own."""
        async with asyncio.timeout(DEADLINE_S):
            await self._call.done_writing()
            replies = []
            while (data := await self._call.read()) is not grpc.aio.EOF:
                replies.append(read_twice(data))
            return replies

    async def last(self) -> pb.ProcessingResponse:
        """The picker's one reply, after which it ends the stream by itself and in good order."""
        reply = await self.receive()
        async with asyncio.timeout(DEADLINE_S):
            assert await self._call.read() is grpc.aio.EOF
        assert await self.status() is grpc.StatusCode.OK
        return reply

    async def status(self) -> grpc.StatusCode:
        """How the stream ended; waits for the end."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._call.code()

    def cancel(self) -> None:
        """Reset the stream."""
        self._call.cancel()


@asynccontextmanager
async def stream_on(channel: Any, first: First | None) -> AsyncIterator[Stream]:
    """A new stream on `channel`, reset in the end unless it is over."""
    call = channel.stream_stream(METHOD)()
    try:
        yield Stream(call, first)
    finally:
        call.cancel()


def read_twice(data: bytes) -> pb.ProcessingResponse:
    """A reply, in which our messages and Envoy's see the same."""
    ours = pb.ProcessingResponse.FromString(data)
    theirs = envoy.ProcessingResponse.parse(data)
    told = MessageToDict(ours)
    if ours.HasField("immediate_response"):
        # Envoy's enum of HTTP codes holds the codes themselves.
        assert theirs.immediate_response is not None and theirs.immediate_response.status is not None
        assert int(theirs.immediate_response.status.code) == told["immediateResponse"]["status"].pop("code")
        theirs.immediate_response.status.code = type(theirs.immediate_response.status.code)(0)
    assert told == theirs.to_dict()
    return ours
