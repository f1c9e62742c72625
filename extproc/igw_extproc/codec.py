"""ext_proc protobuf <-> the stream's values. Protobuf stops here: nothing else imports `igw_protos`.

Called by `conversation` for every message. What our own Envoy's two filters say to every request goes through
`one_message`, which does the same without protobuf's runtime.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.struct_pb2 import Struct, Value

from igw_api import wire
from igw_api.objects import join_host_port
from igw_extproc import one_message
from igw_extproc.messages import PASSES, BodyMode, Immediate, Message, Part, Reply, Try
from igw_protos import access_log_pb2, health_pb2
from igw_protos import ext_proc_pb2 as pb

_OVERWRITE = pb.HeaderValueOption.AppendAction.OVERWRITE_IF_EXISTS_OR_ADD

_HEADERS = {"request_headers": Part.REQUEST_HEADERS, "response_headers": Part.RESPONSE_HEADERS}
_BODIES = {"request_body": Part.REQUEST_BODY, "response_body": Part.RESPONSE_BODY}
_TRAILERS = {"request_trailers": Part.REQUEST_TRAILERS, "response_trailers": Part.RESPONSE_TRAILERS}


# What a message says beside its part: attributes, two modes, subset hint, served endpoint, lease, the request's id, as
# in `Message`.
_Beside = tuple[
    Mapping[str, str], BodyMode | None, BodyMode | None, tuple[str, ...] | None, str | None, str | None, str
]
_REQUEST_ID = one_message.REQUEST_ID.decode()
_NO_MODES = (None, None)
_NO_METADATA = (None, None, None)
_NO_HEADERS: Mapping[str, str] = {}


# Bytes of a message beside its body: headers, attributes, metadata. Proxies take some tens of kilobytes from a client,
# and each small field costs much more memory than its bytes.
MOST_BESIDE = 1024 * 1024


class MalformedMessage(ValueError):
    """Bytes that are no ProcessingRequest, or one without a part, or with too much beside its body."""


def decode(data: bytes) -> Message:
    """One ProcessingRequest. Raises MalformedMessage."""
    part, at, end = one_message.first(data)
    if len(data) > MOST_BESIDE:
        _check_size(len(data) - (end - at) if part in one_message.BODIES else len(data))
    if part == one_message.REQUEST_BODY:
        content = one_message.body(data, at, end)
        rest, name = one_message.unnamed(data[end:])
        beside = _told(rest) if content is not None else None
        if content is not None and beside is not None:
            return Message(Part.REQUEST_BODY, _NO_HEADERS, content[0], content[1], *beside[:6], name or beside[6])
    elif part == one_message.RESPONSE_HEADERS and end - at <= _FEW_HEADERS:
        headers, end_of_stream = _few_headers(data[at:end])
        beside = _beside_response(data, end)
        if beside is not None:
            return Message(Part.RESPONSE_HEADERS, headers, b"", end_of_stream, *beside)
    return _decode(data)


def _check_size(beside: int) -> None:
    if beside > MOST_BESIDE:
        raise MalformedMessage(f"more than {MOST_BESIDE} bytes beside a body")


def _beside_response(data: bytes, at: int) -> _Beside | None:
    """What stands behind response headers: a lease of its own, and what comes again and again."""
    field, start, end = one_message.first(data, at)
    if field != one_message.METADATA:
        return _told(data[at:])
    beside = _told(data[end:])
    if beside is None or beside[3:6] != _NO_METADATA:
        return None
    return (*beside[:3], *_metadata(_parse(pb.Metadata, data[start:end])), beside[6])


_Kind = TypeVar("_Kind", bound=ProtobufMessage)


def _parse(kind: type[_Kind], data: bytes) -> _Kind:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise MalformedMessage(str(error)) from error


def _decode(data: bytes) -> Message:
    request = _parse(pb.ProcessingRequest, data)
    kind = request.WhichOneof("request")
    if kind is None:
        raise MalformedMessage("no request part")
    rest = _beside(request)
    if kind in _BODIES:
        body: pb.HttpBody = getattr(request, kind)
        return Message(_BODIES[kind], _NO_HEADERS, body.body, body.end_of_stream, *rest)
    if kind in _HEADERS:
        head: pb.HttpHeaders = getattr(request, kind)
        return Message(_HEADERS[kind], _headers(head.headers.headers), b"", head.end_of_stream, *rest)
    return Message(_TRAILERS[kind], _NO_HEADERS, b"", False, *rest)


def _beside(request: pb.ProcessingRequest) -> _Beside:
    config = request.protocol_config if request.HasField("protocol_config") else None
    modes = (_mode(config.request_body_mode), _mode(config.response_body_mode)) if config is not None else _NO_MODES
    attributes = _attributes(request)
    name = attributes.pop(_REQUEST_ID, "")
    return (attributes, *modes, *_metadata(request.metadata_context), name)


def decode_tries(data: bytes) -> list[Try]:
    """The failures of one message of the proxy's log of tries. Raises MalformedMessage.

    A connection that was upgraded has no end but that somebody closes it: then nothing has failed.
    """
    _check_size(len(data))
    message = _parse(access_log_pb2.StreamAccessLogsMessage, data)
    tries = map(_try, message.http_logs.log_entry)
    return [one for one in tries if one.status != HTTPStatus.SWITCHING_PROTOCOLS]


def _try(entry: access_log_pb2.HttpLogEntry) -> Try:
    told, flags = entry.common_properties, entry.common_properties.response_flags
    at = told.upstream_remote_address.socket_address
    # Only flags that are listed in our messages were read.
    return Try(
        address=join_host_port(at.address, at.port_value),
        lease=entry.request.request_headers.get(wire.LEASE_HEADER),
        status=entry.response.response_code.value,
        lost=bool(flags.ListFields()),
    )


def encode(reply: Reply | Immediate) -> bytes:
    """One ProcessingResponse."""
    if isinstance(reply, Immediate):
        return _immediate(reply).SerializeToString()
    if reply is PASSES[reply.part]:
        return _PASSES[reply.part]
    if reply.part is Part.REQUEST_BODY and not reply.set_headers and reply.body is None and not reply.streamed:
        return _placement(reply) or _encode(reply)
    return _encode(reply)


_ALWAYS_TOLD = (wire.DESTINATION_HEADER, wire.LEASE_HEADER)
# What is left of a limit, and why a request went there, is mostly told once.
_TOLD_ONCE = frozenset((*wire.LEFT_HEADERS, wire.DECISION_HEADER))


def _placement(reply: Reply) -> bytes | None:
    """The short way to write where a request goes. None: the reply says something else."""
    told = reply.metadata
    destinations, lease = told.get(wire.DESTINATION_HEADER), told.get(wire.LEASE_HEADER)
    if not isinstance(destinations, str) or not isinstance(lease, str):
        return None
    if len(told) == 2 and not reply.clear_route_cache:
        return one_message.body_reply(destinations, lease)
    rest = tuple([(name, value) for name, value in told.items() if name not in _ALWAYS_TOLD and isinstance(value, str)])
    if len(rest) + len(_ALWAYS_TOLD) != len(told):
        return None
    again = _TOLD_ONCE.isdisjoint(told)
    return one_message.body_reply(destinations, lease, rest, reply.clear_route_cache, again)


def _encode(reply: Reply) -> bytes:
    common = pb.CommonResponse(clear_route_cache=reply.clear_route_cache)
    if reply.set_headers:
        _mutate(common.header_mutation, reply.set_headers)
    if reply.streamed:
        streamed = common.body_mutation.streamed_response
        streamed.body, streamed.end_of_stream = reply.body or b"", reply.end_of_stream
    elif reply.body is not None:
        common.body_mutation.body = reply.body
    response = _RESPONSES[reply.part](common)
    if reply.metadata:
        _write(response.dynamic_metadata.fields[wire.LB_NAMESPACE].struct_value, reply.metadata)
    if reply.headers_only:
        response.mode_override.CopyFrom(_HEADERS_ONLY)
    return response.SerializeToString()


# Bodies have no default: what is not named is not sent. The request's headers have been. With nothing left to show,
# Envoy would end the stream at once, and with it the request's place in the accounts: few responses have trailers, but
# Envoy cannot know before their end.
_HEADERS_ONLY = pb.ProcessingMode(
    request_header_mode=pb.ProcessingMode.HeaderSendMode.SEND,
    response_header_mode=pb.ProcessingMode.HeaderSendMode.SKIP,
    response_trailer_mode=pb.ProcessingMode.HeaderSendMode.SEND,
    request_body_mode=pb.BodySendMode.NONE,
)

_RESPONSES = {
    Part.REQUEST_HEADERS: lambda common: pb.ProcessingResponse(request_headers=pb.HeadersResponse(response=common)),
    Part.REQUEST_BODY: lambda common: pb.ProcessingResponse(request_body=pb.BodyResponse(response=common)),
    Part.REQUEST_TRAILERS: lambda common: pb.ProcessingResponse(
        request_trailers=pb.TrailersResponse(header_mutation=common.header_mutation)
    ),
    Part.RESPONSE_HEADERS: lambda common: pb.ProcessingResponse(response_headers=pb.HeadersResponse(response=common)),
    Part.RESPONSE_BODY: lambda common: pb.ProcessingResponse(response_body=pb.BodyResponse(response=common)),
    Part.RESPONSE_TRAILERS: lambda common: pb.ProcessingResponse(
        response_trailers=pb.TrailersResponse(header_mutation=common.header_mutation)
    ),
}


_PASSES = {part: _encode(reply) for part, reply in PASSES.items()}


def _immediate(reply: Immediate) -> pb.ProcessingResponse:
    response = pb.ProcessingResponse()
    immediate = response.immediate_response
    immediate.status.code = reply.status
    immediate.body = reply.body
    immediate.details = reply.details
    _mutate(immediate.headers, reply.headers)
    return response


def _mutate(mutation: pb.HeaderMutation, headers: tuple[tuple[str, str], ...]) -> None:
    for key, value in headers:
        option = mutation.set_headers.add()
        option.append_action = _OVERWRITE
        option.header.key = key
        option.header.raw_value = value.encode()


def _write(struct: Struct, values: Mapping[str, str | int]) -> None:
    for key, value in values.items():
        if isinstance(value, str):
            struct.fields[key].string_value = value
        else:
            struct.fields[key].number_value = value


def _mode(number: int) -> BodyMode:
    try:
        return BodyMode(number)
    except ValueError:
        raise MalformedMessage(f"unknown body mode {number}") from None


def _headers(listed: Iterable[pb.HeaderValue]) -> dict[str, str]:
    """By lower-case name. Several of one name become one, with commas, as in the proxy's attributes."""
    headers: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for header in listed:
        name, value = header.key.lower(), header.value or _text(header.raw_value)
        if name in headers:
            repeated.setdefault(name, [headers[name]]).append(value)
        else:
            headers[name] = value
    return {**headers, **{name: ",".join(values) for name, values in repeated.items()}} if repeated else headers


