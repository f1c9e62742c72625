"""Trace files in Mooncake's JSONL: what a line means, and what is said of a bad one."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_bench.command.samples import BadInput
from igw_bench.command.texts import text
from igw_bench.command.trace import BLOCK_TOKENS, parse, read

GOOD = b'{"timestamp": 2000, "input_length": 1000, "output_length": 7, "hash_ids": [1, 2]}'


def line(**changes: object) -> bytes:
    fields = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [4, 5]} | changes
    return repr(fields).replace("'", '"').replace("True", "true").replace("None", "null").encode()


def test_a_line_is_a_request_at_its_time_after_the_first() -> None:
    first, second = parse([GOOD, line(timestamp=500)], "trace")
    assert (first.at, second.at) == (0.0, 1.5)
    assert (second.prompt_tokens, second.output_tokens) == (1000, 7)


def test_equal_hash_ids_are_equal_text_up_to_the_end_of_their_block() -> None:
    first, second = parse([GOOD, line(timestamp=3000, input_length=1500, hash_ids=[1, 2, 9])], "trace")
    one, other = text(first.prompt, ""), text(second.prompt, "")
    assert one[: 4 * BLOCK_TOKENS] == other[: 4 * BLOCK_TOKENS]
    assert other.startswith(one)


def test_different_hash_ids_are_different_text_at_once() -> None:
    first, second = parse([GOOD, line(timestamp=3000, hash_ids=[7, 2])], "trace")
    assert text(first.prompt, "")[:32] != text(second.prompt, "")[:32]


@given(st.integers(1, 5000), st.integers(0, 9))
def test_a_prompt_is_as_long_as_the_line_says_whatever_its_ids_cover(tokens: int, ids: int) -> None:
    covered = min(ids, -(-tokens // BLOCK_TOKENS))
    (entry,) = parse([line(input_length=tokens, hash_ids=list(range(covered)))], "trace")
    assert sum(one.tokens for one in entry.prompt) == tokens
    assert len(text(entry.prompt, "")) == 4 * tokens


def test_lines_without_hash_ids_share_nothing_and_empty_lines_are_passed_over() -> None:
    both = parse([b'{"timestamp": 0, "input_length": 9, "output_length": 1}', b"", GOOD], "trace")
    assert [len(one.prompt) for one in both] == [1, 2]


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (b"{", "not JSON"),
        (b"[]", "a JSON object is required"),
        (line(timestamp="soon"), "timestamp must be milliseconds, 0 or more"),
        (line(timestamp=-1), "timestamp must be milliseconds, 0 or more"),
        (line(input_length=0), "input_length must be a whole number of tokens, 1 or more"),
        (line(output_length=True), "output_length must be a whole number of tokens, 1 or more"),
        (line(hash_ids="x"), "hash_ids must be a list of whole numbers"),
        (line(hash_ids=[1, 2, 3]), "3 hash_ids are more than 600 tokens have blocks of 512"),
    ],
    ids=lambda one: one.decode() if isinstance(one, bytes) else "",
)
def test_a_bad_line_is_named_by_file_and_number(bad: bytes, complaint: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse([GOOD, bad], "trace.jsonl")
    assert str(caught.value) == f"trace.jsonl:2: {complaint}"


def test_a_file_without_requests_or_without_a_file_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(BadInput, match="empty: no requests"):
        read(tmp_path / "empty")
    with pytest.raises(BadInput, match="none: No such file"):
        read(tmp_path / "none")
