"""One request of `igw bench` over a real socket: what is measured, from which event, and what failures are called."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from igw_api.wire import FAIRNESS_HEADER
from igw_bench.command.client import Asker, Events, Reading, Target
from igw_bench.command.plans import Plan, Shape, build
from igw_bench.command.samples import Sample
from igw_bench.workloads import Job, Next, Workload
from igw_sim.presets import PRESETS
from igw_testing.nobody import nobody
from igw_testing.sims import running_sim, sim_settings

MODEL = "sim-model"
TINY = PRESETS["tiny"]


def plan(*jobs: Job, follow: dict[int, Next] | None = None) -> Plan:
    return Plan(Workload("test", (TINY,), jobs, clients=1, follow=follow or {}))


@asynccontextmanager
async def asker(url: str, asked: Plan, **changes: object) -> AsyncIterator[Asker]:
    fields: dict[str, object] = {"ends": "forced", "timeout": 10.0} | changes
    async with aiohttp.ClientSession() as session:
        yield Asker(session, Target(url, MODEL, **fields), asked)  # type: ignore[arg-type]


async def ask(url: str, job: Job, **changes: object) -> Sample:
    async with asker(url, plan(job), **changes) as one:
        return await one.ask(job, asyncio.get_running_loop().time())


@asynccontextmanager
async def answering(write: Callable[[web.StreamResponse], Awaitable[None]]) -> AsyncIterator[str]:
    """A server whose every answer is what `write` makes of it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await write(response)
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def event(content: str | None = None, **more: object) -> bytes:
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}, "finish_reason": None}]
    return b"data: " + orjson.dumps({"choices": choices, **more}) + b"\n\n"


END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


# ------------------------------------------------------------------------------------------------ events


@given(st.lists(st.integers(1, 12), max_size=40))
def test_events_are_the_same_however_they_are_cut_into_packets(cuts: list[int]) -> None:
    stream = b': hello\ndata: {"a":1}\n\nevent: x\r\ndata:{"b":2}\r\n\r\ndata: [DONE]\n\n'
    events, found, at = Events(), [], 0
    for cut in [*cuts, len(stream)]:
        found += list(events.feed(stream[at : at + cut]))
        at += cut
    assert found == [b'{"a":1}', b'{"b":2}', b"[DONE]"]


# ------------------------------------------------------------------------------------------------ answers


async def test_an_answer_has_the_lengths_that_were_asked_for_and_its_engines_name() -> None:
    async with running_sim(sim_settings("one", "fixed:3")) as sim:
        for number, ends in enumerate(("forced", "hidden")):
            found = await ask(sim.url + "/v1", Job(number, 50, 20), ends=ends)
            assert (found.outcome, found.prompt_tokens, found.output_tokens) == ("answered", 50, 20)
            assert (found.endpoint, found.cached_tokens) == ("one", 0)


async def test_the_completions_api_is_asked_as_well() -> None:
    async with running_sim() as sim:
        found = await ask(sim.url + "/v1", Job(1, 50, 20), chat=False)
        assert (found.prompt_tokens, found.output_tokens) == (50, 20)


async def test_times_are_those_of_the_first_and_the_last_text() -> None:
    """A token cannot come before it exists; how much later it comes is the machine's business."""
    async with running_sim(sim_settings(decode_step_s=0.02)) as sim:
        found = await ask(sim.url + "/v1", Job(1, 10, 11))
    assert found.first_at is not None
    assert found.last_at is not None
    assert found.due_at <= found.sent_at < found.first_at <= found.last_at <= found.ended_at
    assert found.first_at - found.sent_at >= 0.019
    assert found.last_at - found.sent_at >= 11 * 0.019
    assert found.tpot == (found.last_at - found.first_at) / 10


async def test_the_first_token_is_the_first_text_not_the_role_before_it() -> None:
    go_on = asyncio.Event()

    async def write(response: web.StreamResponse) -> None:
        await response.write(event("", usage=None))
        await go_on.wait()
        await response.write(event("one") + event("two") + END)

    async with answering(write) as url, asyncio.TaskGroup() as group:
        asking = group.create_task(ask(url, Job(1, 10, 2)))
        await asyncio.sleep(0.05)
        released = asyncio.get_running_loop().time()
        go_on.set()
        found = await asking
    assert found.first_at is not None
    assert found.first_at >= released
    assert found.output_tokens == 2  # no usage: as many as there were pieces of text


