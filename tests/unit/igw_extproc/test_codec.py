"""Bytes on the wire: ours against protobuf's classes, and against Envoy's complete messages, which others generated."""

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from igw_api import wire
from igw_extproc import codec
from igw_extproc.codec import MalformedMessage, decode
from igw_extproc.messages import BodyMode, Message, Part
from igw_protos import ext_proc_pb2 as pb
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


def _common() -> list[bytes]:
    """What the short way is for, and what only looks like it."""
    request_ = request(Part.REQUEST_BODY, {}, b"{}", True, (BodyMode.BUFFERED, BodyMode.NONE), {"a": "b", "c": 1.0})
    response = request(Part.RESPONSE_HEADERS, {":status": "200", "A": "b"}, modes=(BodyMode.NONE, BodyMode.STREAMED))
    for one in (request_, response):
        one.metadata_context.filter_metadata[LB].update({wire.LEASE_HEADER: "a-1"})
    other = request(Part.REQUEST_HEADERS, {"a": "b"}, b"", True, (BodyMode.NONE, BodyMode.NONE), {"a": "b"})
    both, headers = request_.SerializeToString(), response.SerializeToString()
    end_before_body = b"\x22\x06\x10\x01\x0a\x02{}"
    two_parts = b"".join(request(part).SerializeToString() for part in (Part.REQUEST_BODY, Part.RESPONSE_HEADERS))
    return [both, headers, other.SerializeToString(), headers + headers, two_parts, end_before_body]


@given(
    base=st.sampled_from(_common()),
    damage=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=3),
    cut=st.integers(0, 200),
)
def test_a_damaged_message_is_read_otherwise_or_malformed(base: bytes, damage: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(base)
    for at, value in damage:
        data[at % len(data)] = value
    for damaged in (base, bytes(data), bytes(data[: cut % len(data)])):
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


def test_long_attributes_are_read_but_not_remembered() -> None:
    """Clients choose their paths: 64 KiB each of them, and as many as they like."""
    before = codec._remembered.cache_info().currsize
    for number in range(3):
        path = f"/{number}" + "x" * 10_000
        made = request(Part.REQUEST_BODY, body=b"{}", attributes={"request.path": path})
        assert decode(made.SerializeToString()).attributes == {"request.path": path}
    assert codec._remembered.cache_info().currsize == before


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
