"""The sidecar between a client, an engine that decodes and one that computes prompts, all on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from igw_api.wire import PREFILL_OUTCOME_HEADER
from igw_sidecar.settings import Format
from igw_sim.transfer import Transfer
from igw_testing.sidecars import PROMPT, SLOW_PREFILL, Pair, running_pair, running_sidecar
from igw_testing.sims import RunningSim, becomes, idle, statistics

BOTH = pytest.mark.parametrize("kind", list(Format))


@asynccontextmanager
async def prefiller_that(handler: Any) -> AsyncIterator[str]:
    """A prefiller of our own making; its "ip:port"."""
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def nobody() -> AsyncIterator[str]:
    """An address that refuses connections: bound, so that nobody else gets it, but not listened on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


async def leave_when(pair: Pair, fits: Callable[[dict[str, Any]], bool], sim: RunningSim, **more: Any) -> float:
    """Ask, and close the connection once that engine's statistics fit. Returns when that was."""
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(pair.ask(**more))
        await becomes(pair.session, sim, fits)
        asking.cancel()
    return asyncio.get_running_loop().time()


def text_of(stream: bytes) -> str:
    events = [line.removeprefix(b"data: ") for line in stream.split(b"\n") if line.startswith(b"data: {")]
    return "".join(choice["text"] for event in events for choice in orjson.loads(event)["choices"])


# ------------------------------------------------------------------------------------------------ splitting


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_prompt_is_computed_by_the_prefiller_and_the_reply_by_the_engine(kind: Format, stream: bool) -> None:
    async with running_pair(kind) as pair:
        answer = await pair.ask(stream=stream)
        assert (answer.status, answer.headers[PREFILL_OUTCOME_HEADER]) == (200, "remote")
        assert answer.headers["x-sim-engine"] == "d"
        text = text_of(answer.body) if stream else answer.json["choices"][0]["text"]
        assert len(text.split()) == 8
        prefilled, decoded = [await statistics(pair.session, sim) for sim in (pair.prefill, pair.decode)]
        assert (prefilled["generation_tokens"], decoded["generation_tokens"]) == (1, 8)
        assert decoded["steps"] == 8, "one for each token of the reply, none for the prompt"
        await idle(pair.session, pair.prefill, pair.decode)
        assert await pair.metric('igw_sidecar_requests_total{outcome="remote"}') == 1
        assert await pair.metric("igw_sidecar_prefill_seconds_count") == 1


@BOTH
async def test_chat_is_split_as_well(kind: Format) -> None:
    async with running_pair(kind) as pair:
        body = {"messages": [{"role": "user", "content": PROMPT}], "max_completion_tokens": 5, "min_tokens": 5}
        async with pair.session.post(
            f"{pair.url}/v1/chat/completions", json=body, headers=pair.headers("strict")
        ) as response:
            chat = orjson.loads(await response.read())
        assert chat["usage"]["completion_tokens"] == 5
        assert (await statistics(pair.session, pair.prefill))["generation_tokens"] == 1


@BOTH
async def test_many_at_once_each_get_their_own_prompts_reply(kind: Format) -> None:
    async with running_pair(kind) as pair:
        prompts = [f"{number} {PROMPT}" for number in range(30)]
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(pair.ask(prompt=prompt, stream=bool(at % 2))) for at, prompt in enumerate(prompts)
            ]
        assert {task.result().headers[PREFILL_OUTCOME_HEADER] for task in asked} == {"remote"}
        texts = {
            text_of(t.result().body) if at % 2 else t.result().json["choices"][0]["text"] for at, t in enumerate(asked)
        }
        assert len(texts) == 30, "replies follow from prompts, so no two are alike"
        await idle(pair.session, pair.prefill, pair.decode)


@BOTH
async def test_a_prefiller_may_have_a_sidecar_of_its_own(kind: Format) -> None:
    """Where engines change their roles, each has one."""
    async with running_pair(kind) as pair, running_sidecar(pair.prefill.url, format=kind) as other:
        answer = await pair.ask(pair.headers("strict", f"127.0.0.1:{other.address[1]}"))
        assert (answer.status, answer.headers[PREFILL_OUTCOME_HEADER]) == (200, "remote")
        assert (await statistics(pair.session, pair.prefill))["generation_tokens"] == 1
        await idle(pair.session, pair.prefill, pair.decode)


async def test_the_prefiller_sees_the_clients_headers_but_not_ours() -> None:
    async with running_pair(Format.VLLM) as pair:
        await pair.ask({**pair.headers("strict"), "authorization": "Bearer key", "x-request-id": "7"})
        async with pair.session.get(f"{pair.prefill.url}/sim/requests") as response:
            (seen,) = orjson.loads(await response.read())["requests"]
        headers = dict(seen["headers"])
        assert (headers["authorization"], headers["x-request-id"]) == ("Bearer key", "7")
        assert headers["host"] == pair.prefiller
        assert not [name for name in headers if name.startswith(("x-prefill", "x-igw"))]