async def test_what_an_engine_thinks_aloud_is_part_of_its_answer() -> None:
    async def write(response: web.StreamResponse) -> None:
        await response.write(b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n' + event("so") + END)

    async with answering(write) as url:
        assert (await ask(url, Job(1, 10, 2))).output_tokens == 2


async def test_an_equal_prompt_is_found_in_the_cache_and_told() -> None:
    async with running_sim() as sim:
        for cached in (0, 192):
            found = await ask(sim.url + "/v1", Job(1, 200, 4))
            assert found.cached_tokens == cached
        other = await ask(sim.url + "/v1", Job(1, 200, 4), salt="other")
        assert other.cached_tokens == 0


async def test_the_next_turn_sends_the_answer_back_and_finds_it_cached() -> None:
    first = Job(1, 100, 60)
    asked = plan(first, follow={1: Next(Job(2, 200, 5))})
    async with running_sim() as sim, asker(sim.url + "/v1", asked) as one:
        await one.ask(first, 0.0)
        found = await one.ask(Job(2, 200, 5), 0.0)
    assert found.cached_tokens is not None
    assert found.cached_tokens >= 144  # 100 and 60, but for the template's tokens and the last block
    assert found.prompt_tokens == 100 + 60 + 2 + 200 + 2  # its new text is whole; a message takes two tokens more


# ------------------------------------------------------------------------------------------------ failures


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[str, list[tuple[str | None, str]]]]:
    """A server that keeps whose each request was, by the fairness header, and its last text; it answers nothing."""
    seen: list[tuple[str | None, str]] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append((request.headers.get(FAIRNESS_HEADER), (await request.json())["messages"][-1]["content"]))
        return web.Response(status=503)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1", seen
    finally:
        await runner.cleanup()


async def test_where_there_are_several_tenants_a_request_says_whose_it_is() -> None:
    """So that a gateway's queue is fair between them, as the simulated one is."""
    one, other = Job(0, 20, 2, tenant=0), Job(1, 20, 2, tenant=7)
    async with listening() as (url, seen):
        async with asker(url, plan(one, other)) as several:
            await several.ask(one, 0.0)
            await several.ask(other, 0.0)
        async with asker(url, plan(one)) as alone:
            await alone.ask(one, 0.0)
    assert [whose for whose, _ in seen] == ["tenant-0", "tenant-7", None]


async def test_what_somebody_wrote_is_asked_as_it_is_behind_the_calls_salt() -> None:
    job = Job(0, 20, 2)
    asked = replace(plan(job), words={0: "Why is the sea salty?"})
    async with listening() as (url, seen):
        for salt in ("", "1234/1"):
            async with asker(url, asked, salt=salt) as one:
                await one.ask(job, 0.0)
    assert [words for _, words in seen] == ["Why is the sea salty?", "1234/1 Why is the sea salty?"]


async def test_a_refusal_has_its_status() -> None:
    async with running_sim() as sim:
        await sim.server.break_with({"error_share": 1.0, "error_status": 503})
        found = await ask(sim.url + "/v1", Job(1, 10, 2))
        assert (found.outcome, found.status, found.first_at) == ("refused", 503, None)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (event("one"), "a stream that ended before its end"),
        (END, "an answer without text"),
        (event("one") + b'data: {"error": {"message": "boom"}}\n\n' + END, "an error within the stream"),
        (b"data: {nonsense\n\n" + END, "an event that is not as the API has it"),
        (b"data: [1]\n\n" + END, "an event that is not as the API has it"),
    ],
    ids=["cut", "empty", "error", "no-json", "no-object"],
)
async def test_an_answer_that_is_not_whole_is_a_failure_of_its_kind(data: bytes, error: str) -> None:
    async with answering(lambda response: response.write(data)) as url:
        found = await ask(url, Job(1, 10, 2))
        assert (found.outcome, found.error) == ("failed", error)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**40) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("choices", "delta", "content", "text", "usage", "prompt_tokens_details")), inner
        )
    ),
    max_leaves=12,
)


@given(st.lists(json_values, max_size=4))
def test_whatever_an_api_sends_becomes_a_sample(events: list[object]) -> None:
    reading = Reading()
    reading.status = 200
    for one in events:
        reading.feed(b"data: " + orjson.dumps(one) + b"\n\n", 1.0)
    found = reading.sample(1, 0.0, 0.0, 2.0)
    assert found.outcome in ("answered", "failed")
    assert found.output_tokens >= 0
    assert isinstance("".join(reading.words), str)


async def test_a_target_that_is_not_there_hangs_or_hangs_up_is_told_apart() -> None:
    with nobody() as address:
        alone = await ask(f"http://{address}/v1", Job(1, 10, 2))
    assert (alone.outcome, alone.error) == ("failed", "not connected: Connection refused")
    async with running_sim() as sim:
        await sim.server.break_with({"hang": True})
        hung = await ask(sim.url + "/v1", Job(1, 10, 2), timeout=0.2)
        assert hung.error == "no whole answer within 0.2 s"
    async with running_sim() as sim:
        await sim.server.break_with({"reset": "before"})
        lost = await ask(sim.url + "/v1", Job(1, 10, 2))
        assert lost.error.startswith("connection lost: ")
        await sim.server.break_with({"reset": "after"})
        cut = await ask(sim.url + "/v1", Job(2, 10, 60))
        assert cut.error == "the connection was lost within the answer"


def test_a_target_does_not_show_its_key() -> None:
    assert "secret" not in repr(Target("http://x/v1", "m", {"authorization": "Bearer secret"}))


def test_a_plan_for_an_endpoint_may_ask_more_than_our_engines_hold() -> None:
    assert build(Shape(workload="prefixes", prefix_tokens=9000, requests=3, longest=1 << 30), 1).total == 3
