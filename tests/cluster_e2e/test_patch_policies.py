"""EnvoyPatchPolicies, switched on and off by an upgrade of the chart while pools are served.

What they leave out of the picker's messages must not be missed: requests are placed, and upgrades go through.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from igw_testing.chat_load import SHORT_PROMPT, chat, load
from igw_testing.operator_manifests import gateway, model, pool
from igw_testing.product import Product, Space, engine_pods
from igw_testing.special_engines import sockets

pytestmark = pytest.mark.timeout(240)
PORT = 8081
KIND = "envoypatchpolicies"
aside = asyncio.to_thread


@pytest.fixture(scope="module")
def served(space: Space) -> Space:
    """A port with two pools, one of which takes upgrades; Envoy asks the picker."""
    space.apply(gateway(), engine_pods("llm", 2, model="good"), sockets("sockets"))
    space.apply(pool("llm", PORT, picker="llm-picker"), model("good"), pool("sockets", PORT, picker="sockets-picker"))
    space.picker("gw", f"p{PORT}").until_sees(3)
    space.picker("gw", f"p{PORT}").until_asked(space.chats("gw", PORT))
    return space


@pytest.fixture(scope="module")
def patched(product: Product, served: Space) -> Iterator[Space]:
    """With the patches. Off again at the end: the cluster is shared."""
    product.upgrade({"gateway": {"patchPolicies": True}})
    served.until(lambda: programmed(served), "Envoy Gateway has patched the listener")
    yield served
    product.upgrade({})
    served.until(lambda: served.cluster.kubectl.list(KIND, served.name) == [], "no patch is left")


def programmed(space: Space) -> bool:
    """Whether Envoy Gateway has changed what it sends to Envoy by each patch of ours."""
    entries: list[dict[str, Any]] = [
        one
        for policy in space.cluster.kubectl.list(KIND, space.name)
        for ancestor in policy.get("status", {}).get("ancestors", ())
        for one in ancestor["conditions"]
        if one["type"] == "Programmed"
    ]
    return bool(entries) and all(one["status"] == "True" for one in entries)


async def test_requests_are_placed(patched: Space, session: aiohttp.ClientSession) -> None:
    """Streamed or not, and counted by the picker."""
    url = await aside(patched.chats, "gw", PORT)
    asked = patched.picker("gw", f"p{PORT}")
    before = await aside(asked.placed)
    answers = [await chat(session, url, SHORT_PROMPT, stream=stream, model="good") for stream in (False, True)]
    assert all(one.good for one in answers), answers
    assert await aside(asked.placed) == before + 2


async def test_a_websocket_goes_through(patched: Space, session: aiohttp.ClientSession) -> None:
    """The picker is told that a request is an upgrade by headers that are not left out."""
    base = await aside(patched.base, "gw", PORT)
    async with session.ws_connect(f"{base}/v1/realtime") as socket:
        await socket.send_str("one")
        assert (await socket.receive_str(timeout=10)).endswith(" one")


async def test_an_engine_that_fails_requests_gets_none(patched: Space, session: aiohttp.ClientSession) -> None:
    """Envoy tells the picker of each try that failed. No client notices: others answer what that engine fails."""
    url, asked = await aside(patched.chats, "gw", PORT), patched.picker("gw", f"p{PORT}")
    engine = await aside(lambda: patched.direct(patched.pods("app=llm")[0]))
    async with load(session, url, SHORT_PROMPT, model="good", most=6000) as running:
        await running.more(6)
        async with session.post(f"{engine}/sim/fail", json={"reset": "before"}) as answer:
            assert answer.status == 200
        await aside(asked.until_metric, "igw_picker_endpoint_ejected", above=0)
        async with session.post(f"{engine}/sim/fail", json={"clear": True}) as answer:
            assert answer.status == 200
    assert running.failed == []


async def test_switching_them_off_loses_no_request(
    product: Product, patched: Space, session: aiohttp.ClientSession
) -> None:
    """The listener changes: what began before goes on."""
    url = await aside(patched.chats, "gw", PORT)
    async with load(session, url, SHORT_PROMPT, model="good", most=6000) as running:
        await running.more(6)
        await aside(product.upgrade, {})
        kubectl = patched.cluster.kubectl
        await aside(patched.until, lambda: kubectl.list(KIND, patched.name) == [], "no patch is left")
        await running.more(60)
    assert running.failed == []
