"""The KV block pool: no block is lost, made, or in two states."""

from hypothesis import given
from hypothesis import strategies as st

from igw_sim.blocks import BlockPool


def test_a_block_that_was_published_and_released_is_found_again() -> None:
    pool = BlockPool(4)
    assert pool.take(2)
    assert pool.publish(11)
    assert pool.publish(12)
    pool.release([11, 12], 0)
    assert pool.match([11, 12, 13], 9) == 2
    assert pool.used == 0
    assert pool.cached == 2


def test_a_block_in_the_middle_is_not_reused_when_the_one_before_it_is_gone() -> None:
    pool = BlockPool(4)
    pool.take(1)
    pool.publish(12)
    assert pool.match([11, 12], 9) == 0


def test_the_end_of_the_least_recently_held_prompt_is_evicted_first() -> None:
    pool = BlockPool(4)
    for prompt in ([1, 2], [3, 4]):
        pool.take(2)
        for block in prompt:
            pool.publish(block)
        pool.release(prompt, 0)
    pool.hold([1, 2])
    pool.release([1, 2], 0)
    assert pool.take(1)
    assert pool.match([3, 4], 9) == 1
    assert pool.match([1, 2], 9) == 2


def test_a_held_block_is_never_evicted() -> None:
    pool = BlockPool(2)
    pool.take(1)
    pool.publish(1)
    assert pool.take(1)
    assert not pool.take(1)
    assert pool.match([1], 1) == 1


def test_reused_idle_blocks_count_against_the_room_for_fresh_ones() -> None:
    pool = BlockPool(3)
    pool.take(2)
    pool.publish(1)
    pool.publish(2)
    pool.release([1, 2], 0)
    assert pool.fits([1, 2], 1)
    assert not pool.fits([1, 2], 2)


@given(
    st.integers(1, 12), st.lists(st.tuples(st.sampled_from(["take", "publish", "release", "hold"]), st.integers(0, 9)))
)
def test_blocks_are_conserved(total: int, operations: list[tuple[str, int]]) -> None:
    """Whatever holders do, free and used add up, and used is what holders hold."""
    pool = BlockPool(total)
    holders: list[tuple[list[int], int]] = []
    for operation, number in operations:
        if operation == "take" and pool.take(number):
            holders.append(([], number))
        elif operation == "publish" and holders and holders[-1][1] and pool.publish(number):
            held, anonymous = holders.pop()
            holders.append(([*held, number], anonymous - 1))
        elif operation == "hold" and pool.match([number], 1) and pool.fits([number], 0):
            pool.hold([number])
            holders.append(([number], 0))
        elif operation == "release" and holders:
            pool.release(*holders.pop(number % len(holders)))
        distinct = {block for held, _ in holders for block in held}
        anonymous = sum(count for _, count in holders)
        assert pool.used == len(distinct) + anonymous
        assert pool.anonymous == anonymous
        assert pool.free + pool.used == total
        assert 0 <= pool.cached <= total
