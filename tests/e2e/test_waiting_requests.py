"""A pool with a queue, seen by clients through Envoy: they wait while engines are full, and are told when to return."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from igw_testing.chat_load import SHORT_PROMPT, chat_body
from igw_testing.engine_double import END, FULL, IDLE, EngineDouble, running_engine
from igw_testing.gateway_process import Gateway, running_gateway
from igw_testing.standalone import endpoint_list, until

POOL = "vllm-llama2-7b-pool"


def queue(**spec: str | int) -> str:
    """A policy that lets the pool's requests wait."""
    return json.dumps(
        {
            "apiVersion": "inferencegateway.io/v1alpha1",
            "kind": "InferencePoolPolicy",
            "metadata": {"name": "waiting"},
            "spec": {"targetRefs": [{"name": POOL}], "queue": spec},
        }
    )


@asynccontextmanager
async def full_pool(folder: Path, **spec: str | int) -> AsyncIterator[tuple[Gateway, EngineDouble]]:
    """A gateway with one engine, which says that it is full, and has one request of ours."""
    async with running_engine("one") as engine:
        engine.numbers = FULL
        async with running_gateway(folder, [engine.address], manifests=queue(**spec)) as gateway:
            await gateway.sees(engine.address)
            stream = gateway.chat.replace("/v1/chat/completions", "/stream")
            async with gateway.session.post(stream, json=chat_body(SHORT_PROMPT)) as resident:
                assert resident.status == 200
                yield gateway, engine


async def waiting_is(gateway: Gateway, count: int) -> None:
    """Wait until so many requests wait."""

    async def is_so() -> bool:
        found = await gateway.numbers("igw_picker_waiting_requests")
        return found.get("", 0.0) == count

    await until(is_so, 30, gateway.picker_log)


async def ask(gateway: Gateway, url: str = "", **headers: str) -> tuple[int, str | None]:
    """Status and advice of one request's answer."""
    async with gateway.session.post(url or gateway.chat, json=chat_body(SHORT_PROMPT), headers=headers) as answer:
        await answer.read()
        return answer.status, answer.headers.get("retry-after")


async def test_a_client_waits_while_the_engine_is_full_and_is_then_served(tmp_path: Path) -> None:
    async with full_pool(tmp_path) as (gateway, engine), asyncio.TaskGroup() as group:
        asked = group.create_task(ask(gateway))
        await waiting_is(gateway, 1)
        assert engine.bodies == []
        engine.numbers = IDLE
        assert await asked == (200, None)
        await waiting_is(gateway, 0)


async def test_a_client_that_has_waited_too_long_is_told_when_to_come_back(tmp_path: Path) -> None:
    async with full_pool(tmp_path, waitTimeout="500ms") as (gateway, engine):
        status, advice = await ask(gateway)
        assert (status, engine.bodies) == (429, [])
        assert advice is not None and 1 <= int(advice) <= 60


async def test_a_client_that_goes_leaves_the_queue(tmp_path: Path) -> None:
    async with full_pool(tmp_path) as (gateway, engine), asyncio.TaskGroup() as group:
        asked = group.create_task(ask(gateway))
        await waiting_is(gateway, 1)
        asked.cancel()
        await waiting_is(gateway, 0)
        assert engine.bodies == []


async def test_a_long_wait_ends_with_an_answer_of_ours(tmp_path: Path) -> None:
    """Envoy's patience with the picker is longer than any wait."""
    async with full_pool(tmp_path, waitTimeout="16s") as (gateway, engine):
        assert (await ask(gateway))[0] == 429
        assert engine.bodies == []


async def test_requests_for_an_empty_pool_are_served_by_the_first_engine_that_comes(tmp_path: Path) -> None:
    async with running_engine("one") as engine, running_gateway(tmp_path, [], manifests=queue()) as gateway:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(gateway)) for _ in range(3)]
            await waiting_is(gateway, 3)
            (gateway.up.manifests / "endpoints.yaml").write_text(endpoint_list([engine.address]))
        assert [one.result() for one in asked] == [(200, None)] * 3


def files_with(text: bytes, folder: Path) -> list[str]:
    """Their names."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return [file.name for file in files if text in file.read_bytes()]


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_who_has_another_api_key_has_a_turn_before_the_rest_of_a_flood(tmp_path: Path, header: str) -> None:
    """The engine takes two: not the first two, but one of each key. What is written to disk has no key."""
    async with full_pool(tmp_path, waitTimeout="60s") as (gateway, engine), asyncio.TaskGroup() as group:
        url, flood, other = gateway.chat.replace("/v1/chat/completions", "/stream"), "sk-flood-71", "sk-other-72"
        for count, key in enumerate([flood] * 4 + [other], 1):
            group.create_task(ask(gateway, url, **{header: f"Bearer {key}"}))
            await waiting_is(gateway, count)
        engine.numbers = (1.0, 0.0, 1.0)  # still full, but with nothing that waits: two more keep its batch full
        await until(lambda: len(engine.seen) >= 3, 30, gateway.picker_log)
        assert [one[header][-len(flood) :] for one in engine.seen[1:]].count(other) == 1
        await waiting_is(gateway, 3)
        engine.numbers = IDLE
        for _ in range(6):
            engine.chunks.put_nowait(END)
    assert "picker.log" in (written := files_with(b"", tmp_path))
    assert files_with(b"sk-flood", tmp_path) == [], written
