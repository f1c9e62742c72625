"""The loads of `igw bench`: what is asked, when, and that texts and their pictures agree."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_bench.command.plans import Plan, Shape, build, names
from igw_bench.command.samples import BadInput
from igw_bench.command.texts import Piece, blocks_of, named, pieces_of, prefix_of, text
from igw_bench.workloads import Job
from igw_sim.tokens import block_hashes, tokenize

TRACE = b"""
{"timestamp": 0, "input_length": 30, "output_length": 2}
{"timestamp": 50, "input_length": 9000, "output_length": 2}
"""
SMALL = Shape(requests=60)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(TRACE)
    return path


def conversation(plan: Plan, job: Job) -> list[Job]:
    """A request and all that follow it."""
    found = [job]
    while (following := plan.workload.follow.get(found[-1].number)) is not None:
        found.append(following.job)
    return found


# ------------------------------------------------------------------------------------------------ texts

pieces = st.lists(st.builds(Piece, st.integers(0, 3), st.integers(1, 90)), min_size=1, max_size=5)


def common(one: list[int] | tuple[int, ...], other: list[int] | tuple[int, ...]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def shared_tokens(first: list[Piece], second: list[Piece]) -> int:
    """How far two rows of pieces have one text by what pieces are."""
    found = 0
    for one, other in zip(first, second, strict=False):
        found += min(one.tokens, other.tokens) if one.name == other.name else 0
        if one != other:
            break
    return found


@given(pieces, pieces)
def test_pictures_of_prompts_agree_as_far_as_their_texts_do(first: list[Piece], second: list[Piece]) -> None:
    """The simulated engine's own hashes of the texts are the judge; unlike texts may begin alike by chance."""
    blocks = shared_tokens(first, second) // 16
    assert common(blocks_of(first, 16), blocks_of(second, 16)) == blocks
    real = [block_hashes(tokenize(text(one, "salt")), 16) for one in (first, second)]
    assert common(*real) >= blocks
    assert [len(one) for one in real] == [len(blocks_of(first, 16)), len(blocks_of(second, 16))]


def test_another_salt_is_another_text_from_the_first_block_on() -> None:
    assert text([Piece(1, 64)], "a")[:32] != text([Piece(1, 64)], "b")[:32]


def test_a_longer_piece_begins_with_the_shorter_of_its_name() -> None:
    assert text([Piece(1, 700)], "").startswith(text([Piece(1, 90)], ""))


def test_the_pickers_picture_has_the_boundaries_of_its_own_chain() -> None:
    assert [end for _, end in prefix_of([Piece(1, 200)])] == [64, 128, 192]


def test_jobs_with_equal_blocks_become_prompts_with_equal_beginnings() -> None:
    one, other = (pieces_of(Job(number, 70, 9, (), (5, 6, 7, 8)), 16) for number in (1, 2))
    assert one[:4] == other[:4]
    assert text(one, "")[:256] == text(other, "")[:256]
    assert text(one, "")[256:] != text(other, "")[256:]


# ------------------------------------------------------------------------------------------------ workloads


@pytest.mark.parametrize("name", [one for one in names() if one != "trace"])
def test_the_same_seed_gives_the_same_load_and_another_seed_another(name: str) -> None:
    shape = Shape(workload=name, requests=40)
    assert build(shape, 1) == build(shape, 1)
    assert build(shape, 1).workload.jobs != build(shape, 2).workload.jobs
    assert build(shape, 1).total >= 40


def test_lengths_like_sharegpts_have_the_published_means() -> None:
    jobs = build(Shape(requests=20_000), 1).workload.jobs
    assert fmean(job.prompt_tokens for job in jobs) == pytest.approx(155, rel=0.1)
    assert fmean(job.output_tokens for job in jobs) == pytest.approx(285, rel=0.1)


def test_engines_reuse_what_was_computed_only_where_the_simulated_requests_say_what_it_is() -> None:
    """Else real texts would find, after a preemption, what the offline engine computes again."""
    caching = {
        name: {one.limits.prefix_cache for one in build(Shape(workload=name, requests=9), 1).workload.fleet}
        for name in ("A", "C", "D", "B-half", "sharegpt")
    }
    assert caching == {"A": {False}, "C": {False}, "D": {False}, "B-half": {True}, "sharegpt": {True}}


