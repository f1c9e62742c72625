"""gRPC messages out of DATA payloads, cut anywhere."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igw_extproc.http2.deframe import Deframer, MessageFault
from igw_extproc.transport import GrpcStatus
from igw_testing.http2_peers import message


@given(st.lists(st.binary(max_size=400), max_size=8), st.lists(st.integers(0, 60), max_size=80))
@settings(deadline=None)
def test_messages_come_out_whole_however_they_are_cut(texts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(message(text) for text in texts)
    deframer, found, at = Deframer(1000, "identity"), [], 0
    for size in [*cuts, len(stream)]:
        found += deframer.feed(memoryview(stream)[at : at + size])
        at += size
    assert found == texts
    assert deframer.held == 0


def test_a_message_sent_byte_by_byte_takes_hardly_more_than_its_size() -> None:
    deframer = Deframer(200_000, "identity")
    stream = memoryview(message(b"x" * 100_000))
    for at in range(len(stream) - 1):
        assert deframer.feed(stream[at : at + 1]) == []
    assert deframer.held == 100_004
    assert len(deframer._parts) < 10
    assert deframer.feed(stream[-1:]) == [b"x" * 100_000]


def test_a_length_above_the_limit_is_refused_before_its_bytes_come() -> None:
    deframer = Deframer(1000, "identity")
    deframer.feed(memoryview(message(b"x" * 1000)))
    with pytest.raises(MessageFault) as caught:
        deframer.feed(memoryview(message(b"x" * 1001)[:5]))
    assert caught.value.status is GrpcStatus.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("encoding", "flag", "status"),
    [
        ("gzip", 1, GrpcStatus.UNIMPLEMENTED),
        ("identity", 1, GrpcStatus.INTERNAL),
        ("gzip", 2, GrpcStatus.INTERNAL),
    ],
)
def test_a_compressed_message_is_refused(encoding: str, flag: int, status: GrpcStatus) -> None:
    with pytest.raises(MessageFault) as caught:
        Deframer(1000, encoding).feed(memoryview(message(b"x", compressed=flag)))
    assert caught.value.status is status


def test_an_encoding_matters_only_for_messages_that_use_it() -> None:
    assert Deframer(1000, "gzip").feed(memoryview(message(b"x"))) == [b"x"]
