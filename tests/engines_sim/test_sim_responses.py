"""Responses that a simulated engine keeps: a later request continues them, and clients may ask for them."""

from typing import Any

import aiohttp
import pytest

from igw_testing.sims import running_sim


def client(url: str) -> aiohttp.ClientSession:
    """A session on that engine."""
    return aiohttp.ClientSession(url)


async def respond(session: aiohttp.ClientSession, **fields: Any) -> tuple[int, dict[str, Any]]:
    """Status and answer of one request."""
    async with session.post("/v1/responses", json={"input": "hello", **fields}) as answer:
        return answer.status, await answer.json()


async def get(session: aiohttp.ClientSession, response_id: str) -> tuple[int, dict[str, Any]]:
    """Status and answer of asking for a response."""
    async with session.get(f"/v1/responses/{response_id}") as answer:
        return answer.status, await answer.json()


async def test_a_response_may_be_continued_and_asked_for() -> None:
    async with running_sim() as sim, client(sim.url) as session:
        _, first = await respond(session)
        status, second = await respond(session, previous_response_id=first["id"])
        assert status == 200 and second["id"] != first["id"]
        before = first["usage"]["total_tokens"] + first["usage"]["input_tokens"]
        assert second["usage"]["input_tokens"] == before, "all that came before, and the new input"
        status, kept = await get(session, second["id"])
        assert status == 200 and kept["output"] == second["output"]


async def test_the_request_may_name_its_response() -> None:
    async with running_sim() as sim, client(sim.url) as session:
        _, answer = await respond(session, request_id="resp_mine")
        assert answer["id"] == "resp_mine"


async def test_a_streamed_response_is_kept_too() -> None:
    async with running_sim() as sim, client(sim.url) as session:
        asked = {"input": "hello", "request_id": "resp_mine", "stream": True}
        async with session.post("/v1/responses", json=asked) as answer:
            assert b'"id":"resp_mine"' in await answer.read()
        assert (await get(session, "resp_mine"))[0] == 200


@pytest.mark.parametrize("fields", [{"store": False}, {}])
async def test_another_engine_or_one_that_kept_nothing_does_not_know_it(fields: dict[str, Any]) -> None:
    async with running_sim() as sim, running_sim() as other, client(sim.url) as session, client(other.url) as elsewhere:
        _, made = await respond(session, **fields)
        asked = session if fields else elsewhere
        status, answer = await respond(asked, previous_response_id=made["id"])
        assert status == 404 and made["id"] in answer["error"]["message"]
        assert (await get(asked, made["id"]))[0] == 404


async def test_ids_that_are_no_text_are_refused() -> None:
    async with running_sim() as sim, client(sim.url) as session:
        for name in ("previous_response_id", "request_id"):
            assert (await respond(session, **{name: 7}))[0] == 400
