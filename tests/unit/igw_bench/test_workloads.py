"""The workloads: the same for the same seed, of the lengths they claim, and prompts that are equal as far as texts."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from random import Random
from statistics import mean

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from igw_bench.workloads import (
    KNEE,
    WORKLOADS,
    Chat,
    Workload,
    block_hashes,
    decode_bound,
    decode_heavy,
    mixed_fleet,
    prompt_chain,
    shared_prefixes,
)
from igw_extproc.scheduling.prefix import BYTES_PER_TOKEN, chain

SMALL: dict[str, Callable[[Random], Workload]] = {
    "A": lambda rng: decode_heavy(rng, count=2_000),
    "B": lambda rng: shared_prefixes("B", KNEE, 0.4, rng, seconds=20.0),
    "C": lambda rng: mixed_fleet(rng, seconds=60.0),
    "D": lambda rng: decode_bound(rng, count=200),
}
kinds = pytest.mark.parametrize("name", SMALL)


@cache
def workload(name: str) -> Workload:
    return SMALL[name](Random(1))


@kinds
def test_a_seed_gives_the_same_workload_and_another_seed_another(name: str) -> None:
    assert SMALL[name](Random(1)) == workload(name)
    assert SMALL[name](Random(2)) != workload(name)


def test_each_workload_goes_by_the_name_of_its_row() -> None:
    assert all(make(Random(1)).name == name for name, make in WORKLOADS.items())


@kinds
def test_every_request_fits_every_engine_of_its_fleet(name: str) -> None:
    jobs = workload(name).jobs
    longest = min(engine.limits.longest for engine in workload(name).fleet)
    assert all(job.prompt_tokens + job.output_tokens <= longest for job in jobs)
    assert [job.number for job in jobs] == list(range(len(jobs)))


@kinds
def test_a_workload_is_a_closed_loop_or_an_open_one(name: str) -> None:
    """Clients, or a time for each request; in order."""
    made = workload(name)
    assert (made.clients > 0) != (len(made.arrivals) == len(made.jobs))
    assert all(earlier <= later for earlier, later in pairwise(made.arrivals))


def test_chat_lengths_have_the_published_means_and_the_benchmarks_cuts() -> None:
    jobs = workload("A").jobs
    assert mean(job.prompt_tokens for job in jobs) == pytest.approx(155, rel=0.06)
    assert mean(job.output_tokens for job in jobs) == pytest.approx(285, rel=0.06)
    drawn = [Chat().draw(Random(seed)) for seed in range(2_000)]
    assert all(4 <= prompt <= 1024 and output >= 4 and prompt + output <= 2048 for prompt, output in drawn)


def test_the_hot_tenant_sends_its_share_and_the_others_send_alike() -> None:
    jobs = workload("B").jobs
    assert sum(job.tenant == 0 for job in jobs) / len(jobs) == pytest.approx(0.4, abs=0.05)
    assert len({job.tenant for job in jobs}) > 100


def test_tenants_share_their_prefix_with_themselves_only_and_questions_with_nobody() -> None:
    jobs = shared_prefixes("some", KNEE, 0.0, Random(1), seconds=10.0).jobs
    for one, other in pairwise(sorted(jobs, key=lambda job: job.tenant)):
        common = set(one.blocks) & set(other.blocks)
        assert len(common) == (6_000 // 64 if one.tenant == other.tenant else 0)


def _text(shared: int, shared_tokens: int, own: int, tokens: int) -> bytes:
    first = Random(shared).randbytes(shared_tokens * BYTES_PER_TOKEN)
    return first + Random(own + 1_000).randbytes((tokens - shared_tokens) * BYTES_PER_TOKEN)


@settings(max_examples=30)
@given(
    shared=st.integers(0, 1_200),
    tokens=st.tuples(*[st.integers(1_200, 3_000)] * 2),
    owners=st.tuples(*[st.integers(0, 1)] * 2),
)
@example(shared=0, tokens=(1_200, 2_626), owners=(0, 0))  # a boundary within this prompt's next token
def test_made_up_chains_agree_exactly_as_far_as_those_of_texts(
    shared: int, tokens: tuple[int, int], owners: tuple[int, int]
) -> None:
    """And stand at the same positions."""
    made = [prompt_chain(owner, shared, 10 + at, tokens[at]) for at, owner in enumerate(owners)]
    real = [chain(_text(owner, shared, 10 + at, tokens[at]), 7) for at, owner in enumerate(owners)]
    assert [[end for _, end in one] for one in made] == [[end for _, end in one] for one in real]
    assert _agreement(*made) == _agreement(*real)


def _agreement(one: tuple[tuple[int, int], ...], other: tuple[tuple[int, int], ...]) -> int:
    return sum(mine == theirs for mine, theirs in zip(one, other, strict=False))


@settings(max_examples=50)
@given(shared=st.integers(0, 500), rest=st.integers(0, 500), block=st.integers(1, 64))
def test_block_hashes_are_one_for_each_full_block_and_shared_where_all_of_a_block_is(
    shared: int, rest: int, block: int
) -> None:
    one = block_hashes(1, shared, 2, shared + rest, block)
    other = block_hashes(1, shared, 3, shared + rest, block)
    assert len(one) == len(set(one)) == (shared + rest) // block
    assert sum(mine == theirs for mine, theirs in zip(one, other, strict=True)) == shared // block