@pytest.mark.parametrize("more", [{"n": 2}, {"prompt": ["one", "two"]}])
async def test_what_cannot_be_split_goes_to_the_engine_as_it_came(more: dict[str, Any]) -> None:
    """The simulated engine refuses both, in its own words."""
    async with running_pair(Format.VLLM) as pair:
        answer = await pair.ask(**more)
        assert (answer.status, answer.headers["x-sim-engine"]) == (400, "d")
        assert answer.headers[PREFILL_OUTCOME_HEADER] == "local"
        assert (await statistics(pair.session, pair.prefill))["steps"] == 0


# ------------------------------------------------------------------------------------------------ failures


BROKEN: dict[str, dict[str, Any]] = {
    "status": {"errors": 2},
    "unreachable": {},
    "reset": {"reset": "before"},
    "timeout": {"stall": True},
}


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("failure", BROKEN)
async def test_a_failed_prefill_is_computed_by_the_engine_unless_that_is_forbidden(
    kind: Format, failure: str, stream: bool
) -> None:
    settings = {"prefill_s": 0.1 if failure == "timeout" else 20}
    async with running_pair(kind, settings, role="both") as pair, nobody() as refused:
        await pair.prefill.server.break_with(BROKEN[failure])
        named = refused if failure == "unreachable" else None
        again = await pair.ask(pair.headers("strict", named), stream=stream)
        assert again.status == 502
        assert (again.json["error"]["code"], again.headers[PREFILL_OUTCOME_HEADER]) == ("prefill_failed", "failed")
        assert "Prefiller 127.0.0.1:" in again.json["error"]["message"]
        assert PROMPT not in again.body.decode()

        answer = await pair.ask(pair.headers("decode", named), stream=stream)
        assert (answer.status, answer.headers[PREFILL_OUTCOME_HEADER]) == (200, "failed")
        assert len((text_of(answer.body) if stream else answer.json["choices"][0]["text"]).split()) == 8
        await pair.prefill.server.break_with({"clear": True})
        await idle(pair.session, pair.prefill, pair.decode)
        assert await pair.metric('igw_sidecar_requests_total{outcome="refused"}') == 1
        assert await pair.metric('igw_sidecar_requests_total{outcome="failed"}') == 1


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_kv_that_does_not_arrive_is_computed_by_the_engine(kind: Format, stream: bool) -> None:
    """The decoder fails here, also after it has sent the headers of a stream: the client has seen none of it."""
    async with running_pair(kind, role="both") as pair:
        await pair.prefill.server.break_with({"transfer": "fail"})
        answer = await pair.ask(stream=stream)
        assert (answer.status, answer.headers[PREFILL_OUTCOME_HEADER]) == (200, "failed")
        again = await pair.ask(pair.headers("strict"), stream=stream)
        assert (again.status, again.json["error"]["code"]) == (502, "prefill_failed")
        await idle(pair.session, pair.prefill, pair.decode)


@BOTH
async def test_a_prefiller_that_dies_over_a_prompt_costs_no_request(kind: Format) -> None:
    async with running_pair(kind, role="both", **SLOW_PREFILL) as pair, asyncio.TaskGroup() as group:
        asking = group.create_task(pair.ask())
        await becomes(pair.session, pair.prefill, lambda known: known["running"] == 1)
        await pair.prefill.server.break_with({"die": True})
        answer = await asking
        assert (answer.status, answer.headers[PREFILL_OUTCOME_HEADER]) == (200, "failed")
        await idle(pair.session, pair.decode)


async def test_an_sglang_decoder_that_computes_no_prompts_refuses_whatever_the_policy() -> None:
    async with running_pair(Format.SGLANG) as pair:
        await pair.prefill.server.break_with({"errors": 1})
        answer = await pair.ask(pair.headers("decode"))
        assert (answer.status, answer.json["error"]["code"]) == (502, "prefill_failed")


@BOTH
async def test_a_fault_of_the_requests_own_is_told_in_the_prefillers_words(kind: Format) -> None:
    async with running_pair(kind) as pair:
        answer = await pair.ask(pair.headers("strict"), prompt=PROMPT * 100, max_tokens=5)
        assert answer.status == 400
        assert "maximum context length" in answer.json["error"]["message"]
        await idle(pair.session, pair.prefill, pair.decode)


