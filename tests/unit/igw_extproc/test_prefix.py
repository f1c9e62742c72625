"""The prefix index: who holds which beginnings, learnt from answers, bounded whatever comes."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from igw_extproc.scheduling.prefix import PrefixIndex, chain, seed

PLENTY = 1_000_000
START = seed("llama")


def text(tokens: int, word: str = "a") -> bytes:
    """A text of about so many tokens, different in every block."""
    return b"".join(f"{word}{at:09d}".encode() for at in range(tokens))[: tokens * 4]


def held(index: PrefixIndex, slot: int, of: bytes) -> int:
    return index.match(chain(of, START)).get(slot, 0)


def learn(index: PrefixIndex, slot: int, what: bytes, capacity: int = PLENTY) -> None:
    index.expect(slot, chain(what, START), capacity).confirm()


def test_a_chain_grows_by_small_blocks_and_then_in_proportion() -> None:
    positions = [tokens for _, tokens in chain(b"x" * 400_000, START)]
    assert positions[:3] == [64, 128, 192]
    assert len(positions) < 100
    assert all(64 <= later - earlier <= max(64, earlier / 8 + 1) for earlier, later in pairwise(positions))


def test_a_chain_covers_whole_blocks_only() -> None:
    assert chain(b"", START) == ()
    assert chain(b"x" * 255, START) == ()
    assert [tokens for _, tokens in chain(b"x" * 600, START)] == [64, 128]


def test_a_longer_prompt_continues_the_chain_of_a_shorter_one() -> None:
    short, long = chain(text(1_000), START), chain(text(9_000), START)
    assert long[: len(short)] == short


def test_prompts_that_part_after_a_hundred_thousand_tokens_stay_distinct() -> None:
    """A peer compares the first 4k tokens only; another only the first kilobyte."""
    common = text(100_000)
    one, other = chain(common + text(20_000, "b"), START), chain(common + text(20_000, "c"), START)
    shared = sum(1 for left, right in zip(one, other, strict=True) if left == right)
    assert one[shared - 1][1] > 100_000 * 7 / 8 - 1
    assert one[-1] != other[-1]


def test_two_identical_messages_do_not_cancel_and_their_order_matters() -> None:
    """A peer joins message hashes by XOR."""
    one, other = text(64, "b"), text(64, "c")
    ends = {chain(said, START)[-1][0] for said in (one + other, other + one, one + one, other + other)}
    assert len(ends) == 4


def test_no_prefix_is_shared_across_models_salts_or_adapters() -> None:
    seeds = [seed("m"), seed("m", "salt"), seed("m", "", "lora"), seed("n"), seed("m", "lora"), seed("", "m")]
    assert len({chain(text(100), start)[0] for start in seeds}) == len(seeds)


@given(st.binary(max_size=6_000), st.binary(max_size=6_000))
def test_equal_positions_hash_alike_exactly_where_the_texts_agree(one: bytes, other: bytes) -> None:
    for left, right in zip(chain(one, START), chain(other, START), strict=False):
        end = left[1] * 4
        assert (left == right) == (one[:end] == other[:end])


def test_an_empty_index_matches_nothing() -> None:
    assert PrefixIndex().match(chain(text(1_000), START)) == {}
    assert PrefixIndex().match(()) == {}


def test_each_endpoint_matches_as_far_as_it_holds_the_prompt_without_a_gap() -> None:
    index = PrefixIndex()
    learn(index, 0, text(1_000))
    learn(index, 3, text(300) + text(700, "b"))
    learn(index, 5, text(1_000, "c"))
    assert index.match(chain(text(2_000), START)) == {0: 960, 3: 256}


def test_many_endpoints_match_each_at_its_own_length() -> None:
    index = PrefixIndex()
    whole = chain(text(2_000), START)
    for slot in range(300):
        index.expect(slot, whole[: slot % 20], PLENTY).confirm()
    assert index.match(whole) == {slot: whole[slot % 20 - 1][1] for slot in range(300) if slot % 20}


def test_a_burst_with_one_prefix_sees_it_from_the_first_pick_on() -> None:
    index = PrefixIndex()
    index.expect(2, chain(text(640), START), PLENTY)
    assert held(index, 2, text(640)) == 640


def test_a_failed_request_teaches_nothing() -> None:
    """Peers index at the pick, also for what then fails."""
    index = PrefixIndex()
    index.expect(0, chain(text(640), START), PLENTY).withdraw()
    assert (held(index, 0, text(640)), len(index)) == (0, 0)


def test_a_failure_takes_back_only_what_its_own_lease_suggested() -> None:
    index = PrefixIndex()
    learn(index, 0, text(320))
    failing = index.expect(0, chain(text(640), START), PLENTY)
    waiting = index.expect(0, chain(text(640), START), PLENTY)
    failing.withdraw()
    assert held(index, 0, text(640)) == 640
    waiting.withdraw()
    assert held(index, 0, text(640)) == 320


def test_an_expectation_is_settled_once() -> None:
    index = PrefixIndex()
    expectation = index.expect(0, chain(text(640), START), PLENTY)
    expectation.confirm()
    expectation.withdraw()
    expectation.confirm()
    assert (held(index, 0, text(640)), len(index)) == (640, 10)


def test_a_request_that_moved_is_expected_where_it_went() -> None:
    index = PrefixIndex()
    index.expect(0, chain(text(640), START), PLENTY).moved(1, PLENTY).confirm()
    assert index.match(chain(text(640), START)) == {1: 640}


def test_an_endpoint_forgets_what_it_used_longest_ago() -> None:
    index = PrefixIndex()
    for word in "bcd":
        learn(index, 0, text(640, word), capacity=2_000)
    learn(index, 0, text(640, "b"), capacity=2_000)  # used again
    learn(index, 0, text(640, "e"), capacity=2_000)
    assert held(index, 0, text(640, "b")) == 640
    assert held(index, 0, text(640, "c")) < 640
    assert held(index, 0, text(640, "e")) == 640


def test_eviction_shortens_a_prefix_from_its_end() -> None:
    index = PrefixIndex()
    learn(index, 0, text(640), capacity=1_000)
    learn(index, 0, text(640, "b"), capacity=1_000)
    assert 0 < held(index, 0, text(640)) <= 360


def test_an_engine_that_restarted_holds_nothing_even_if_old_requests_still_succeed() -> None:
    index = PrefixIndex()
    learn(index, 0, text(640))
    learn(index, 1, text(640))
    late = index.expect(0, chain(text(640, "b"), START), PLENTY)
    index.forget(0)
    late.confirm()
    assert index.match(chain(text(640), START)) == {1: 640}
    assert held(index, 0, text(640, "b")) == 0


def test_forgetting_an_unknown_slot_is_nothing() -> None:
    PrefixIndex().forget(7)


def test_a_full_index_still_learns_and_still_holds_bursts_together() -> None:
    index = PrefixIndex(max_entries=100)
    for at in range(50):
        learn(index, at % 4, text(640, f"w{at}"))
    index.expect(3, chain(text(640, "new"), START), PLENTY)
    assert held(index, 3, text(640, "new")) == 640
    assert len(index) <= 100


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["expect", "confirm", "withdraw", "moved", "forget"]),
        st.integers(0, 5),
        st.integers(0, 5),
        st.integers(0, 12),
    ),
    max_size=80,
)


@settings(max_examples=200)
@given(STEPS)
def test_the_index_is_bounded_and_consistent_under_anything(steps: list[tuple[str, int, int, int]]) -> None:
    """At most `max_entries`; empty when everybody is forgotten."""
    index = PrefixIndex(max_entries=40)
    open_ones = [index.expect(0, (), 500)]
    for verb, slot, word, blocks in steps:
        one = open_ones[(slot + word) % len(open_ones)]
        if verb == "expect":
            open_ones.append(index.expect(slot, chain(text(blocks * 64 + 4, str(word)), START), 500))
        elif verb == "moved":
            open_ones.append(one.moved(slot, 500))
        elif verb == "forget":
            index.forget(slot)
        else:
            {"confirm": one.confirm, "withdraw": one.withdraw}[verb]()
        assert 0 <= len(index) <= 40
        for held_slot, tokens in index.match(chain(text(900, str(word)), START)).items():
            assert held_slot <= 5
            assert 0 < tokens <= 900
    for one in open_ones:
        one.withdraw()
    for slot in range(6):
        index.forget(slot)
    assert len(index) == 0
    assert all(index.match(chain(text(900, str(word)), START)) == {} for word in range(6))
