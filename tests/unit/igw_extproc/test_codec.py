"""Bytes on the wire: ours against protobuf's classes, and against Envoy's complete messages, which others generated."""

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from igw_api import wire
from igw_extproc import codec
from igw_extproc.codec import MalformedMessage, decode, encode
from igw_extproc.stream import PASSES, BodyMode, Immediate, Message, Part, Reply
from igw_protos import ext_proc_pb2 as pb
from igw_protos import health_pb2
from igw_testing.envoy_messages import core, ext_proc, filters

TEXT = st.text(max_size=20)
NAMES = st.text(alphabet="abcdefghijklmnopqrstuvwxyz-.'[]", min_size=1, max_size=20)
HEADERS = st.dictionaries(NAMES, TEXT, max_size=4)
MODES = st.none() | st.tuples(st.sampled_from(BodyMode), st.sampled_from(BodyMode))
ATTRIBUTES = st.dictionaries(NAMES, st.text(min_size=1, max_size=20), max_size=4)
BODIES = st.binary(max_size=300) | st.sampled_from([b"x" * 127, b"x" * 128, b"x" * 16_384, b"x" * 2**21])
LB = wire.LB_NAMESPACE

_HEADER_PARTS = (Part.REQUEST_HEADERS, Part.RESPONSE_HEADERS)
_BODY_PARTS = (Part.REQUEST_BODY, Part.RESPONSE_BODY)


def field(part: Part) -> str:
    """The part's name in the protocol."""
    return part.name.lower()


def request(
    part: Part,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    end: bool = False,
    modes: tuple[BodyMode, BodyMode] | None = None,
    attributes: Mapping[str, str | float] | None = None,
) -> pb.ProcessingRequest:
    """A proxy's message, in protobuf's own classes."""
    made = pb.ProcessingRequest()
    inner = getattr(made, field(part))
    inner.SetInParent()
    if part in _HEADER_PARTS:
        for name, value in (headers or {}).items():
            inner.headers.headers.add(key=name, raw_value=value.encode())
    elif part in _BODY_PARTS:
        inner.body = body
    if part in _HEADER_PARTS + _BODY_PARTS:
        inner.end_of_stream = end
    if modes is not None:
        made.protocol_config.request_body_mode = cast(pb.BodySendMode, int(modes[0]))
        made.protocol_config.response_body_mode = cast(pb.BodySendMode, int(modes[1]))
    if attributes:
        made.attributes[wire.EXT_PROC_FILTER].update(dict(attributes))
    return made


def envoy_request(
    part: Part,
    headers: Mapping[str, str],
    body: bytes,
    end: bool,
    modes: tuple[BodyMode, BodyMode] | None,
) -> bytes:
    """The same as Envoy's complete messages have it."""
    inner: Any
    if part in _HEADER_PARTS:
        listed = [core.HeaderValue(key=name, raw_value=value.encode()) for name, value in headers.items()]
        inner = ext_proc.HttpHeaders(headers=core.HeaderMap(headers=listed), end_of_stream=end)
    elif part in _BODY_PARTS:
        inner = ext_proc.HttpBody(body=body, end_of_stream=end)
    else:
        inner = ext_proc.HttpTrailers()
    made = ext_proc.ProcessingRequest(**{field(part): inner})
    if modes is not None:
        request_mode, response_mode = (filters.ProcessingModeBodySendMode(mode) for mode in modes)
        made.protocol_config = ext_proc.ProtocolConfiguration(
            request_body_mode=request_mode, response_body_mode=response_mode
        )
    return bytes(made)


# ------------------------------------------------------------------------------------------------ requests


