"""The stand-in tokenizer, made-up replies, and how long they are."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_sim import tokens
from igw_sim.lengths import Lengths, output_length


@given(st.text(), st.text())
def test_texts_with_an_equal_beginning_have_equal_first_tokens(beginning: str, rest: str) -> None:
    whole = tokens.tokenize(beginning + rest)
    full = len(beginning.encode("utf-8", "surrogatepass")) // tokens.TOKEN_BYTES * tokens.TOKEN_BYTES
    assert whole[:full] == tokens.tokenize(beginning)[:full]


@given(st.binary(max_size=400).map(lambda data: data[: len(data) // 4 * 4]), st.integers(1, 5))
def test_there_is_one_hash_for_each_full_block(data: bytes, block_tokens: int) -> None:
    assert len(tokens.block_hashes(data, block_tokens)) == tokens.token_count(data) // block_tokens


def test_a_block_hash_stands_for_everything_before_it() -> None:
    one = tokens.block_hashes(b"aaaabbbbcccc", 1)
    other = tokens.block_hashes(b"xxxxbbbbcccc", 1)
    assert not set(one) & set(other)
    assert one[:2] == tokens.block_hashes(b"aaaabbbbzzzz", 1)[:2]


def test_adapters_do_not_share_blocks() -> None:
    assert tokens.block_hashes(b"aaaa", 1) != tokens.block_hashes(b"aaaa", 1, "adapter")


def test_the_next_turn_begins_with_the_tokens_of_this_turn_and_its_reply() -> None:
    first = tokens.conversation([("user", "hello")])
    text = tokens.reply(7, 5)
    second = tokens.conversation([("user", "hello"), ("assistant", text.decode()), ("user", "more")])
    assert second.startswith(first + text)


@given(st.integers(0, 2**64), st.integers(1, 20_000))
def test_a_reply_has_exactly_its_tokens_and_is_plain_words(seed: int, count: int) -> None:
    text = tokens.reply(seed, count)
    assert tokens.token_count(text) == count
    assert text == tokens.reply(seed, count + 1)[: len(text)]
    assert text.replace(b" ", b"").isalpha()


@pytest.mark.parametrize("text", ["fixed:12", "uniform:1:9", "lognormal:128:0.5"])
def test_lengths_are_drawn_from_what_was_asked(text: str) -> None:
    drawn = [Lengths.parse(text).draw(Random(seed)) for seed in range(200)]
    assert min(drawn) >= 1
    assert drawn == [Lengths.parse(text).draw(Random(seed)) for seed in range(200)]


@pytest.mark.parametrize(
    "text", ["", "fixed", "fixed:x", "fixed:0", "uniform:5", "gauss:1:2", "lognormal:0:1", "fixed:nan"]
)
def test_a_nonsense_distribution_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Lengths.parse(text)


@pytest.mark.parametrize(
    ("natural", "limit", "minimum", "ignore_end", "expected"),
    [
        pytest.param(5, 10, 0, False, (5, "stop"), id="the model stops by itself"),
        pytest.param(50, 10, 0, False, (10, "length"), id="max_tokens cuts"),
        pytest.param(5, 10, 8, False, (8, "stop"), id="min_tokens stretches"),
        pytest.param(5, 10, 0, True, (10, "length"), id="ignore_eos runs to the limit"),
    ],
)
def test_the_length_of_a_reply(
    natural: int, limit: int, minimum: int, ignore_end: bool, expected: tuple[int, str]
) -> None:
    assert output_length(natural, limit, minimum, ignore_end) == expected
