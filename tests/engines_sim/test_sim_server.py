"""The simulated engine over real sockets: what an HTTP client sees."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from igw_sim.dialects import DIALECTS
from igw_testing.sims import RunningSim, running_sim, sim_settings

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
LONG_TEXT = "tell me a story about the sea " * 20


@asynccontextmanager
async def client(sim: RunningSim) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(sim.url, timeout=aiohttp.ClientTimeout(20)) as session:
        yield session


async def post(session: aiohttp.ClientSession, path: str, **body: Any) -> tuple[int, Any]:
    async with session.post(path, json=body) as response:
        assert response.headers["x-sim-engine"]
        return response.status, orjson.loads(await response.read())


async def events(session: aiohttp.ClientSession, path: str, **body: Any) -> list[Any]:
    """The data of every server-sent event; `[DONE]` as text."""
    async with session.post(path, json={"stream": True, **body}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        lines = (await response.read()).split(b"\n")
    data = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]
    return ["[DONE]" if item == b"[DONE]" else orjson.loads(item) for item in data]


async def state(session: aiohttp.ClientSession) -> Any:
    async with session.get("/sim/state") as response:
        return orjson.loads(await response.read())


async def until(session: aiohttp.ClientSession, *expected: Mapping[str, int]) -> None:
    """Wait until the statistics of every rank say so."""
    async with asyncio.timeout(10):
        for _ in range(2000):
            ranks = (await state(session))["statistics"]
            if all(
                rank[name] == value for rank, want in zip(ranks, expected, strict=True) for name, value in want.items()
            ):
                return
            await asyncio.sleep(0.005)
    raise AssertionError(f"{ranks} never became {expected}")


async def test_a_chat_answer_names_the_model_and_counts_tokens() -> None:
    async with running_sim(sim_settings(models=("m1", "m2"))) as sim, client(sim) as session:
        status, body = await post(session, "/v1/chat/completions", model="m2", max_tokens=5, **HELLO)
    assert status == 200
    assert body["model"] == "m2"
    assert body["usage"]["completion_tokens"] == 5
    assert body["choices"][0]["finish_reason"] == "length"
    assert len(body["choices"][0]["message"]["content"].split()) == 5


async def test_a_streamed_answer_is_the_same_text_token_by_token() -> None:
    async with running_sim() as sim, client(sim) as session:
        _, whole = await post(session, "/v1/chat/completions", **HELLO)
        chunks = await events(session, "/v1/chat/completions", stream_options={"include_usage": True}, **HELLO)
    *parts, usage, done = chunks
    pieces = [part["choices"][0]["delta"].get("content", "") for part in parts]
    assert "".join(pieces) == whole["choices"][0]["message"]["content"]
    assert len([piece for piece in pieces if piece]) == whole["usage"]["completion_tokens"] == 8
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
    assert done == "[DONE]"


async def test_usage_is_streamed_only_when_asked_for() -> None:
    async with running_sim() as sim, client(sim) as session:
        chunks = await events(session, "/v1/completions", prompt="hello")
    assert chunks[-1] == "[DONE]"
    assert not any("usage" in chunk for chunk in chunks[:-1])


async def test_a_prompt_gets_the_same_reply_whichever_engine_serves_it() -> None:
    """So that schedulers can be compared on equal work."""
    answers = []
    for name in ("a", "b"):
        async with running_sim(sim_settings(name, output_tokens="lognormal:50:1")) as sim, client(sim) as session:
            answers.append((await post(session, "/v1/chat/completions", **HELLO))[1])
    assert answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["usage"] == answers[1]["usage"]


async def test_ignore_eos_and_min_tokens_lengthen_an_answer() -> None:
    async with running_sim() as sim, client(sim) as session:
        _, ignored = await post(session, "/v1/completions", prompt="a", max_tokens=30, ignore_eos=True)
        _, least = await post(session, "/v1/completions", prompt="a", max_tokens=30, min_tokens=20)
    assert ignored["usage"]["completion_tokens"] == 30
    assert least["usage"]["completion_tokens"] == 20


async def test_a_prompt_sent_again_is_found_in_the_prefix_cache() -> None:
    async with running_sim() as sim, client(sim) as session:
        usages = [(await post(session, "/v1/completions", prompt=LONG_TEXT))[1]["usage"] for _ in range(2)]
    assert usages[0]["prompt_tokens_details"]["cached_tokens"] == 0
    assert usages[1]["prompt_tokens_details"]["cached_tokens"] == usages[1]["prompt_tokens"] // 16 * 16


async def test_the_next_turn_finds_the_conversation_in_the_prefix_cache() -> None:
    async with running_sim(sim_settings(output_tokens="fixed:64")) as sim, client(sim) as session:
        turns = [{"role": "user", "content": LONG_TEXT}]
        _, first = await post(session, "/v1/chat/completions", messages=turns)
        turns += [first["choices"][0]["message"], {"role": "user", "content": "and then?"}]
        _, second = await post(session, "/v1/chat/completions", messages=turns)
    known = first["usage"]["total_tokens"] - 1
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == known // 16 * 16


async def test_the_other_apis_answer_too() -> None:
    async with running_sim() as sim, client(sim) as session:
        _, responses = await post(session, "/v1/responses", input="hello")
        _, messages = await post(session, "/v1/messages", max_tokens=3, **HELLO)
        _, embeddings = await post(session, "/v1/embeddings", input=["a", "b", "a"])
        _, rerank = await post(session, "/v1/rerank", query="q", documents=["a", "b", "c"], top_n=2)
        _, old_rerank = await post(session, "/rerank", query="q", documents=["a"])
    assert responses["output"][0]["content"][0]["text"]
    assert responses["usage"]["output_tokens"] == 8
    assert (messages["stop_reason"], messages["usage"]["output_tokens"]) == ("max_tokens", 3)
    vectors = [item["embedding"] for item in embeddings["data"]]
    assert vectors[0] == vectors[2] != vectors[1]
    assert len(rerank["results"]) == 2
    assert len(old_rerank["results"]) == 1


async def test_responses_and_messages_stream_their_own_events() -> None:
    async with running_sim() as sim, client(sim) as session:
        responses = await events(session, "/v1/responses", input="hello")
        messages = await events(session, "/v1/messages", max_tokens=3, **HELLO)
    assert [event["type"] for event in responses][-1] == "response.completed"
    assert [event["sequence_number"] for event in responses] == list(range(len(responses)))
    assert [event["type"] for event in messages] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_refusals_have_the_form_of_openai_errors() -> None:
    async with running_sim() as sim, client(sim) as session:
        unknown = await post(session, "/v1/chat/completions", model="nobody", **HELLO)
        missing = await post(session, "/v1/chat/completions")
        long = await post(session, "/v1/completions", prompt="a", max_tokens=100_000)
        async with session.post("/v1/completions", data=b"{") as response:
            broken = response.status, orjson.loads(await response.read())
    assert unknown[0] == unknown[1]["error"]["code"] == 404
    for status, body in (missing, long, broken):
        assert status == body["error"]["code"] == 400
    assert "maximum context length" in long[1]["error"]["message"]


async def test_models_health_and_version_are_there_and_other_paths_are_not() -> None:
    settings = sim_settings(models=("base",), adapters=("tuned",), max_adapters=1)
    async with running_sim(settings) as sim, client(sim) as session:
        async with session.get("/v1/models") as response:
            models = orjson.loads(await response.read())["data"]
        statuses = {}
        for path in ("/health", "/version", "/v2/anything", "/"):
            async with session.get(path) as response:
                statuses[path] = response.status
    assert [(model["id"], model["parent"]) for model in models] == [("base", None), ("tuned", "base")]
    assert statuses == {"/health": 200, "/version": 200, "/v2/anything": 404, "/": 404}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_metrics_are_served_at_the_path_of_the_real_engine(dialect: str) -> None:
    async with running_sim(sim_settings(dialect=dialect)) as sim, client(sim) as session:
        await post(session, "/v1/completions", prompt="hello")
        async with session.get("/prometheus/metrics" if dialect == "tensorrt-llm" else "/metrics") as response:
            page = await response.text()
            assert response.status == 200
            assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert list(text_string_to_metric_families(page))


async def test_several_ranks_share_a_port_and_the_load() -> None:
    """As with vLLM's internal data parallelism: one port, one series per rank."""
    settings = sim_settings(ranks=2, max_sequences=1, output_tokens="fixed:2000")
    async with running_sim(settings) as sim, client(sim) as session, asyncio.TaskGroup() as group:
        asking = [group.create_task(events(session, "/v1/chat/completions", **HELLO)) for _ in range(2)]
        await until(session, {"running": 1}, {"running": 1})
        async with session.get("/metrics") as response:
            page = await response.text()
        for task in asking:
            task.cancel()
    assert 'vllm:num_requests_running{engine="0",model_name="sim-model"} 1.0' in page
    assert 'vllm:num_requests_running{engine="1",model_name="sim-model"} 1.0' in page


