"""The demo's load: fair phases, real answers through the OpenAI client, and every failure counted by its kind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_bench.load import SHAPE, Question, Shape, Tally, client, questions, run
from igw_testing.sims import RunningSim, running_sim, sim_settings

MODEL = "sim-model"
SMALL = Shape(tenants=3, system_chars=400, question_chars=60, longest_answer=12)


@asynccontextmanager
async def asked(*requests: Question, concurrency: int = 8, **broken: Any) -> AsyncIterator[tuple[Tally, RunningSim]]:
    """What comes of these requests at one engine, `broken` in some way."""
    async with running_sim(sim_settings("one", "fixed:64")) as sim:
        await sim.server.break_with(broken)
        tally = Tally(len(requests))
        async with client(sim.address[1]) as openai:
            await run(openai, MODEL, requests, concurrency, tally)
        yield tally, sim


def question(stream: bool = True, max_tokens: int = 10) -> Question:
    return Question("You are kind.", "Why?", max_tokens, stream)


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_both_phases_ask_the_same_in_the_same_order_and_share_no_prefix(seed: int, count: int) -> None:
    first, second = (questions(SMALL, count, seed, phase) for phase in ("round-robin", "prefix-cache"))
    for one, other in zip(first, second, strict=True):
        assert (one.text, one.max_tokens, one.stream) == (other.text, other.max_tokens, other.stream)
        assert len(one.system) == len(other.system)
        assert one.system[18:] == other.system[18:]
    assert not {one.system[:18] for one in first} & {other.system[:18] for other in second}


def test_tenants_share_long_prompts_and_some_tenants_ask_more_than_others() -> None:
    asked = questions(SHAPE, 480, 1, "phase")
    counts = [sum(one.system == system for one in asked) for system in {one.system for one in asked}]
    assert len(counts) == SHAPE.tenants
    assert max(counts) > 3 * min(counts)
    assert all(len(one.system) >= SHAPE.system_chars for one in asked)
    assert 0.6 < sum(one.stream for one in asked) / len(asked) < 0.8


async def test_streams_and_whole_answers_tell_who_answered_and_how_many_tokens() -> None:
    async with asked(question(stream=True), question(stream=False), concurrency=1) as (tally, _):
        stream, whole = tally.answers
    assert (stream.engine, whole.engine) == ("one", "one")
    assert stream.output_tokens == whole.output_tokens == 10
    assert stream.prompt_tokens == whole.prompt_tokens > 0
    assert stream.ttft is not None
    assert stream.tpot is not None
    assert 0 < stream.ttft < stream.seconds
    assert (whole.ttft, whole.tpot) == (None, None)


async def test_tokens_from_the_engines_cache_are_counted() -> None:
    again = Question("word " * 200, "Why?", 4, stream=True)
    async with asked(again, again, concurrency=1) as (tally, _):
        assert [one.cached_tokens > 100 for one in tally.answers] == [False, True]


async def test_every_request_is_asked_once() -> None:
    requests = questions(SMALL, 50, 3, "phase")
    async with asked(*requests) as (tally, sim):
        assert (len(tally.answers), tally.failed, tally.done, tally.in_flight) == (50, 0, 50, 0)
        assert len(sim.server._requests) == 50


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        pytest.param({"errors": 3, "error_status": 503}, "HTTP 503: ", id="error"),
        pytest.param({"reset": "before"}, "connection lost: ", id="reset-before"),
        pytest.param({"reset": "after"}, "connection lost: ", id="reset-after-the-first-token"),
    ],
)
async def test_a_request_without_a_whole_answer_is_a_failure_of_a_kind(
    stream: bool, broken: dict[str, Any], kind: str
) -> None:
    """The client must not hide it by trying again."""
    async with asked(*[question(stream, max_tokens=40)] * 3, **broken) as (tally, _):
        assert (len(tally.answers), tally.failed, tally.done) == (0, 3, 3)
        assert all(told.startswith(kind) for told in tally.failures)
