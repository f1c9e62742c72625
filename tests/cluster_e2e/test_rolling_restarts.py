"""Proxies, Envoy Gateway and engines are restarted under streams and an open WebSocket: none is lost, none is cut.

The picker's and the operator's turns are in test_given_manifests. The pool of the streams fails closed, so that one
that was not placed would be one that failed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import pytest

from igw_cluster import gateway as envoy_gateway
from igw_testing.chat_load import SHORT_PROMPT, load
from igw_testing.cluster_load import WORKERS
from igw_testing.operator_manifests import draining_gateway, pool
from igw_testing.product import READY_S, Picker, Space, engine_pods
from igw_testing.special_engines import leaving_late, sockets

pytestmark = pytest.mark.timeout(240)

CHATS, SOCKETS = 8081, 8082
CLOSE: Final = {"name": "llm-picker", "port": {"number": 9002}, "failureMode": "FailClose"}
# Engines go on for so long after their Pod's end has begun: longer than a test takes on a busy machine.
LATE_S: Final = 60
aside = asyncio.to_thread


@pytest.fixture(scope="module")
def served(space: Space) -> Space:
    """Two engines that cut what they have when they are told to end, and one for WebSockets, on a port each."""
    space.apply(draining_gateway(CHATS, SOCKETS, drainTimeout="120s", minDrainDuration="1s"))
    space.apply(leaving_late(engine_pods("llm", 2, "--grace", "0.1"), LATE_S), leaving_late(sockets("sockets"), LATE_S))
    space.apply(pool("llm", CHATS, endpointPickerRef=CLOSE), pool("sockets", SOCKETS, picker="sockets-picker"))
    for name, port, engines in (("llm", CHATS, 2), ("sockets", SOCKETS, 1)):
        space.ready(name)
        picker(space, port).until_sees(engines)
        picker(space, port).until_asked(space.chats("gw", port))
    return space


def picker(space: Space, port: int) -> Picker:
    """That of a port."""
    return space.picker("gw", f"p{port}")


def of_gateway(space: Space, kind: str) -> list[str]:
    """The names of the proxies' Deployment or Pods, those on their way out too."""
    selector = f"gateway.envoyproxy.io/owning-gateway-namespace={space.name}"
    found = space.cluster.kubectl.list(kind, envoy_gateway.NAMESPACE, selector)
    return [one["metadata"]["name"] for one in found]


def restart(space: Space, deployment: str, namespace: str) -> None:
    """Replace its Pods, and wait until the new ones are ready."""
    for words in (("restart",), ("status", f"--timeout={READY_S:.0f}s")):
        space.cluster.kubectl("rollout", *words, f"deployment/{deployment}", "-n", namespace)


async def opened(space: Space, session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
    """A WebSocket."""
    return await session.ws_connect(f"{await aside(space.base, 'gw', SOCKETS)}/v1/realtime")


async def engine_of(socket: aiohttp.ClientWebSocketResponse) -> str:
    """Who is at the other end of it."""
    await socket.send_str("hello")
    engine, word = (await socket.receive_str(timeout=10)).split()
    assert word == "hello"
    return engine


@asynccontextmanager
async def streaming(space: Space, session: aiohttp.ClientSession) -> AsyncIterator[str]:
    """Streams of a second each, and a WebSocket all the while, all to their ends. Yields the latter's engine."""
    url = await aside(space.chats, "gw", CHATS)
    async with (
        load(session, url, SHORT_PROMPT, workers=WORKERS, streams=(True,), tokens=100) as running,
        await opened(space, session) as socket,
    ):
        engine = await engine_of(socket)
        await running.more(WORKERS)
        yield engine
        await running.more(WORKERS)
        assert await engine_of(socket) == engine
    assert not running.failed, running.failed


async def test_a_websocket_is_in_flight_while_it_is_open(served: Space, session: aiohttp.ClientSession) -> None:
    def counted() -> float:
        return sum(picker(served, SOCKETS).metric("igw_picker_endpoint_in_flight_requests"))

    async with await opened(served, session) as socket:
        await engine_of(socket)
        await aside(served.until, lambda: counted() == 1.0, "it counts")
        for _ in range(5):
            await engine_of(socket)
            assert await aside(counted) == 1.0
    await aside(served.until, lambda: counted() == 0.0, "it counts no more")


async def test_proxies_are_restarted(served: Space, session: aiohttp.ClientSession) -> None:
    """The old one stays until the WebSocket is closed, and takes no stream with it when it goes."""
    (deployment,), (old,) = [await aside(of_gateway, served, kind) for kind in ("deployments", "pods")]
    url = await aside(served.chats, "gw", CHATS)
    async with load(session, url, SHORT_PROMPT, workers=WORKERS, most=9000) as short:
        async with streaming(served, session):
            await aside(restart, served, deployment, envoy_gateway.NAMESPACE)
        await aside(served.until, lambda: old not in of_gateway(served, "pods"), "the old proxy has gone")
        await short.more(WORKERS)
    assert not short.failed, short.failed


async def test_envoy_gateway_is_restarted(served: Space, session: aiohttp.ClientSession) -> None:
    async with streaming(served, session):
        await aside(restart, served, "envoy-gateway", envoy_gateway.NAMESPACE)


async def test_engines_are_restarted(served: Space, session: aiohttp.ClientSession) -> None:
    """Those that end get nothing new at once, and finish what they have."""
    async with streaming(served, session) as engine:
        for name in ("llm", "sockets"):
            await aside(restart, served, name, served.name)
        for _ in range(5):
            async with await opened(served, session) as another:
                assert await engine_of(another) != engine
        assert engine in await aside(served.kubectl, "get", "pods", "-o", "name"), "it has not gone yet"