@given(part=st.sampled_from(Part), headers=HEADERS, body=BODIES, end=st.booleans(), modes=MODES, attributes=ATTRIBUTES)
@example(part=Part.REQUEST_BODY, headers={}, body=b"", end=False, modes=None, attributes={})
@example(part=Part.REQUEST_BODY, headers={}, body=b"", end=True, modes=None, attributes={})
def test_every_part_of_a_request_is_read_as_protobuf_wrote_it(
    part: Part,
    headers: dict[str, str],
    body: bytes,
    end: bool,
    modes: tuple[BodyMode, BodyMode] | None,
    attributes: dict[str, str],
) -> None:
    written = request(part, headers, body, end, modes, attributes).SerializeToString()
    expected = Message(
        part,
        headers if part in _HEADER_PARTS else {},
        body if part in _BODY_PARTS else b"",
        end if part in _HEADER_PARTS + _BODY_PARTS else False,
        attributes,
        *(modes or (None, None)),
    )
    assert decode(written) == expected
    assert decode(written) == expected, "what is remembered says the same"


@given(part=st.sampled_from(Part), headers=HEADERS, body=BODIES, end=st.booleans(), modes=MODES)
def test_every_part_of_a_request_is_read_as_envoy_writes_it(
    part: Part, headers: dict[str, str], body: bytes, end: bool, modes: tuple[BodyMode, BodyMode] | None
) -> None:
    ours = request(part, headers, body, end, modes).SerializeToString()
    assert decode(envoy_request(part, headers, body, end, modes)) == decode(ours)


@given(body=BODIES, end=st.booleans(), modes=MODES, attributes=ATTRIBUTES, other=ATTRIBUTES, subset=st.booleans())
def test_the_short_way_through_a_request_body_and_the_long_one_agree(
    body: bytes,
    end: bool,
    modes: tuple[BodyMode, BodyMode] | None,
    attributes: dict[str, str],
    other: dict[str, str],
    subset: bool,
) -> None:
    """The common message is read without protobuf; whatever differs from it at all is left to protobuf."""
    made = request(Part.REQUEST_BODY, {}, body, end, modes, attributes)
    if other:
        made.attributes["another.filter"].update(other)
    if subset:
        made.metadata_context.filter_metadata[wire.SUBSET_NAMESPACE].update({wire.SUBSET_KEY: "10.0.0.1:80"})
    written = made.SerializeToString()
    assert decode(written) == codec._decode(written)


@given(data=st.binary(max_size=100))
@example(data=b"\x22")
@example(data=b"\x22\xff\xff\xff\xff\xff")
@example(data=b"\x22\x02\x0a\x05")
@example(data=b"\x22\x00\x4a\x02\xff\xff")
@example(data=b"\x22\x00\x5a\x02\xff\xff")
@example(data=b"\x22\x03\x0a\x00\x18")
@example(data=b"")
def test_bytes_are_a_message_or_malformed_and_nothing_else(data: bytes) -> None:
    try:
        message = decode(data)
    except MalformedMessage:
        return
    assert message.part in Part


def outcome(read: Callable[[bytes], Message], data: bytes) -> Message | None:
    """The message; None if it is malformed."""
    try:
        return read(data)
    except MalformedMessage:
        return None


@given(
    base=st.sampled_from(
        [
            request(Part.REQUEST_BODY, {}, b"{}", True, (BodyMode.BUFFERED, BodyMode.NONE), {"a": "b", "c": 1.0}),
            request(Part.REQUEST_HEADERS, {"a": "b"}, b"", True, (BodyMode.NONE, BodyMode.NONE), {"a": "b"}),
            request(Part.RESPONSE_HEADERS, {":status": "200"}),
        ]
    ),
    damage=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=3),
    cut=st.integers(0, 200),
)
def test_a_damaged_message_is_read_otherwise_or_malformed(
    base: pb.ProcessingRequest, damage: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(base.SerializeToString())
    for at, value in damage:
        data[at % len(data)] = value
    for damaged in (bytes(data), bytes(data[: cut % len(data)])):
        assert outcome(decode, damaged) == outcome(codec._decode, damaged), "both ways of reading agree on this as well"


def test_a_message_about_nothing_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="no request part"):
        decode(pb.ProcessingRequest().SerializeToString())


