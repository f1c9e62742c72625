"""The real Envoy and the real picker in the mode that Envoy Gateway can say: headers sent, body buffered."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from igw_testing.ext_proc import chat
from igw_testing.picker_envoy import ONE_MESSAGE, gateway


async def posted(client: aiohttp.ClientSession, name: str) -> dict[str, Any]:
    """What the engine that took a chat for this model tells."""
    headers = {"content-type": "application/json"}
    async with client.post("/v1/chat/completions", data=chat(name), headers=headers) as response:
        assert response.status == 200, await response.text()
        told: dict[str, Any] = await response.json()
        assert told["body"].encode() == chat(name)
        return told


SENT = pytest.mark.parametrize("mode", ["BUFFERED", "BUFFERED_PARTIAL"])


@SENT
async def test_the_answer_to_the_body_moves_a_post_to_the_pool_and_the_engine(tmp_path: Path, mode: str) -> None:
    """Header mutations and the new choice of route count although the headers were answered before."""
    async with gateway(tmp_path, mode) as here:
        for name in ("large", "small", "small", "large"):
            told = await posted(here.client, f"{name}-model")
            assert (told["name"], told["told"]["x-igw-pool"]) == (f"{name}-idle", f"{name}/{name}")


@SENT
async def test_a_get_is_placed_by_its_headers(tmp_path: Path, mode: str) -> None:
    """No body will come; waiting for one would hang the here.client."""
    async with gateway(tmp_path, mode) as here:
        for _turn in range(3):
            async with here.client.get("/v1/models") as response:
                assert (await response.json())["name"] == "large-idle"


@SENT
async def test_a_websocket_opens_and_stays_open(tmp_path: Path, mode: str) -> None:
    """What follows an upgrade is no body that Envoy could wait for: the picker's answer tells it not to."""
    async with gateway(tmp_path, mode) as here:
        for _turn in range(2):
            async with here.client.ws_connect(
                "/v1/realtime", headers={"x-gateway-model-name": "small-model"}
            ) as socket:
                for word in ("one", "two"):
                    await socket.send_str(word)
                    async with asyncio.timeout(5):
                        assert await socket.receive_str() == f"small-idle: {word}"
        assert [engine.seen for engine in here.engines] == [[], [], [], ["GET", "GET"]]


@SENT
async def test_a_clients_own_headers_lead_nowhere(tmp_path: Path, mode: str) -> None:
    """Here no proxy strips them first: the picker's answer replaces them."""
    async with gateway(tmp_path, mode) as here:
        forged = {
            "content-type": "application/json",
            "x-igw-pool": "small/small",
            "x-gateway-destination-endpoint": here.engines[2].address,
        }
        async with here.client.post("/v1/chat/completions", data=chat("large-model"), headers=forged) as response:
            assert (await response.json())["name"] == "large-idle"


async def test_in_one_message_the_metadata_moves_the_request_to_the_pool_and_the_engine(tmp_path: Path) -> None:
    """As our own Envoy asks: no headers sent, so routes match the metadata."""
    async with gateway(tmp_path, ONE_MESSAGE) as here:
        for name in ("large", "small", "small", "large"):
            assert (await posted(here.client, f"{name}-model"))["name"] == f"{name}-idle"
