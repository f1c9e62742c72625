"""Pools that share a port of `igw up`: the model in the body decides where a request goes. Real Envoy, real picker."""

import io
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from igw_testing.engine_double import EngineDouble
from igw_testing.gateway_texts import engine, gateway, model, pool
from igw_testing.standalone import Up, running_up, until

Engines = tuple[EngineDouble, EngineDouble]
PORT = 8080


def two_pools(engines: Engines, **second: Any) -> list[str]:
    """Pools a and b on one port, with one engine each; model m-a is the first's."""
    one, two = engines
    return [
        gateway(PORT),
        pool("a", PORT),
        pool("b", PORT, **second),
        model("m-a", "a"),
        engine("a", one.address),
        engine("b", two.address),
    ]


@asynccontextmanager
async def shared_port(folder: Path, texts: list[str], *options: str) -> AsyncIterator[Up]:
    """`igw up` with these manifests."""
    manifests = folder / "manifests"
    manifests.mkdir()
    for number, text in enumerate(texts):
        (manifests / f"{number}.yaml").write_text(text)
    async with running_up(manifests, folder / "state", *options, ports=(PORT,)) as up:
        yield up


async def complete(session: aiohttp.ClientSession, up: Up, name: str) -> tuple[int, dict[str, Any]]:
    """Ask for a model: the status and the answer."""
    body = {"model": name, "prompt": "hello"}
    async with session.post(f"{up.url(PORT)}/v1/completions", json=body) as answer:
        return answer.status, await answer.json()


async def engines_of(session: aiohttp.ClientSession, up: Up, name: str, times: int = 3) -> set[str]:
    """Who answers requests for a model."""
    answers = [await complete(session, up, name) for _ in range(times)]
    assert {status for status, _ in answers} == {200}, answers
    return {str(answer["engine"]) for _, answer in answers}


async def test_each_model_reaches_the_engines_of_its_pool_and_no_others(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """And a name that no pool has is refused with the names that there are."""
    texts = [*two_pools(engines), model("m-b", "b")]
    async with shared_port(tmp_path, texts) as up:
        assert await engines_of(session, up, "m-a") == {"one"}
        assert await engines_of(session, up, "m-b") == {"two"}
        status, answer = await complete(session, up, "m-c")
        assert status == 404
        assert "m-a" in answer["error"]["message"] and "m-b" in answer["error"]["message"]


async def test_a_pool_without_models_takes_every_other_model(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """It is the default, though the other one is first by name."""
    async with shared_port(tmp_path, two_pools(engines)) as up:
        assert await engines_of(session, up, "m-a") == {"one"}
        assert await engines_of(session, up, "anything else") == {"two"}


async def test_while_the_picker_is_frozen_the_default_pool_answers(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """Nobody knows the model then. With the picker back, models are told apart again."""
    texts = [*two_pools(engines), model("m-b", "b")]
    async with shared_port(tmp_path, texts) as up:
        assert await engines_of(session, up, "m-b") == {"two"}
        picker = up.children()["picker"]
        os.kill(picker, signal.SIGSTOP)
        try:
            await until(lambda: _answered_by(session, up, "m-b", "one"))
        finally:
            os.kill(picker, signal.SIGCONT)
        await until(lambda: _answered_by(session, up, "m-b", "two"))


async def _answered_by(session: aiohttp.ClientSession, up: Up, name: str, wanted: str) -> bool:
    return await engines_of(session, up, name, 1) == {wanted}


async def test_no_request_fails_while_the_picker_is_killed(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """Until it is back, requests are the default pool's."""
    texts = [*two_pools(engines), model("m-b", "b")]
    async with shared_port(tmp_path, texts) as up:
        before = up.children()["picker"]
        os.kill(before, signal.SIGKILL)
        seen: set[str] = set()

        async def answered_by_its_pool_again() -> bool:
            seen.update(found := await engines_of(session, up, "m-b", 1))
            return found == {"two"} and up.children().get("picker", before) != before

        await until(answered_by_its_pool_again)
        assert "one" in seen


async def test_a_pool_that_fails_closed_is_reached_by_its_models_only(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """The picker must see every request's headers then, and still finds the pool by the body."""
    texts = [*two_pools(engines, fail_close=True), model("m-b", "b")]
    async with shared_port(tmp_path, texts) as up:
        assert await engines_of(session, up, "m-b") == {"two"}
        assert await engines_of(session, up, "m-a") == {"one"}


@pytest.mark.parametrize("size", [900_000, 3_000_000, 20_000_000])
async def test_large_bodies_find_their_pool_too(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines, size: int
) -> None:
    """Up to the limit of all bodies: none is cut on its way to the picker here."""
    texts = [*two_pools(engines), model("m-b", "b")]
    async with shared_port(tmp_path, texts) as up:
        body = io.BytesIO(json.dumps({"prompt": "x" * size, "model": "m-b"}).encode())
        headers = {"content-type": "application/json"}
        async with session.post(f"{up.url(PORT)}/v1/completions", data=body, headers=headers) as answer:
            assert (answer.status, (await answer.json()).get("engine")) == (200, "two")
