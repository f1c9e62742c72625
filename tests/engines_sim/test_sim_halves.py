"""Two simulated engines share a request over real sockets, as vLLM's NixlConnector and SGLang's bootstrap do it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import orjson
import pytest

from igw_sim.transfer import Transfer
from igw_testing.sims import RunningSim, becomes, idle, running_sim, sim_settings, statistics

PROMPT = "tell me a story about the sea " * 20
BODY: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 8}
# Ten chunks of 16 ms.
SLOWLY: dict[str, Any] = {"prefill_tokens_per_s": 1000, "max_batched_tokens": 16}
ASK = {"do_remote_decode": True, "do_remote_prefill": False}


@asynccontextmanager
async def pair(**changes: Any) -> AsyncIterator[tuple[RunningSim, RunningSim, aiohttp.ClientSession]]:
    """Prefill and decode engine, and a client. `changes` are settings of both."""
    async with (
        running_sim(sim_settings("p", role="prefill", **changes)) as prefill,
        running_sim(sim_settings("d", role="decode", **changes)) as decode,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session,
    ):
        yield prefill, decode, session


async def post(session: aiohttp.ClientSession, sim: RunningSim, **more: Any) -> tuple[int, dict[str, Any]]:
    async with session.post(f"{sim.url}/v1/completions", json={**BODY, **more}) as response:
        return response.status, orjson.loads(await response.read())


async def computed(session: aiohttp.ClientSession, prefill: RunningSim) -> dict[str, Any]:
    """Compute the prompt; the parameters for the other half."""
    status, body = await post(session, prefill, max_tokens=1, kv_transfer_params=ASK)
    assert status == 200
    params: dict[str, Any] = body["kv_transfer_params"]
    return params


def rooms(prefill: RunningSim, room: int = 7) -> dict[str, Any]:
    return {"bootstrap_host": prefill.address[0], "bootstrap_port": prefill.address[1], "bootstrap_room": room}


async def test_vllm_a_prompt_computed_in_one_engine_is_decoded_in_another() -> None:
    async with pair() as (prefill, decode, session):
        _, whole = await post(session, prefill)
        params = await computed(session, prefill)
        assert {name: params[name] for name in ("do_remote_prefill", "do_remote_decode", "remote_num_tokens")} == {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_num_tokens": len(PROMPT) // 4,
        }
        assert (await statistics(session, prefill))["kept"] == 1
        status, body = await post(session, decode, kv_transfer_params=params)
        assert (status, body["choices"][0]["text"]) == (200, whole["choices"][0]["text"])
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == len(PROMPT) // 4 - 1
        assert (await statistics(session, decode))["steps"] == 8, "one for each token, none for the prompt"
        await idle(session, prefill, decode)


async def test_vllm_a_stream_says_that_its_kv_did_not_come() -> None:
    async with pair() as (prefill, decode, session):
        params = await computed(session, prefill)
        await prefill.server.break_with({"transfer": "fail"})
        body = {**BODY, "stream": True, "kv_transfer_params": params}
        async with session.post(f"{decode.url}/v1/completions", json=body) as response:
            text = await response.text()
        assert "KV transfer failed" in text
        assert text.endswith("data: [DONE]\n\n")
        await idle(session, prefill, decode)


async def test_vllm_kv_that_does_not_come_fails_the_request() -> None:
    async with pair() as (prefill, decode, session):
        params = await computed(session, prefill)
        params["remote_request_id"] = "someone else"
        status, body = await post(session, decode, kv_transfer_params=params)
        assert (status, body["error"]["type"]) == (500, "InternalServerError")
        await idle(session, decode)


async def test_vllm_kv_that_nobody_fetches_is_freed_when_its_lease_ends() -> None:
    async with pair(lease_s=0.05) as (prefill, _, session):
        await computed(session, prefill)
        await idle(session, prefill)
        assert (await statistics(session, prefill))["leases_expired"] == 1


async def test_vllm_a_prefill_whose_client_leaves_keeps_nothing() -> None:
    async with pair(**SLOWLY) as (prefill, _, session):
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(post(session, prefill, max_tokens=1, kv_transfer_params=ASK))
            await becomes(session, prefill, lambda known: known["running"] == 1)
            asking.cancel()
        await idle(session, prefill)


@pytest.mark.parametrize("phase", ["queued", "loading"])
async def test_vllm_a_decode_whose_client_leaves_frees_the_kv_on_both_sides(phase: str) -> None:
    """Long before the lease ends: the decoder tells the other engine, or its connection does."""
    async with pair(kv_blocks=24) as (prefill, decode, session):
        params = await computed(session, prefill)
        if phase == "loading":
            await prefill.server.break_with({"transfer": "hang"})
        else:
            await decode.server.break_with({"stall": True})
            # A stalled engine looks at its queue once more if it was idle.
            async with asyncio.TaskGroup() as group:
                first = group.create_task(post(session, decode))
                await becomes(session, decode, lambda known: known["running"] + known["waiting"] == 1)
                await leave_when(session, decode, params, lambda known: known["running"] + known["waiting"] == 2)
                first.cancel()
            await idle(session, prefill)
            return
        await leave_when(session, decode, params, lambda known: known["loading"] == 1)
        await idle(session, prefill, decode)


async def leave_when(
    session: aiohttp.ClientSession, decode: RunningSim, params: dict[str, Any], fits: Callable[[dict[str, Any]], bool]
) -> None:
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(post(session, decode, kv_transfer_params=params))
        await becomes(session, decode, fits)
        asking.cancel()


async def test_vllm_queued_on_the_decoder_the_kv_is_kept_beyond_its_lease() -> None:
    async with pair(lease_s=0.2, max_sequences=1, decode_step_s=0.02) as (prefill, decode, session):
        async with asyncio.TaskGroup() as group:
            group.create_task(post(session, decode, max_tokens=50))
            await becomes(session, decode, lambda known: known["running"] == 1)
            params = await computed(session, prefill)
            status, _ = await post(session, decode, kv_transfer_params=params)
        assert status == 200
        assert (await statistics(session, prefill))["leases_expired"] == 0


async def test_vllm_a_larger_prompt_takes_longer_to_fetch() -> None:
    """One token a kilobyte, one megabyte a second: a millisecond for each token, and nothing else takes that long."""
    async with pair(transfer=Transfer(1000, 1e6)) as (prefill, decode, session):
        loop = asyncio.get_running_loop()
        params = await computed(session, prefill)
        began = loop.time()
        await post(session, decode, kv_transfer_params=params)
        assert loop.time() - began >= len(PROMPT) // 4 * 1e-3


async def test_sglang_both_halves_run_at_once_and_meet_in_a_room() -> None:
    async with pair(dialect="sglang") as (prefill, decode, session), asyncio.TaskGroup() as group:
        first = group.create_task(post(session, prefill, **rooms(prefill)))
        second = group.create_task(post(session, decode, **rooms(prefill)))
        assert [(await task)[0] for task in (first, second)] == [200, 200]
        assert first.result()[1]["usage"]["completion_tokens"] == 1
        assert second.result()[1]["usage"]["completion_tokens"] == 8
        await idle(session, prefill, decode)


async def test_sglang_an_engine_of_one_role_refuses_a_request_without_a_room() -> None:
    async with pair(dialect="sglang") as (prefill, decode, session):
        for sim in (prefill, decode):
            status, body = await post(session, sim)
            assert (status, "bootstrap room" in body["error"]["message"]) == (400, True)


async def test_sglang_a_prefill_without_a_decoder_gives_up() -> None:
    async with pair(dialect="sglang", lease_s=0.05) as (prefill, _, session):
        status, body = await post(session, prefill, **rooms(prefill))
        assert (status, body["error"]["message"]) == (500, "no decoder came for the KV")


@pytest.mark.parametrize("leaving", ["prefill", "decode"])
async def test_sglang_when_one_half_goes_the_other_ends_and_all_kv_is_freed(leaving: str) -> None:
    async with pair(dialect="sglang", **SLOWLY) as (prefill, decode, session):
        async with asyncio.TaskGroup() as group:
            halves = {
                "prefill": group.create_task(post(session, prefill, **rooms(prefill))),
                "decode": group.create_task(post(session, decode, **rooms(prefill))),
            }
            await becomes(session, prefill, lambda known: known["running"] == 1)
            gone = halves.pop(leaving)
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone
            status, _ = await next(iter(halves.values()))
        assert status == 500
        await idle(session, prefill, decode)