@pytest.mark.parametrize("part", [Part.REQUEST_HEADERS, Part.REQUEST_BODY])
def test_a_mode_that_we_do_not_know_is_malformed(part: Part) -> None:
    """Envoy's GRPC mode, or what comes after it: to guess its rules would corrupt bodies."""
    made = request(part, modes=(BodyMode.NONE, BodyMode.NONE))
    made.protocol_config.request_body_mode = cast(pb.BodySendMode, 5)
    with pytest.raises(MalformedMessage, match="mode 5"):
        decode(made.SerializeToString())


# ------------------------------------------------------------------------------------------------ headers


def test_header_names_are_read_in_lower_case() -> None:
    """A client of ours that is not Envoy may write them as it likes."""
    assert decode(request(Part.REQUEST_HEADERS, {"Content-Type": "X"}).SerializeToString()).headers == {
        "content-type": "X"
    }


@pytest.mark.parametrize(
    ("raw", "text"), [("modèle".encode(), "modèle"), (b"mod\xe8le", "modèle"), (b"\xff\xfe", "ÿþ"), (b"", "")]
)
def test_header_values_are_utf8_or_else_latin1(raw: bytes, text: str) -> None:
    made = request(Part.REQUEST_HEADERS)
    made.request_headers.headers.headers.add(key="x", raw_value=raw)
    assert decode(made.SerializeToString()).headers == {"x": text}


def test_header_values_may_be_text() -> None:
    made = request(Part.REQUEST_HEADERS)
    made.request_headers.headers.headers.add(key="x", value="text")
    assert decode(made.SerializeToString()).headers == {"x": "text"}


def test_a_header_that_comes_twice_has_both_values() -> None:
    """As in Envoy's attributes, so that a request reads the same in every mode."""
    made = request(Part.REQUEST_HEADERS, {"x": "1", "y": "2"})
    made.request_headers.headers.headers.add(key="X", raw_value=b"3")
    assert decode(made.SerializeToString()).headers == {"x": "1,3", "y": "2"}


# ------------------------------------------------------------------------------------------------ attributes, metadata


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (200.0, "200"),
        (0.0, "0"),
        (1e20, "100000000000000000000"),
        (math.inf, "inf"),
        (math.nan, "nan"),
        ("text", "text"),
        ("", None),
        (True, None),
        (None, None),
        ([1.0], None),
    ],
)
@pytest.mark.parametrize("part", [Part.RESPONSE_HEADERS, Part.REQUEST_BODY])
def test_attributes_are_text_numbers_are_written_out_and_the_rest_is_as_if_unset(
    part: Part, value: Any, text: str | None
) -> None:
    made = request(part, attributes={"response.code": value})
    assert decode(made.SerializeToString()).attributes == ({} if text is None else {"response.code": text})


def test_attributes_under_any_filters_name_are_taken() -> None:
    """A control plane names the filter as it likes."""
    made = request(Part.REQUEST_BODY)
    made.attributes["envoy.filters.http.ext_proc/policy/0"].update({"request.path": "/v1"})
    assert decode(made.SerializeToString()).attributes == {"request.path": "/v1"}


@pytest.mark.parametrize(
    ("value", "subset"),
    [
        (["10.0.0.1:8000", "10.0.0.2:8000"], ("10.0.0.1:8000", "10.0.0.2:8000")),
        ("10.0.0.1:8000, 10.0.0.2:8000 ,", ("10.0.0.1:8000", "10.0.0.2:8000")),
        (["10.0.0.1:8000,[::1]:8000", " "], ("10.0.0.1:8000", "[::1]:8000")),
        ([], ()),
        ("", ()),
        ([7.0, None], ()),
        (None, ()),
    ],
)
@pytest.mark.parametrize("part", [Part.REQUEST_HEADERS, Part.REQUEST_BODY])
def test_a_subset_hint_is_read_in_every_spelling_and_an_empty_one_allows_nothing(
    part: Part, value: Any, subset: tuple[str, ...]
) -> None:
    made = request(part)
    made.metadata_context.filter_metadata[wire.SUBSET_NAMESPACE].update({wire.SUBSET_KEY: value})
    assert decode(made.SerializeToString()).subset == subset