def _text(value: bytes) -> str:
    """Model names are UTF-8. Other bytes are nothing that we look for, but must not stop us."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _attributes(request: pb.ProcessingRequest) -> dict[str, str]:
    """The filter's attributes that are set, as text. A filter under another name is taken as well."""
    if not request.attributes:
        return {}
    found: dict[str, str] = {}
    for struct in request.attributes.values():
        for name, value in struct.fields.items():
            text = value.string_value
            if not text and value.WhichOneof("kind") == "number_value":
                text = f"{value.number_value:.0f}"
            if text:
                found[name] = text
    return found


# Bytes. Ours are about 200; a client that makes paths up, of any length, must not fill the memory with them.
_FEW_ATTRIBUTES = 2048


def _told(rest: bytes) -> _Beside | None:
    """What the fields behind a message's part say. None: another part is among them.

    Secrets are in nothing that is remembered.
    """
    hidden = one_message.hide(rest) if len(rest) <= _FEW_ATTRIBUTES else None
    if hidden is None:
        return _read(rest)
    known, secrets = hidden
    told = _remembered(known)
    if told is None or not secrets:
        return told
    # Elsewhere than among the attributes they are not what they look like.
    return ({**told[0], **secrets}, *told[1:]) if secrets.keys() <= told[0].keys() else _read(rest)


