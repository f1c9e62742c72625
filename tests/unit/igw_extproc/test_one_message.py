"""The short way through the codec gives what the long way through protobuf gives, for any message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_extproc import codec, one_message
from igw_extproc.codec import MalformedMessage
from igw_extproc.messages import CREDENTIAL_ATTRIBUTES, Message, Part, Reply
from igw_protos import ext_proc_pb2 as pb

NAMES = st.sampled_from(
    [
        "request.path",
        "xds.route_name",
        "request.headers['content-type']",
        "other",
        "request.id",
        *CREDENTIAL_ATTRIBUTES,
    ]
)
TEXTS = st.text(max_size=300)


@st.composite
def requests(draw: st.DrawFn) -> pb.ProcessingRequest:
    """A request body or response headers, with any of what may stand beside them."""
    request = pb.ProcessingRequest()
    end = draw(st.booleans())
    if draw(st.booleans()):
        request.request_body.body = draw(st.binary(max_size=40_000))
        request.request_body.end_of_stream = end
    else:
        request.response_headers.end_of_stream = end
        for name, value in draw(st.lists(st.tuples(TEXTS, TEXTS), max_size=3)):
            request.response_headers.headers.headers.add(key=name, raw_value=value.encode())
    for filter_name in draw(st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True)):
        for name, value in draw(st.dictionaries(NAMES, TEXTS, max_size=4)).items():
            request.attributes[filter_name].fields[name].string_value = value
    if draw(st.booleans()):
        request.protocol_config.request_body_mode = draw(
            st.sampled_from([pb.NONE, pb.STREAMED, pb.BUFFERED, pb.BUFFERED_PARTIAL])
        )
    if draw(st.booleans()):
        fields = request.metadata_context.filter_metadata["envoy.lb"].fields
        fields["x-igw-lease"].string_value = draw(TEXTS)
        for name in draw(st.lists(st.sampled_from(["x-gateway-destination-endpoint-served", "a", "b"]), unique=True)):
            if draw(st.booleans()):
                fields[name].string_value = draw(TEXTS)
            else:
                fields[name].number_value = 1
    if draw(st.booleans()):
        fields = request.metadata_context.filter_metadata["envoy.lb.subset_hint"].fields
        fields["x-gateway-destination-endpoint-subset"].string_value = draw(TEXTS)
    return request


@given(requests())
def test_both_ways_read_the_same(request: pb.ProcessingRequest) -> None:
    data = request.SerializeToString()
    assert codec.decode(data) == codec._decode(data)


def told(attributes: dict[str, str]) -> bytes:
    """A request body with these attributes."""
    request = pb.ProcessingRequest()
    request.request_body.body = b"{}"
    for name, value in attributes.items():
        request.attributes["envoy.filters.http.ext_proc"].fields[name].string_value = value
    return request.SerializeToString()


@given(
    st.dictionaries(NAMES, TEXTS, max_size=6),
    st.sampled_from(CREDENTIAL_ATTRIBUTES),
    st.text(min_size=1, max_size=3000),
)
def test_nothing_more_is_remembered_for_another_key(others: dict[str, str], name: str, key: str) -> None:
    """What is looked up by its bytes has no secret in it, wherever that stands, and however long it is."""
    codec.decode(told({**others, name: "x" * len(key.encode())}))
    before = codec._remembered.cache_info().misses
    data = told({**others, name: key})
    assert codec.decode(data).attributes == codec._decode(data).attributes
    assert codec._remembered.cache_info().misses == before


def test_nothing_more_is_remembered_for_another_request() -> None:
    """Its id is told, and looked up with nothing."""
    path = {"request.path": "/v1/chat/completions"}
    names = [f"6f0c4a52-4d1e-9b0e-8a67-5a3b1d2c9e{at:02}" for at in range(3)]
    codec.decode(told({**path, "request.id": names[0]}))
    before = codec._remembered.cache_info().misses
    for name in names:
        data = told({**path, "request.id": name})
        assert codec.decode(data) == codec._decode(data)
        assert (codec.decode(data).request_id, codec.decode(data).attributes) == (name, path)
    assert codec._remembered.cache_info().misses == before


@given(st.dictionaries(NAMES, TEXTS, max_size=6), TEXTS | st.uuids().map(str))
def test_an_id_is_read_whatever_it_looks_like(others: dict[str, str], name: str) -> None:
    data = told({**others, "request.id": name})
    assert codec.decode(data) == codec._decode(data)
    assert codec.decode(data).request_id == name


@given(requests())
def test_what_hides_keys_hides_all_or_says_so(request: pb.ProcessingRequest) -> None:
    for struct in request.attributes.values():
        for name in CREDENTIAL_ATTRIBUTES:
            struct.fields[name].string_value = "a secret"
    found = one_message.hide(request.SerializeToString())
    assert found is None or b"a secret" not in found[0]


@pytest.mark.parametrize("text", ["a\n request.headers['authorization']\x12b", "request.headers['authorization']"])
def test_a_text_that_looks_like_a_key_is_a_text(text: str) -> None:
    data = told({"request.path": text, "request.headers['authorization']": "Bearer x"})
    assert codec.decode(data) == codec._decode(data)
    data = told({"request.path": text})
    assert codec.decode(data) == codec._decode(data)


@given(st.binary(max_size=400) | requests().map(lambda one: one.SerializeToString()).map(lambda data: data[:-1]))
def test_what_protobuf_refuses_is_refused(data: bytes) -> None:
    """Cut or invented bytes: never another error, and nothing accepted that protobuf would not take."""
    try:
        expected: Message | None = codec._decode(data)
    except MalformedMessage:
        expected = None
    if expected is None:
        with pytest.raises(MalformedMessage):
            codec.decode(data)
    else:
        assert codec.decode(data) == expected


@given(TEXTS, TEXTS, st.none() | TEXTS, st.none() | TEXTS)
def test_both_ways_write_the_same_placement(
    destinations: str, lease: str, pool: str | None, prefiller: str | None
) -> None:
    told = {"x-gateway-destination-endpoint": destinations, "x-igw-lease": lease}
    named = {} if pool is None else {"x-igw-pool": pool}
    named |= {} if prefiller is None else {"x-prefiller-host-port": prefiller}
    reply = Reply(
        Part.REQUEST_BODY,
        metadata={**told, **named},
        clear_route_cache=pool is not None,
    )
    rest = tuple(named.items())
    assert codec.encode(reply) == one_message.body_reply(destinations, lease, rest, pool is not None), "the short way"
    short = pb.ProcessingResponse.FromString(codec.encode(reply))
    assert short == pb.ProcessingResponse.FromString(codec._encode(reply))


@given(st.integers(min_value=1, max_value=15), st.binary(max_size=70_000))
def test_a_field_is_written_as_protobuf_reads_it(number: int, payload: bytes) -> None:
    data = one_message.field(number, payload)
    assert data[0] == number << 3 | 2
    length, at = one_message._length(data, 1)
    assert data[at : at + length] == payload