def test_a_namespace_without_the_hint_restricts_nothing() -> None:
    made = request(Part.REQUEST_HEADERS)
    made.metadata_context.filter_metadata[wire.SUBSET_NAMESPACE].update({"other": "10.0.0.1:8000"})
    made.metadata_context.filter_metadata[LB].update({"other": "x"})
    message = decode(made.SerializeToString())
    assert (message.subset, message.served, message.lease) == (None, None, None)


@pytest.mark.parametrize(
    ("told", "served", "lease"),
    [
        ({wire.DESTINATION_SERVED_KEY: "10.0.0.1:8000", wire.LEASE_HEADER: "a-1"}, "10.0.0.1:8000", "a-1"),
        ({wire.DESTINATION_SERVED_KEY: "", wire.LEASE_HEADER: ""}, None, None),
        ({wire.DESTINATION_SERVED_KEY: 1.0}, None, None),
    ],
)
def test_the_served_endpoint_and_the_lease_come_with_the_response(
    told: dict[str, Any], served: str | None, lease: str | None
) -> None:
    made = request(Part.RESPONSE_HEADERS)
    made.metadata_context.filter_metadata[LB].update(told)
    message = decode(made.SerializeToString())
    assert (message.served, message.lease) == (served, lease)


# ------------------------------------------------------------------------------------------------ replies

REPLIES = st.builds(
    Reply,
    part=st.sampled_from(_HEADER_PARTS + _BODY_PARTS),
    set_headers=st.lists(st.tuples(NAMES, TEXT), max_size=3).map(tuple),
    body=st.none() | BODIES,
    streamed=st.booleans(),
    end_of_stream=st.booleans(),
    metadata=st.dictionaries(NAMES, TEXT | st.integers(0, 2**50), max_size=3),
    clear_route_cache=st.booleans(),
)


@given(reply=REPLIES)
def test_a_reply_says_the_same_to_protobuf_and_to_envoy(reply: Reply) -> None:
    data = encode(reply)
    ours, envoys = pb.ProcessingResponse.FromString(data), ext_proc.ProcessingResponse().parse(data)
    assert ours.WhichOneof("response") == field(reply.part)
    common, envoys_common = getattr(ours, field(reply.part)).response, getattr(envoys, field(reply.part)).response
    assert common.clear_route_cache == envoys_common.clear_route_cache == reply.clear_route_cache
    for option in common.header_mutation.set_headers:
        assert option.append_action == pb.HeaderValueOption.AppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    assert [(one.header.key, one.header.raw_value) for one in common.header_mutation.set_headers] == [
        (name, value.encode()) for name, value in reply.set_headers
    ]
    assert _metadata(ours) == reply.metadata
    mutation, envoys_mutation = common.body_mutation, envoys_common.body_mutation
    if reply.streamed:
        chunk = mutation.streamed_response
        assert (chunk.body, chunk.end_of_stream) == (reply.body or b"", reply.end_of_stream)
        assert envoys_mutation.streamed_response.body == chunk.body
        assert envoys_mutation.streamed_response.end_of_stream == chunk.end_of_stream
    elif reply.body is not None:
        assert mutation.WhichOneof("mutation") == "body"
        assert mutation.body == envoys_mutation.body == reply.body
    else:
        assert not common.HasField("body_mutation") and envoys_mutation is None