@pytest.mark.parametrize("body", [b"{}", b"not JSON", b'{"kv_transfer_params": null}', b"x" * 17_000_000])
async def test_a_prefiller_that_answers_something_else_has_failed(body: bytes) -> None:
    async def answer_so(request: web.Request) -> web.Response:
        return web.Response(body=body)

    async with running_pair(Format.VLLM) as pair, prefiller_that(answer_so) as other:
        answer = await pair.ask(pair.headers("strict", other))
        assert (answer.status, answer.json["error"]["code"]) == (502, "prefill_failed")
        assert (await pair.ask(pair.headers("decode", other))).status == 200
        assert await pair.metric('igw_sidecar_prefill_failures_total{reason="answer"}') == 2


@pytest.mark.parametrize("named", ["169.254.169.254:80", "8.8.8.8:80", "prefiller:80", "127.0.0.1"])
async def test_a_prefiller_that_may_not_be_asked_is_not(named: str) -> None:
    async with running_pair(Format.VLLM) as pair:
        async with asyncio.timeout(2):
            refused = await pair.ask(pair.headers("strict", named))
            answer = await pair.ask(pair.headers("decode", named))
        assert (refused.status, answer.status, answer.headers[PREFILL_OUTCOME_HEADER]) == (502, 200, "failed")
        assert await pair.metric('igw_sidecar_prefill_failures_total{reason="refused"}') == 2


@BOTH
@pytest.mark.parametrize("split", [True, False])
async def test_without_its_engine_the_sidecar_says_so(kind: Format, split: bool) -> None:
    async with running_pair(kind) as pair:
        await pair.decode.server.break_with({"die": True})
        answer = await pair.ask(None if split else {})
        assert (answer.status, answer.json["error"]["code"]) == (503, "engine_unreachable")
        if kind is Format.SGLANG:
            await idle(pair.session, pair.prefill)


async def test_a_long_prompt_is_split_like_a_short_one() -> None:
    large: dict[str, Any] = {"max_model_tokens": 2**20, "kv_blocks": 2**16, "max_batched_tokens": 2**20}
    async with running_pair(Format.VLLM, prefill_tokens_per_s=1e8, transfer=Transfer(1, 1e9), **large) as pair:
        answer = await pair.ask(prompt="a" * 3 * 2**20)
        assert (answer.status, answer.headers[PREFILL_OUTCOME_HEADER]) == (200, "remote")


async def test_a_body_too_large_to_be_held_is_refused() -> None:
    async with running_pair(Format.VLLM, {"max_body_bytes": 1000}) as pair:
        answer = await pair.ask(prompt="x" * 2000)
        assert (answer.status, answer.json["error"]["code"]) == (413, "request_too_large")
        # What passes is not held.
        assert (await pair.ask({}, prompt="x" * 2000)).status == 200


# ------------------------------------------------------------------------------------------------ clients that leave

# Far below the lease of 30 seconds, after which an engine would free KV by itself.
PROMPTLY = 5.0


@BOTH
async def test_a_client_that_leaves_during_the_prefill_frees_both_engines(kind: Format) -> None:
    async with running_pair(kind, **SLOW_PREFILL) as pair:
        left = await leave_when(pair, lambda known: known["running"] == 1, pair.prefill, stream=True)
        await idle(pair.session, pair.prefill, pair.decode)
        assert asyncio.get_running_loop().time() - left < PROMPTLY
        assert (await statistics(pair.session, pair.prefill))["cancelled"] == 1
        assert await pair.metric('igw_sidecar_requests_total{outcome="gone"}') == 1
        assert await pair.metric("igw_sidecar_in_flight") == 0


@BOTH
async def test_a_client_that_leaves_while_the_kv_is_on_its_way_frees_both_engines(kind: Format) -> None:
    async with running_pair(kind) as pair:
        await pair.prefill.server.break_with({"transfer": "hang"})
        left = await leave_when(pair, lambda known: known["loading"] == 1, pair.decode, stream=True)
        await idle(pair.session, pair.prefill, pair.decode)
        assert asyncio.get_running_loop().time() - left < PROMPTLY


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_client_that_leaves_during_the_reply_frees_the_engine(kind: Format, stream: bool) -> None:
    async with running_pair(kind, decode_step_s=0.02) as pair:
        endless: dict[str, Any] = {"stream": stream, "max_tokens": 500, "ignore_eos": True}
        left = await leave_when(pair, lambda known: known["decoding"] == 1, pair.decode, **endless)
        await idle(pair.session, pair.prefill, pair.decode)
        assert asyncio.get_running_loop().time() - left < PROMPTLY
        assert (await statistics(pair.session, pair.decode))["cancelled"] == 1


async def test_a_prefill_that_takes_too_long_is_stopped_at_the_prefiller() -> None:
    async with running_pair(Format.VLLM, {"prefill_s": 0.05}, **SLOW_PREFILL) as pair:
        assert (await pair.ask(pair.headers("strict"))).status == 502
        await idle(pair.session, pair.prefill)
        assert (await statistics(pair.session, pair.prefill))["cancelled"] == 1
