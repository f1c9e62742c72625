"""Failures on demand, as a client of a broken engine sees them."""

import asyncio
from typing import Any

import aiohttp
import orjson
import pytest

from igw_testing.sims import RunningSim, running_sim, sim_settings

ASK: dict[str, Any] = {"prompt": "hello", "max_tokens": 5}


def session(sim: RunningSim) -> aiohttp.ClientSession:
    """No kept connections: what one request suffers must not show in the next."""
    connector = aiohttp.TCPConnector(force_close=True)
    return aiohttp.ClientSession(sim.url, connector=connector, timeout=aiohttp.ClientTimeout(20))


async def ask(client: aiohttp.ClientSession, **more: Any) -> int:
    async with client.post("/v1/completions", json={**ASK, **more}) as response:
        await response.read()
        return response.status


async def fail(client: aiohttp.ClientSession, **changes: Any) -> int:
    async with client.post("/sim/fail", json=changes) as response:
        await response.read()
        return response.status


async def test_the_next_requests_get_an_error_and_later_ones_do_not() -> None:
    async with running_sim() as sim, session(sim) as client:
        await fail(client, errors=2, error_status=503)
        assert [await ask(client) for _ in range(3)] == [503, 503, 200]


async def test_a_share_of_requests_gets_an_error() -> None:
    async with running_sim() as sim, session(sim) as client:
        await fail(client, error_share=1.0)
        assert [await ask(client) for _ in range(3)] == [500] * 3
        await fail(client, clear=True)
        assert await ask(client) == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_a_connection_is_reset_before_any_byte(stream: bool) -> None:
    async with running_sim() as sim, session(sim) as client:
        await fail(client, reset="before", reset_next=1)
        with pytest.raises(aiohttp.ClientError):
            await ask(client, stream=stream)
        assert await ask(client, stream=stream) == 200


async def test_a_connection_is_reset_after_the_first_token() -> None:
    async with running_sim() as sim, session(sim) as client:
        await fail(client, reset="after", reset_next=1)
        async with client.post("/v1/completions", json={**ASK, "stream": True}) as response:
            assert response.status == 200
            assert b'"text":' in await response.content.readline()
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        assert await ask(client, stream=True) == 200


async def test_a_hanging_engine_accepts_and_never_answers() -> None:
    async with running_sim() as sim, session(sim) as client:
        await fail(client, hang=True)
        for path in ("/v1/models", "/metrics", "/health"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), client.get(path):
                    pass
        await fail(client, clear=True)
        assert await ask(client) == 200


async def test_a_stalled_engine_generates_nothing_but_still_reports() -> None:
    async with running_sim() as sim, session(sim) as client, asyncio.TaskGroup() as group:
        await fail(client, stall=True)
        asking = group.create_task(ask(client, stream=True))
        page = b""
        async with asyncio.timeout(10):
            while b'vllm:num_requests_waiting{engine="0",model_name="sim-model"} 1.0' not in page:
                async with client.get("/metrics") as response:
                    page = await response.read()
        assert not asking.done()
        await fail(client, stall=False)
    assert asking.result() == 200


async def test_a_slow_engine_takes_as_many_times_longer() -> None:
    """The step times of 40 tokens, as the engine counts them, are 20 times those of a healthy one."""
    settings = sim_settings(output_tokens="fixed:41", decode_step_s=0.001)
    async with running_sim(settings) as sim, session(sim) as client:
        times = []
        for factor in (1.0, 20.0):
            await fail(client, slow=factor)
            before = await decode_seconds(client)
            await ask(client, max_tokens=41)
            times.append(await decode_seconds(client) - before)
    assert times[1] == pytest.approx(20 * times[0], rel=0.01)


async def decode_seconds(client: aiohttp.ClientSession) -> float:
    async with client.get("/sim/state") as response:
        seconds: float = orjson.loads(await response.read())["statistics"][0]["decode_s"]
        return seconds


async def test_metrics_alone_may_be_gone() -> None:
    async with running_sim() as sim, session(sim) as client:
        await fail(client, metrics="404")
        async with client.get("/metrics") as response:
            assert response.status == 404
        await fail(client, metrics="hang")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), client.get("/metrics"):
                pass
        assert await ask(client) == 200


async def test_health_may_be_bad_alone() -> None:
    async with running_sim() as sim, session(sim) as client:
        await fail(client, health=503)
        async with client.get("/health") as response:
            assert response.status == 503
        assert await ask(client) == 200


async def test_an_engine_that_dies_closes_its_port_and_its_connections() -> None:
    async with running_sim(sim_settings(output_tokens="fixed:3000")) as sim, session(sim) as client:
        async with client.post("/v1/completions", json={**ASK, "max_tokens": 3000, "stream": True}) as response:
            await response.content.readline()
            assert await fail(client, die=True) == 200
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        assert sim.server.died.is_set()
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(client)


async def test_an_engine_dies_after_so_many_answers_which_are_still_whole() -> None:
    async with running_sim() as sim, session(sim) as client:
        await fail(client, die_after=2)
        assert [await ask(client), await ask(client, stream=True)] == [200, 200]
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(client)


async def test_a_failure_that_does_not_exist_is_refused_by_name() -> None:
    async with running_sim() as sim, session(sim) as client:
        async with client.post("/sim/fail", json={"explode": True}) as response:
            assert response.status == 400
            assert "explode" in orjson.loads(await response.read())["error"]
        async with client.post("/sim/fail", data=b"no json") as response:
            assert response.status == 400


async def test_an_answer_ends_in_the_middle_as_if_all_was_said() -> None:
    """A stream without its end, and half of a body that was announced in full."""
    async with running_sim() as sim, session(sim) as client:
        await fail(client, reset="cut")
        for stream in (True, False):
            async with client.post("/v1/completions", json={**ASK, "stream": stream}) as response:
                assert response.status == 200
                assert b'"text":' in await response.content.readany()
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()


async def test_a_garbled_metrics_page_is_a_page_with_nonsense_for_numbers() -> None:
    async with running_sim() as sim, session(sim) as client:
        await fail(client, metrics="garbage")
        async with client.get("/metrics") as response:
            page = await response.read()
        assert response.status == 200
        wrong = {line.rpartition(b" ")[2] for line in page.splitlines()[:-1] if line.startswith(b"vllm:")}
        assert len(wrong) <= 1
        await fail(client, clear=True)