def test_requests_like_sharegpts_share_no_block() -> None:
    blocks = [block for job in build(SMALL, 1).workload.jobs for block in job.blocks]
    assert len(set(blocks)) == len(blocks) > 0


def test_a_rate_makes_an_open_loop_with_that_mean_and_clients_a_closed_one() -> None:
    opened = build(replace(SMALL, requests=4000, rate=5.0), 1).workload
    gaps = [after - before for before, after in pairwise(opened.arrivals)]
    assert (opened.clients, len(opened.arrivals)) == (0, 4000)
    assert fmean(gaps) == pytest.approx(0.2, rel=0.1)
    assert median(gaps) < fmean(gaps)  # as of a Poisson process, not of a clock
    assert build(replace(SMALL, clients=7), 1).workload.clients == 7


def test_tenants_share_their_prefix_and_nothing_else() -> None:
    plan = build(replace(SMALL, workload="prefixes", tenants=2, prefix_tokens=64, question_tokens=40), 1)
    by_tenant: dict[int, list[str]] = {}
    for job in plan.workload.jobs:
        by_tenant.setdefault(job.tenant, []).append(text(plan.pieces(job), ""))
    assert set(by_tenant) == {0, 1}
    for texts in by_tenant.values():
        assert len({one[:256] for one in texts}) == 1
        assert len({one[256:288] for one in texts}) == len(texts)
    assert by_tenant[0][0][:32] != by_tenant[1][0][:32]


def test_a_turn_of_a_chat_begins_with_all_that_was_said_before() -> None:
    plan = build(replace(SMALL, workload="chats", turns=4), 1)
    for root in plan.workload.jobs:
        for before, after in pairwise(conversation(plan, root)):
            said = before.prompt_tokens + before.output_tokens
            assert after.prompt_tokens > said
            shared = common(before.blocks, after.blocks)
            assert shared >= len(before.blocks) - 1
    assert plan.total == 60
    assert sum(len(conversation(plan, root)) for root in plan.workload.jobs) == 60


def test_a_chat_ends_before_it_outgrows_its_engine() -> None:
    plan = build(Shape(workload="chats", requests=200, turns=40, longest=2500), 3)
    jobs = [job for root in plan.workload.jobs for job in conversation(plan, root)]
    assert max(job.prompt_tokens + job.output_tokens for job in jobs) <= 2500


def test_a_trace_keeps_its_times_and_leaves_out_what_is_too_long(trace: Path) -> None:
    whole = build(Shape(workload="trace", trace=trace, trace_speed=2.0, longest=10_000), 1)
    assert whole.workload.arrivals == (0.0, 0.025)
    cut = build(Shape(workload="trace", trace=trace), 1)
    assert (len(cut.workload.jobs), cut.left_out) == (1, 1)


def test_a_duration_ends_the_load_and_a_warmup_does_not_count() -> None:
    workload = build(Shape(rate=10.0, duration=5.0, warmup=1.0), 1).workload
    assert (workload.until, workload.measured_from) == (5.0, 1.0)
    assert workload.arrivals[-1] > 5.0


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        (Shape(workload="nothing"), "--workload nothing: no such workload; there are sharegpt"),
        (Shape(workload="trace"), "--workload trace needs --trace FILE"),
        (Shape(workload="D", requests=10_000), "workload D has 2500 requests, not 10000"),
        (Shape(preset="a100"), "--preset a100: no such preset"),
        (Shape(workload="B-half", preset="tiny"), "workload B-half has a fleet of its own"),
        (Shape(workload="prefixes", prefix_tokens=5000), "does not fit into 4096"),
        (Shape(workload="chats", prefix_tokens=5000), "has no room in 4096 tokens"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_does_not_go_together_is_refused_in_one_line(shape: Shape, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        build(shape, 1)


def test_names_of_different_kinds_of_text_never_meet() -> None:
    assert len({named(kind, number) for kind in range(8) for number in range(100)}) == 800
