"""Header blocks: the cache never changes what a block means."""

import pytest
from hpack import Encoder, NeverIndexedHeaderTuple
from hypothesis import given, settings
from hypothesis import strategies as st

from igw_extproc.http2.frames import ConnectionFault, ErrorCode
from igw_extproc.http2.hpack_cache import HeaderBlocks
from igw_extproc.http2.request import Fields, Opening

FIELDS = [(":method", "POST"), (":path", "/a"), ("x-trace", "1")]


class Meanings:
    """An interpreter that remembers the header lists it was asked about, and returns one object for each."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[bytes, bytes]]] = []
        self.of: dict[int, list[tuple[bytes, bytes]]] = {}
        self.kept: list[Opening] = []

    def __call__(self, fields: Fields) -> Opening:
        plain = [(bytes(name), bytes(value)) for name, value in fields]
        self.asked.append(plain)
        opening = Opening(None, None, len(self.asked))
        self.kept.append(opening)
        self.of[id(opening)] = plain
        return opening


def test_a_block_of_indexed_fields_is_decoded_once() -> None:
    meanings, encoder = Meanings(), Encoder()
    blocks = HeaderBlocks(meanings, 10_000)
    first = blocks.request(encoder.encode(FIELDS))  # inserts its fields into the table
    again = encoder.encode(FIELDS)
    assert blocks.request(again) is blocks.request(again)
    assert len(meanings.asked) == 2
    assert meanings.of[id(first)] == meanings.asked[1]


def test_a_block_that_inserts_is_decoded_every_time() -> None:
    """0x40: literal with incremental indexing. Skipping one insertion would shift every later index."""
    meanings = Meanings()
    blocks = HeaderBlocks(meanings, 10_000)
    for _ in range(3):
        blocks.request(b"\x40\x01a\x01b")
    blocks.request(b"\xbe\xbf\xc0")  # the three newest entries
    assert meanings.asked[-1] == [(b"a", b"b")] * 3


def test_a_changed_table_makes_kept_meanings_void() -> None:
    meanings = Meanings()
    blocks = HeaderBlocks(meanings, 10_000)
    blocks.request(b"\x40\x01a\x01b")
    blocks.request(b"\xbe")
    blocks.request(b"\x40\x01c\x01d")
    blocks.request(b"\xbe")
    assert meanings.asked[-1] == [(b"c", b"d")]


def test_a_table_emptied_by_a_size_update_makes_kept_meanings_void() -> None:
    """Down to nothing and up again within one block: the size is the same, the entries are gone."""
    blocks = HeaderBlocks(Meanings(), 10_000)
    blocks.request(b"\x40\x01a\x01b")
    blocks.request(b"\xbe")
    blocks.request(b"\x20\x3f\xe1\x1f\x82")
    with pytest.raises(ConnectionFault):
        blocks.request(b"\xbe")


def test_a_block_with_a_secret_is_not_kept() -> None:
    meanings, encoder = Meanings(), Encoder()
    blocks = HeaderBlocks(meanings, 10_000)
    block = encoder.encode([NeverIndexedHeaderTuple("authorization", "Bearer x")])
    blocks.request(block)
    blocks.request(block)
    assert len(meanings.asked) == 2


def test_the_cache_is_bounded() -> None:
    blocks = HeaderBlocks(Meanings(), 10_000)
    for number in range(2000):
        blocks.request(b"\x00\x01a\x04%04d" % number)
    assert len(blocks._kept) <= 256


def test_a_small_block_that_unfolds_into_a_large_list_is_refused() -> None:
    blocks = HeaderBlocks(Meanings(), 10_000)
    blocks.request(b"\x40\x01a\x7f\x81\x17" + b"x" * 3072)
    with pytest.raises(ConnectionFault) as caught:
        blocks.request(b"\xbe" * 100)
    assert caught.value.code == ErrorCode.ENHANCE_YOUR_CALM


NAMES = st.sampled_from(["a", "x-request-id", "traceparent", "content-type"])
VALUES = st.sampled_from(["1", "2", "x" * 40, "y" * 3000])
LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=4)


@given(st.lists(st.tuples(LISTS, st.sampled_from([None, 0, 100, 4096])), max_size=30))
@settings(max_examples=200, deadline=None)
def test_the_cache_agrees_with_a_plain_decoder(sequence: list[tuple[list[tuple[str, str]], int | None]]) -> None:
    """Any sequence of header lists and table sizes, encoded by a real encoder, means the same with the cache."""
    meanings, encoder = Meanings(), Encoder()
    blocks = HeaderBlocks(meanings, 100_000)
    for fields, size in sequence:
        if size is not None:
            encoder.header_table_size = size
        opening = blocks.request(encoder.encode(fields))
        assert meanings.of[id(opening)] == [(name.encode(), value.encode()) for name, value in fields]


@given(st.lists(st.binary(max_size=12), max_size=8))
@settings(max_examples=500, deadline=None)
def test_garbage_is_a_compression_error_and_nothing_else(garbage: list[bytes]) -> None:
    blocks = HeaderBlocks(Meanings(), 1000)
    for block in garbage:
        try:
            blocks.request(block)
        except ConnectionFault as fault:
            assert fault.code in (ErrorCode.COMPRESSION_ERROR, ErrorCode.ENHANCE_YOUR_CALM)
            return