async def test_a_client_that_goes_away_frees_its_place() -> None:
    settings = sim_settings(output_tokens="fixed:3000")
    async with running_sim(settings) as sim, client(sim) as session:
        async with session.post(
            "/v1/completions", json={"prompt": "a", "max_tokens": 3000, "stream": True}
        ) as response:
            await response.content.readline()
            await until(session, {"running": 1})
            response.close()
        await until(session, {"running": 0, "kv_used_blocks": 0, "cancelled": 1})


@pytest.mark.parametrize("early", [True, False], ids=["early", "first-token"])
async def test_headers_come_at_once_or_with_the_first_token(early: bool) -> None:
    settings = sim_settings(early_headers=early)
    async with running_sim(settings) as sim, client(sim) as session:
        await sim.server.break_with({"stall": True})
        asking = session.post("/v1/completions", json={"prompt": "a", "stream": True})
        if early:
            async with asking as response:
                assert response.status == 200
                assert (await state(session))["statistics"][0]["generation_tokens"] == 0
                await sim.server.break_with({"clear": True})
                assert (await response.read()).endswith(b"data: [DONE]\n\n")
            return
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(asking.__aenter__())
            await until(session, {"waiting": 1})
            assert not waiting.done()
            await sim.server.break_with({"clear": True})
        assert (await waiting.result().read()).endswith(b"data: [DONE]\n\n")


