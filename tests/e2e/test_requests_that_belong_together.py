"""Kept responses and sessions, seen by clients through Envoy before engines that each keep their own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from igw_testing.gateway_process import MODEL, Gateway, running_gateway, running_sims
from igw_testing.standalone import until

ENGINES = ("a", "b", "c", "d")


@asynccontextmanager
async def gateway(folder: Path) -> AsyncIterator[tuple[Gateway, list[str]]]:
    """A gateway before four engines, and their addresses."""
    async with running_sims(*ENGINES) as sims:
        addresses = [sim.address for sim in sims]
        async with running_gateway(folder, addresses) as running:
            await running.sees(*addresses)
            yield running, addresses


def responses(running: Gateway) -> str:
    """Where the responses API is."""
    return running.up.url(8081) + "/v1/responses"


async def respond(running: Gateway, **fields: Any) -> tuple[int, str, dict[str, Any]]:
    """Status, engine and answer of one request."""
    asked = {"model": MODEL, "input": "hello", "max_output_tokens": 2, **fields}
    async with running.session.post(responses(running), json=asked) as answer:
        return answer.status, answer.headers["x-sim-engine"], await answer.json()


async def about(running: Gateway, response_id: str) -> tuple[int, str]:
    """Status and engine of asking for a response."""
    async with running.session.get(f"{responses(running)}/{response_id}") as answer:
        return answer.status, answer.headers["x-sim-engine"]


async def test_conversations_go_on_where_they_began_also_for_another_picker(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (running, addresses):
        begun = [await respond(running) for _ in range(8)]
        assert {status for status, _, _ in begun} == {200}
        assert len({engine for _, engine, _ in begun}) > 1, "else there is nothing to show"
        before = running.pickers_started()
        for turn in range(3):
            begun = await _next_turn(running, begun)
            if turn == 1:
                running.kill_picker()
                await running.picker_listens(before)
                await running.sees(*addresses)
                await until(lambda: _is_asked(running), why=running.picker_log)


async def _is_asked(running: Gateway) -> bool:
    """Whether Envoy asks the picker again: until then it chooses by round robin."""
    await _chat(running.session, running.chat, "any", 0)
    return sum((await running.placed()).values()) > 0


async def _next_turn(
    running: Gateway, begun: list[tuple[int, str, dict[str, Any]]]
) -> list[tuple[int, str, dict[str, Any]]]:
    """Each conversation goes on, at its engine."""
    further = []
    for _, engine, answer in begun:
        status, again, continued = await respond(running, previous_response_id=answer["id"])
        assert (status, again) == (200, engine), continued
        assert await about(running, continued["id"]) == (200, engine)
        further.append((status, again, continued))
    return further


async def test_a_streamed_response_is_continued_as_well(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (running, _):
        asked = {"model": MODEL, "input": "hello", "max_output_tokens": 2, "stream": True}
        async with running.session.post(responses(running), json=asked) as answer:
            engine, text = answer.headers["x-sim-engine"], await answer.text()
        made = text.partition('"id":"')[2].partition('"')[0]
        for _ in range(4):
            status, again, _ = await respond(running, previous_response_id=made)
            assert (status, again) == (200, engine)


async def test_when_its_engine_is_gone_another_one_says_that_it_does_not_know_the_response(tmp_path: Path) -> None:
    async with running_sims(*ENGINES[:2]) as sims:
        addresses = [sim.address for sim in sims]
        async with running_gateway(tmp_path, addresses) as running:
            await running.sees(*addresses)
            _, engine, answer = await respond(running)
            await next(sim for sim in sims if sim.name == engine).kill()
            status, other, error = await respond(running, previous_response_id=answer["id"])
            assert status == 404 and other != engine
            assert answer["id"] in error["error"]["message"]


async def test_requests_of_a_session_go_together(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (running, _):
        for name in ("one", "two"):
            engines = [await _chat(running.session, running.chat, name, number) for number in range(6)]
            assert len(set(engines)) == 1, engines


async def _chat(session: aiohttp.ClientSession, url: str, name: str, number: int) -> str:
    """The engine that answered a short chat of that session."""
    messages = [{"role": "user", "content": f"question {number}"}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 1}
    async with session.post(url, json=body, headers={"x-session-id": name}) as answer:
        await answer.read()
        return answer.headers["x-sim-engine"]
