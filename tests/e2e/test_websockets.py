"""WebSockets: placed like requests, in flight while they are open, and left to end by everything that is restarted."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from igw_operator.plan.model import Resilience
from igw_testing.engine_double import GOING_AWAY, EngineDouble, running_engine
from igw_testing.gateway_process import Gateway, running_gateway
from igw_testing.standalone import endpoint_list, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

Engines = tuple[EngineDouble, EngineDouble]
Socket = aiohttp.ClientWebSocketResponse

SEEN_S = 30.0  # on a busy machine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines() -> AsyncIterator[Engines]:
    """Two that say that they have nothing to do, whatever is open: no real one counts a WebSocket on which all wait."""
    async with running_engine("one") as one, running_engine("two") as two:
        yield one, two


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, engines: Engines) -> AsyncIterator[Gateway]:
    """A gateway as it is by default."""
    async with running_gateway(tmp_path_factory.mktemp("gateway"), [one.address for one in engines]) as running:
        yield running


async def opened(gateway: Gateway) -> Socket:
    """A WebSocket by way of the pool's port."""
    return await gateway.session.ws_connect(f"{gateway.up.url(8081)}/v1/realtime")


async def engine_of(socket: Socket) -> str:
    """Who is at the other end of it."""
    await socket.send_str("hello")
    name, word = (await socket.receive_str(timeout=SEEN_S)).split()
    assert word == "hello"
    return name


async def leave(gateway: Gateway, *addresses: str) -> None:
    """Let only these endpoints be in the list, and wait until all have taken that over."""
    (gateway.up.manifests / "endpoints.yaml").write_text(endpoint_list(addresses))

    async def are_known() -> bool:
        return (await gateway.numbers("igw_picker_endpoint_available")).keys() == set(addresses)

    await until(are_known, SEEN_S, gateway.picker_log)


async def tell(engines: Engines) -> None:
    """Wait until each has said twice how much it has to do: the picker heard it at least once."""
    wanted = [one.pages + 2 for one in engines]
    await until(lambda: all(one.pages >= pages for one, pages in zip(engines, wanted, strict=True)), SEEN_S)


async def test_open_websockets_weigh_on_their_engines(gateway: Gateway, engines: Engines) -> None:
    """Although their engines do not count them: the next one goes where there are fewer."""
    one, two = engines
    await gateway.sees(one.address, two.address)
    async with AsyncExitStack() as stack:
        found: Counter[str] = Counter()
        for _ in range(2):
            for _ in engines:
                found[await engine_of(await stack.enter_async_context(await opened(gateway)))] += 1
            await tell(engines)
        assert found == {"one": 2, "two": 2}
        await gateway.in_flight_is(**{one.address: 2, two.address: 2})
    await gateway.in_flight_is()


async def test_an_upgrade_that_is_refused_is_tried_elsewhere_and_counts_there(
    gateway: Gateway, engines: Engines
) -> None:
    one, two = engines
    one.status = 503
    async with await opened(gateway) as first, await opened(gateway) as second:
        assert [await engine_of(socket) for socket in (first, second)] == ["two", "two"]
        await gateway.in_flight_is(**{two.address: 2})
    one.status = 200


async def test_what_an_engine_says_when_it_leaves_reaches_the_client(gateway: Gateway) -> None:
    async with await opened(gateway) as socket:
        await socket.send_str(GOING_AWAY)
        assert (await socket.receive(timeout=SEEN_S)).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == aiohttp.WSCloseCode.GOING_AWAY


async def test_a_websocket_stays_open_while_all_else_changes(gateway: Gateway, engines: Engines) -> None:
    """Its endpoint leaves the list, the picker is replaced, and nothing is said for longer than idle connections live.

    New ones go elsewhere at once.
    """
    async with await opened(gateway) as socket:
        name = await engine_of(socket)
        (stays,) = (one for one in engines if one.name != name)
        await leave(gateway, stays.address)
        for _ in range(4):
            async with await opened(gateway) as another:
                assert await engine_of(another) == stays.name
        started = gateway.pickers_started()
        os.kill(gateway.up.children()["picker"], signal.SIGTERM)
        await gateway.picker_listens(started)
        await asyncio.sleep(Resilience().upstream_idle + 1.0)
        assert await engine_of(socket) == name
    await leave(gateway, *(one.address for one in engines))


async def test_the_end_waits_for_websockets_and_then_closes_them(tmp_path: Path, engines: Engines) -> None:
    """Envoy passes bytes and adds none: what it closes itself has no closing word."""
    addresses = [one.address for one in engines]
    async with running_gateway(tmp_path, addresses, "--drain-timeout", "6") as gateway, await opened(gateway) as socket:
        name = await engine_of(socket)
        gateway.up.stop()
        await gateway.up.line("draining: 1 request", SEEN_S)
        with pytest.raises(aiohttp.ClientConnectorError):
            await opened(gateway)
        assert await engine_of(socket) == name
        assert (await socket.receive(timeout=SEEN_S)).type is aiohttp.WSMsgType.CLOSED
        assert socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
        assert await asyncio.wait_for(gateway.up.process.wait(), SEEN_S) == 0