async def test_tests_can_see_what_came() -> None:
    body = orjson.dumps({"prompt": "hello", "model": "sim-model"})
    async with running_sim(sim_settings(name="seer")) as sim, client(sim) as session:
        async with session.post("/v1/completions?x=1", data=body, headers={"X-Trace": "t1"}) as response:
            assert response.headers["x-sim-engine"] == "seer"
        async with session.get("/metrics"):
            pass
        async with session.get("/sim/requests") as response:
            seen = orjson.loads(await response.read())["requests"]
        served = await state(session)
    assert len(seen) == 1
    assert (seen[0]["method"], seen[0]["path"], seen[0]["model"]) == ("POST", "/v1/completions?x=1", "sim-model")
    assert ["x-trace", "t1"] in seen[0]["headers"]
    assert (seen[0]["size"], seen[0]["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert (served["name"], served["served"]) == ("seer", {"completions": 1})
    assert served["seconds"] > 0


async def test_adapters_are_served_under_their_own_names() -> None:
    settings = sim_settings(models=("base",), adapters=("x", "y"), max_adapters=1, output_tokens="fixed:3000")
    async with running_sim(settings) as sim, client(sim) as session, asyncio.TaskGroup() as group:
        first = group.create_task(events(session, "/v1/chat/completions", model="x", **HELLO))
        await until(session, {"running": 1})
        second = group.create_task(events(session, "/v1/chat/completions", model="y", **HELLO))
        await until(session, {"waiting": 1, "waiting_for_adapter": 1})
        async with session.get("/metrics") as response:
            page = await response.text()
        first.cancel()
        await until(session, {"running": 1, "waiting": 0})
        second.cancel()
    assert 'vllm:lora_requests_info{max_lora="1",running_lora_adapters="x",waiting_lora_adapters="y"}' in page
