"""Messages that make no sense: the stream ends with an error, and neither its connection nor the picker suffers."""

import asyncio

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igw_protos import ext_proc_pb2 as pb
from igw_testing.ext_proc import (
    DEADLINE_S,
    FULL_DUPLEX,
    METHOD,
    First,
    chat,
    destinations,
    kind,
    read_twice,
    request_body,
    request_headers,
    request_trailers,
    response_body,
    response_headers,
    response_trailers,
    with_attributes,
)
from igw_testing.picker import PickerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def still_serves(picker: PickerProcess) -> None:
    """The same connection takes a request."""
    async with picker.stream() as stream:
        await stream.send(request_headers(), request_body(chat()))
        assert destinations(await stream.receive())


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"\x12\x7f", b"not protobuf at all", b"\x5a\x02\x08\x04", b"\x12\x02\x0a\x05"],
    ids=["empty", "half-a-tag", "too-short", "text", "no-part", "broken-headers"],
)
async def test_bytes_that_are_no_message_end_only_their_stream(plain: PickerProcess, data: bytes) -> None:
    """INVALID_ARGUMENT: the sender is at fault. Other streams of the connection go on."""
    async with plain.stream() as bystander:
        await bystander.send(request_headers())
        async with plain.stream() as stream:
            await stream.send_bytes(data)
            assert await stream.status() is grpc.StatusCode.INVALID_ARGUMENT
        await bystander.send(request_body(chat()))
        assert destinations(await bystander.receive())
    await still_serves(plain)


async def test_a_malformed_message_after_good_ones_ends_the_stream(plain: PickerProcess) -> None:
    """And with it the request's share of the load."""
    async with plain.stream() as stream:
        await stream.send(request_headers(), request_body(chat()))
        await stream.replies(2)
        await stream.send_bytes(b"\xff")
        assert await stream.status() is grpc.StatusCode.INVALID_ARGUMENT
    await still_serves(plain)


async def test_a_body_mode_that_the_picker_does_not_know_is_an_invalid_argument(plain: PickerProcess) -> None:
    """An answer in the wrong mode would corrupt the request; an error lets the proxy go by its own policy."""
    message = request_headers()
    message.MergeFromString(b"\x5a\x02\x08\x05")  # protocol_config.request_body_mode = 5, newer than our list
    async with plain.stream(None) as stream:
        await stream.send(message)
        assert await stream.status() is grpc.StatusCode.INVALID_ARGUMENT
    await still_serves(plain)


@pytest.mark.parametrize("status", ["", "abc", "20x", "-1", "99999999999999999999", "\u00b2"])
async def test_a_status_that_is_no_number_does_not_matter(plain: PickerProcess, status: str) -> None:
    """The response passes; we only look on."""
    async with plain.stream() as stream:
        await stream.send(request_headers(), request_body(chat()))
        await stream.replies(2)
        await stream.send(response_headers({":status": status}))
        assert kind(await stream.receive()) == "response_headers"


@pytest.mark.parametrize("code", [float("nan"), float("inf"), -float("inf"), 1e300, 200.5])
async def test_an_attribute_that_is_no_whole_number_does_not_matter(plain: PickerProcess, code: float) -> None:
    """JSON has no integers; the proxy's numbers are doubles."""
    message = with_attributes(pb.ProcessingRequest(response_headers=pb.HttpHeaders()), {"response.code": 0})
    message.attributes["envoy.filters.http.ext_proc"].fields["response.code"].number_value = code
    async with plain.stream(None) as stream:
        await stream.send(message)
        assert kind(await stream.receive()) == "response_headers"


# ------------------------------------------------------------------------------------------------ any order

texts = st.text(alphabet=st.characters(max_codepoint=255), max_size=20)
headers = st.dictionaries(texts, texts, max_size=3)
bodies = st.one_of(st.binary(max_size=50), st.sampled_from([chat(), chat(None), b"", b"{}", b'{"usage":{}}']))
messages = st.one_of(
    st.builds(request_headers, headers, path=texts, end=st.booleans()),
    st.builds(request_body, bodies, end=st.booleans()),
    st.builds(request_trailers),
    st.builds(response_headers, headers, status=st.integers(0, 999), served=st.none() | texts, end=st.booleans()),
    st.builds(response_body, bodies, end=st.booleans()),
    st.builds(response_trailers),
)
modes = st.sampled_from(list(pb.BodySendMode.values()))
firsts = st.builds(First, modes, modes, st.none() | texts, st.none() | st.lists(texts, max_size=2) | texts)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.none() | firsts, sent=st.lists(messages, min_size=1, max_size=6))
async def test_any_order_of_messages_ends_in_good_order(
    plain: PickerProcess, first: First | None, sent: list[pb.ProcessingRequest]
) -> None:
    """Whatever a proxy sends, the picker answers or refuses; no message is a fault of the picker's own."""
    told = sent if first is None else [first.tell(sent[0]), *sent[1:]]
    status = await asyncio.to_thread(converse, plain.address, [one.SerializeToString() for one in told])
    assert status is grpc.StatusCode.OK


def converse(address: str, sent: list[bytes]) -> grpc.StatusCode:
    """Say all that and hear the picker out. grpc.aio takes an end of the stream while it sends for its own failure."""
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream(METHOD)(iter(sent), timeout=DEADLINE_S)
        for reply in call:
            read_twice(reply)
        return call.code()


async def test_the_picker_has_met_no_fault_of_its_own(plain: PickerProcess) -> None:
    """After all of the above: nothing was logged as an exception, and only malformed messages were counted."""
    assert "Traceback" not in plain.log.read_text()
    assert await plain.sample("igw_picker_faults_total", place="place") == 0.0
    async with plain.stream(First(FULL_DUPLEX)) as stream:
        await stream.send(request_headers(), request_body(chat()))
        assert destinations(await stream.receive())