def _read(rest: bytes) -> _Beside | None:
    request = _parse(pb.ProcessingRequest, rest)
    return _beside(request) if request.WhichOneof("request") is None else None


# Distinct attribute sets: routes times paths times a few headers. Clients that vary their paths or name their
# sessions only miss the cache: 5 us more.
_remembered = lru_cache(1024)(_read)


# Our own Envoy shows two headers of a response, mostly the same two. Longer lists are not worth keeping.
_FEW_HEADERS = 128


@lru_cache(256)
def _few_headers(data: bytes) -> tuple[Mapping[str, str], bool]:
    """The headers of an HttpHeaders, and whether nothing follows."""
    head = _parse(pb.HttpHeaders, data)
    return _headers(head.headers.headers), head.end_of_stream


def _metadata(metadata: pb.Metadata) -> tuple[tuple[str, ...] | None, str | None, str | None]:
    """The subset hint, the served endpoint and the lease, each None if absent."""
    namespaces = metadata.filter_metadata
    subset = served = lease = None
    if wire.SUBSET_NAMESPACE in namespaces and wire.SUBSET_KEY in namespaces[wire.SUBSET_NAMESPACE].fields:
        subset = _addresses(namespaces[wire.SUBSET_NAMESPACE].fields[wire.SUBSET_KEY])
    if wire.LB_NAMESPACE in namespaces:
        fields = namespaces[wire.LB_NAMESPACE].fields
        if wire.DESTINATION_SERVED_KEY in fields:
            served = fields[wire.DESTINATION_SERVED_KEY].string_value or None
        if wire.LEASE_HEADER in fields:
            lease = fields[wire.LEASE_HEADER].string_value or None
    return subset, served, lease


def _addresses(value: Value) -> tuple[str, ...]:
    """A list of strings or one string, either with commas and spaces: both are in use."""
    listed = value.WhichOneof("kind") == "list_value"
    texts = [item.string_value for item in value.list_value.values] if listed else [value.string_value]
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


# ------------------------------------------------------------------------------------------------ health


def decode_health_service(data: bytes) -> str:
    """The service asked about in a HealthCheckRequest. Raises MalformedMessage."""
    return _parse(health_pb2.HealthCheckRequest, data).service


def encode_health(serving: bool | None) -> bytes:
    """A HealthCheckResponse. None: we do not know that service."""
    status = health_pb2.HealthCheckResponse.ServingStatus
    code = status.SERVICE_UNKNOWN if serving is None else status.SERVING if serving else status.NOT_SERVING
    return health_pb2.HealthCheckResponse(status=code).SerializeToString()