def _metadata(response: pb.ProcessingResponse) -> dict[str, str | int]:
    """What it adds to the proxy's metadata in the one namespace that is ours."""
    if not response.HasField("dynamic_metadata"):
        return {}
    assert list(response.dynamic_metadata.fields) == [LB]
    fields = response.dynamic_metadata.fields[LB].struct_value.fields
    return {
        name: value.string_value if value.WhichOneof("kind") == "string_value" else int(value.number_value)
        for name, value in fields.items()
    }


@given(destinations=TEXT | st.just("x" * 200), lease=TEXT)
def test_the_short_way_to_write_a_placement_and_the_long_one_agree(destinations: str, lease: str) -> None:
    reply = Reply(Part.REQUEST_BODY, metadata={wire.DESTINATION_HEADER: destinations, wire.LEASE_HEADER: lease})
    short, long = (pb.ProcessingResponse.FromString(data) for data in (encode(reply), codec._encode(reply)))
    assert short == long
    assert ext_proc.ProcessingResponse().parse(encode(reply)) == ext_proc.ProcessingResponse().parse(
        codec._encode(reply)
    )


@pytest.mark.parametrize("metadata", [{"a": "b", "c": "d"}, {wire.DESTINATION_HEADER: "x", wire.LEASE_HEADER: 1}])
def test_other_metadata_of_a_body_is_written_the_long_way(metadata: dict[str, str | int]) -> None:
    reply = Reply(Part.REQUEST_BODY, metadata=metadata)
    assert _metadata(pb.ProcessingResponse.FromString(encode(reply))) == metadata


@pytest.mark.parametrize("part", list(Part))
def test_letting_a_part_pass_says_nothing_but_which(part: Part) -> None:
    empty = pb.CommonResponse()
    for reply in (PASSES[part], Reply(part)):
        data = encode(reply)
        response = pb.ProcessingResponse.FromString(data)
        assert response.WhichOneof("response") == field(part)
        inner = getattr(response, field(part))
        assert part in (Part.REQUEST_TRAILERS, Part.RESPONSE_TRAILERS) or inner.response == empty
        assert getattr(ext_proc.ProcessingResponse().parse(data), field(part)) is not None


@pytest.mark.parametrize("part", [Part.REQUEST_TRAILERS, Part.RESPONSE_TRAILERS])
def test_trailers_may_be_changed(part: Part) -> None:
    response = pb.ProcessingResponse.FromString(encode(Reply(part, (("a", "b"),))))
    (option,) = getattr(response, field(part)).header_mutation.set_headers
    assert (option.header.key, option.header.raw_value) == ("a", b"b")


@pytest.mark.parametrize("status", [400, 404, 413, 415, 429, 500, 503])
def test_an_immediate_response_is_understood_by_envoy(status: int) -> None:
    data = encode(Immediate(status, b'{"error":{}}', (("content-type", "application/json"),), "no_endpoints"))
    immediate = ext_proc.ProcessingResponse().parse(data).immediate_response
    assert immediate is not None and immediate.status is not None and immediate.headers is not None
    assert int(immediate.status.code) == status
    assert (immediate.body, immediate.details) == (b'{"error":{}}', "no_endpoints")
    (option,) = immediate.headers.set_headers
    assert option.header is not None
    assert (option.header.key, option.header.raw_value) == ("content-type", b"application/json")


# ------------------------------------------------------------------------------------------------ health


@given(service=TEXT)
def test_a_health_check_names_its_service(service: str) -> None:
    assert codec.decode_health_service(health_pb2.HealthCheckRequest(service=service).SerializeToString()) == service


def test_a_damaged_health_check_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        codec.decode_health_service(b"\xff")


@pytest.mark.parametrize(("serving", "status"), [(True, "SERVING"), (False, "NOT_SERVING"), (None, "SERVICE_UNKNOWN")])
def test_health_has_three_answers(serving: bool | None, status: str) -> None:
    response = health_pb2.HealthCheckResponse.FromString(codec.encode_health(serving))
    assert health_pb2.HealthCheckResponse.ServingStatus.Name(response.status) == status
