"""What we write: the same to protobuf's classes and to Envoy's complete messages, which others generated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_api import wire
from igw_extproc import codec
from igw_extproc.codec import MalformedMessage, encode
from igw_extproc.messages import PASSES, BodyMode, Immediate, Part, Reply
from igw_protos import ext_proc_pb2 as pb
from igw_protos import health_pb2
from igw_testing.envoy_messages import ext_proc

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


PLACED = {wire.DESTINATION_HEADER: "x", wire.LEASE_HEADER: "y"}


@pytest.mark.parametrize("clear", [True, False])
@pytest.mark.parametrize("changes", [(), ((wire.POOL_HEADER, "z"),), ((wire.POOL_HEADER, "z"), ("a", "b"))])
@pytest.mark.parametrize(
    "metadata",
    [
        {"a": "b", "c": "d"},
        {wire.DESTINATION_HEADER: "x", wire.LEASE_HEADER: 1},
        PLACED,
        {**PLACED, "other": "z"},
        {**PLACED, wire.POOL_HEADER: "z"},
    ],
)
def test_whatever_a_bodys_answer_says_is_written(
    metadata: dict[str, str | int], changes: tuple[tuple[str, str], ...], clear: bool
) -> None:
    """The short way must not be taken for what it cannot say."""
    response = pb.ProcessingResponse.FromString(
        encode(Reply(Part.REQUEST_BODY, changes, metadata=metadata, clear_route_cache=clear))
    )
    assert _metadata(response) == metadata
    common = response.request_body.response
    assert common.clear_route_cache is clear
    set_headers = common.header_mutation.set_headers
    assert tuple((one.header.key, one.header.raw_value.decode()) for one in set_headers) == changes


def test_an_answer_for_headers_only_turns_all_else_off_but_the_responses_trailers() -> None:
    """The mode replaces the filter's own as a whole. Waiting for trailers keeps the stream open that long."""
    data = encode(Reply(Part.REQUEST_HEADERS, headers_only=True))
    mode = ext_proc.ProcessingResponse().parse(data).mode_override
    assert mode is not None
    assert (mode.request_header_mode.name, mode.response_header_mode.name) == ("SEND", "SKIP")
    assert (mode.request_body_mode.name, mode.response_body_mode.name) == ("NONE", "NONE")
    assert (mode.request_trailer_mode.name, mode.response_trailer_mode.name) == ("DEFAULT", "SEND")
    assert ext_proc.ProcessingResponse().parse(encode(Reply(Part.REQUEST_HEADERS))).mode_override is None


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
