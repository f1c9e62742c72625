"""With the real Envoy: requests of another's route go by, and what was placed by its headers counts to its end."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from igw_testing.ext_proc import chat
from igw_testing.picker import eventually
from igw_testing.picker_envoy import ONE_MESSAGE, Gateway, gateway

MODES = pytest.mark.parametrize("mode", ["BUFFERED", "BUFFERED_PARTIAL"])
JSON = {"content-type": "application/json"}


async def passed(here: Gateway) -> int:
    """Requests that the picker let go by. All others would show."""
    assert [await here.picker.in_flight(engine) for engine in here.engines] == [0.0] * 4
    _, page = await here.picker.get("/metrics")
    counts = [line for line in page.splitlines() if line.startswith("igw_picker_requests_total")]
    assert all('outcome="passed"' in line for line in counts), counts
    return int(await here.picker.sample("igw_picker_requests_total", pool="", model="", outcome="passed"))


@pytest.mark.parametrize("mode", ["BUFFERED", "BUFFERED_PARTIAL", "STREAMED", "NONE", ONE_MESSAGE])
async def test_a_request_on_anothers_route_reaches_its_backend_as_it_was_sent(tmp_path: Path, mode: str) -> None:
    """Neither an unknown model nor a broken body is the picker's business there."""
    async with gateway(tmp_path, mode) as here:
        for body in (chat("unheard-of"), b"not json", chat("small-model")):
            async with here.client.post("/web/v1/chat/completions", data=body, headers=JSON) as response:
                assert await response.json() == {"name": "web", "body": body.decode(), "told": {}}
        assert await passed(here) == 3
        async with here.client.get("/web/v1/models") as response:
            assert (await response.json())["name"] == "web"


@MODES
async def test_a_body_on_anothers_route_is_not_held(tmp_path: Path, mode: str) -> None:
    """Its answer may come before its end, and it may be larger than what is buffered (1 MiB here)."""
    async with gateway(tmp_path, mode) as here:
        more: asyncio.Queue[bytes] = asyncio.Queue()

        async def pieces() -> AsyncIterator[bytes]:
            while piece := await more.get():
                yield piece

        more.put_nowait(b"one")
        async with here.client.post("/web/echo", data=pieces()) as response, asyncio.timeout(5):
            assert await response.content.readexactly(3) == b"one"
            for piece in [b"x" * 100_000] * 30 + [b""]:
                more.put_nowait(piece)
            assert await response.content.read() == b"x" * 3_000_000
        assert await passed(here) == 1


@MODES
async def test_a_websocket_on_anothers_route_opens(tmp_path: Path, mode: str) -> None:
    async with gateway(tmp_path, mode) as here:
        async with here.client.ws_connect("/web/socket") as socket:
            assert await answered(socket) == "web: hello"
        assert await passed(here) == 1


async def answered(socket: aiohttp.ClientWebSocketResponse) -> str:
    """What the other side says to a greeting."""
    await socket.send_str("hello")
    async with asyncio.timeout(5):
        return await socket.receive_str()


# ------------------------------------------------------------------------------------------------ in flight


async def counts(here: Gateway, number: float) -> None:
    """Wait until so many requests are in flight at the idle engine of the first pool, and none elsewhere."""

    async def is_so() -> bool:
        return [await here.picker.in_flight(engine) for engine in here.engines] == [0.0, number, 0.0, 0.0]

    await eventually(is_so, f"{number} in flight")


async def still_counts(here: Gateway, number: float) -> None:
    """The same after one of the other pool: had Envoy ended a stream before, the picker would know by now."""
    async with here.client.get("/v1/models", headers={"x-gateway-model-name": "small-model"}) as response:
        assert (await response.json())["name"] == "small-idle"
    await counts(here, number)


@MODES
async def test_a_websocket_counts_as_in_flight_until_it_closes(tmp_path: Path, mode: str) -> None:
    """It may occupy its engine for hours. No more of it is shown, but its stream stays open."""
    async with gateway(tmp_path, mode) as here:
        async with here.client.ws_connect("/v1/realtime") as socket:
            assert await answered(socket) == "large-idle: hello"
            await still_counts(here, 1.0)
        await counts(here, 0.0)


@MODES
async def test_a_websocket_goes_to_the_pool_of_the_model_that_its_path_names(tmp_path: Path, mode: str) -> None:
    async with gateway(tmp_path, mode) as here:
        async with here.client.ws_connect("/v1/realtime?model=small-model") as socket:
            assert await answered(socket) == "small-idle: hello"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await here.client.ws_connect("/v1/realtime?model=unheard-of")
        assert refused.value.status == 404


@MODES
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_counts_as_in_flight_until_its_response_ends(tmp_path: Path, mode: str, method: str) -> None:
    """With or without a body."""
    async with gateway(tmp_path, mode) as here:
        data = chat("large-model") if method == "POST" else None
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(answer_of(here, method, data))
            await counts(here, 1.0)
            await still_counts(here, 1.0)
            here.engines[1].may_end.set()
        assert answer.result() == "large-idle"
        await counts(here, 0.0)


async def answer_of(here: Gateway, method: str, data: bytes | None) -> str:
    """Who answered a request that takes its time."""
    async with here.client.request(method, "/v1/slow", data=data, headers=JSON) as response:
        return str((await response.json())["name"])
