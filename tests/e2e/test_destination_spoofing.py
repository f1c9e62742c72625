"""A client that names a destination or a lease itself: it reaches nobody outside the pool, and steers nothing.

One engine always has a request in flight, so the picker places every other request on the other one, and anything
else in its place shows. A trap outside the pool counts the connections that it gets.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
import pytest
import pytest_asyncio

from igw_api import wire
from igw_testing.engine_double import EngineDouble, running_engine
from igw_testing.gateway_process import MODEL, Gateway, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

Headers = list[tuple[str, str]]

DESTINATION: Final = "x-gateway-destination-endpoint"
LEASE: Final = "x-igw-lease"
ENVOYS: Final = ("x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-upstream-rq-timeout-ms", "x-envoy-max-retries")
PLACED, PLAIN = 8081, 8080

# How a client may write the header. `{}` is the address it wants to reach.
FORGERIES: dict[str, Headers] = {
    "plain": [(DESTINATION, "{}")],
    "mixed case": [("X-Gateway-Destination-ENDPOINT", "{}")],
    "repeated": [(DESTINATION, "{}"), (DESTINATION, "{}")],
    "repeated in two cases": [(DESTINATION, ""), (DESTINATION.upper(), "{}")],
    "a list": [(DESTINATION, "{},{}")],
    "with blanks": [(DESTINATION, " {} ")],
    "related names": [
        (f"{DESTINATION}-served", "{}"),
        (f"{DESTINATION}-subset", "{}"),
        ("x-envoy-original-dst-host", "{}"),
        ("envoy.lb", f"{DESTINATION}={{}}"),
    ],
    "as the host": [("host", "{}")],
}


@dataclass
class Trap:
    """An address that nobody may reach."""

    address: str = ""
    connections: int = 0

    async def caught(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Count, and close."""
        self.connections += 1
        writer.close()


@dataclass
class Scene:
    """The gateway, an engine with a request in flight, one without, and the trap."""

    gateway: Gateway
    busy: EngineDouble
    free: EngineDouble
    trap: Trap
    lease: str

    @property
    def session(self) -> aiohttp.ClientSession:
        """The client."""
        return self.gateway.session

    async def quiet(self) -> None:
        """Wait until only the request that `busy` holds is in flight."""
        await self.gateway.in_flight_is(**{self.busy.address: 1})


Ask = Callable[[Scene, int, Headers], Awaitable[str]]


async def post(scene: Scene, port: int, headers: Headers) -> str:
    """A completion. Returns the engine that answered."""
    url = f"{scene.gateway.up.url(port)}/v1/completions"
    async with scene.session.post(url, json={"model": MODEL, "prompt": "hello"}, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["engine"])


async def get(scene: Scene, port: int, headers: Headers) -> str:
    """A request without a body, likewise."""
    async with scene.session.get(f"{scene.gateway.up.url(port)}/v1/models", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["engine"])


async def upgrade(scene: Scene, port: int, headers: Headers) -> str:
    """A WebSocket, likewise."""
    async with scene.session.ws_connect(f"{scene.gateway.up.url(port)}/v1/realtime", headers=headers) as socket:
        await socket.send_str("hello")
        return str((await socket.receive()).data).split()[0]


KINDS: list[Ask] = [post, get, upgrade]


@asynccontextmanager
async def trap() -> AsyncIterator[Trap]:
    """A trap that listens."""
    made = Trap()
    server = await asyncio.start_server(made.caught, "127.0.0.1", 0)
    async with server:
        made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """All of it. The held request lasts as long as the module."""
    async with running_engine("one") as one, running_engine("two") as two, trap() as trapped:
        folder = tmp_path_factory.mktemp("gateway")
        async with running_gateway(folder, [one.address, two.address]) as gateway:
            await gateway.sees(one.address, two.address)
            for engine in (one, two):
                engine.chunks.put_nowait(b"begun ")
            body = {"model": MODEL, "prompt": "hello"}
            async with gateway.session.post(f"{gateway.up.url(PLACED)}/stream", json=body) as held:
                assert await held.content.readany() == b"begun "
                busy, free = (one, two) if held.headers["x-engine"] == "one" else (two, one)
                (lease,) = re.findall(r"placed lease=(\S+)", gateway.picker_log())
                yield Scene(gateway, busy, free, trapped, lease)
                for chunk in (b"ended", b""):
                    busy.chunks.put_nowait(chunk)
                assert await held.content.read() == b"ended", "nobody disturbed it"


def forged(name: str, address: str) -> Headers:
    """The headers of one forgery."""
    return [(header, value.replace("{}", address)) for header, value in FORGERIES[name]]


def nobody_was_fooled(scene: Scene) -> None:
    """Check that the trap is empty, and that no engine was shown where requests go, or a lease that a client sent.

    The picker's own lease goes with each request, as its name in Envoy's log of tries.
    """
    assert scene.trap.connections == 0
    seen = scene.busy.seen + scene.free.seen
    assert not any(DESTINATION in headers for headers in seen)
    assert [headers.get(LEASE) for headers in scene.busy.seen].count(scene.lease) == 1, "of the request that has it"
    leases = [headers[LEASE] for headers in seen if LEASE in headers]
    assert len(set(leases)) == len(leases), "each is the name of one request"


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.parametrize("ask", [post, upgrade], ids=["post", "upgrade"])
async def test_placement_is_the_pickers_alone(scene: Scene, ask: Ask, name: str) -> None:
    """Neither an address in the pool nor one outside changes it."""
    for address in (scene.busy.address, scene.trap.address):
        await scene.quiet()
        assert await ask(scene, PLACED, forged(name, address)) == scene.free.name
    nobody_was_fooled(scene)


async def served_in_turn(scene: Scene, ask: Ask, port: int) -> bool:
    """Whether both engines get their share of forged requests that all name one of them."""
    count = 2 * len(FORGERIES)
    names = [
        await ask(scene, port, forged(name, address))
        for name in FORGERIES
        for address in (scene.busy.address, scene.trap.address)
    ]
    nobody_was_fooled(scene)
    return abs(names.count(scene.busy.name) - count / 2) <= 1


@pytest.mark.parametrize(
    ("ask", "port"),
    [(get, PLACED), (post, PLAIN), (get, PLAIN), (upgrade, PLAIN)],
    ids=["placed-get", "plain-post", "plain-get", "plain-upgrade"],
)
async def test_round_robin_takes_no_orders(scene: Scene, ask: Ask, port: int) -> None:
    """Requests that the picker does not see: those without a body, and those on a plain port."""
    assert await served_in_turn(scene, ask, port)


@pytest.mark.parametrize("ask", KINDS, ids=["post", "get", "upgrade"])
@pytest.mark.parametrize("port", [PLACED, PLAIN], ids=["placed", "plain"])
async def test_a_forged_lease_disturbs_no_other_request(scene: Scene, ask: Ask, port: int) -> None:
    """The lease of a running request, sent with another one, does not end it, move it or answer for it."""
    await scene.quiet()
    before = await scene.gateway.numbers("igw_picker_moved_total")
    for name in (LEASE, LEASE.upper()):
        for _ in range(2):
            await ask(scene, port, [(name, scene.lease), (DESTINATION, scene.free.address)])
    await scene.quiet()
    assert await scene.gateway.numbers("igw_picker_moved_total") == before == {}
    nobody_was_fooled(scene)


@pytest.mark.parametrize("ask", KINDS, ids=["post", "get", "upgrade"])
@pytest.mark.parametrize("port", [PLACED, PLAIN], ids=["placed", "plain"])
async def test_what_is_between_us_is_not_taken_from_clients(scene: Scene, ask: Ask, port: int) -> None:
    """Neither our own names nor Envoy's: the latter would cut every answer after a millisecond."""
    forgeries = {**dict.fromkeys(wire.PRIVATE_HEADERS, "forged"), **dict.fromkeys(ENVOYS, "1")}
    await ask(scene, port, [*forgeries.items(), *((name.title(), value) for name, value in forgeries.items())])
    for headers in scene.busy.seen + scene.free.seen:
        assert not set(forgeries.items()) & set(headers.items())


@pytest.mark.parametrize("away", ["killed", "frozen"])
async def test_without_the_picker_nobody_obeys_the_client_either(scene: Scene, away: str) -> None:
    """Failing open is round robin, not the client's choice. Last, since it takes the picker away."""
    gateway = scene.gateway
    started = gateway.pickers_started()
    if away == "killed":
        gateway.kill_picker(hold=True)
    else:
        gateway.freeze_picker()
    # Before Envoy has given the picker up, and after.
    assert await post(scene, PLACED, forged("plain", scene.trap.address)) in ("one", "two")
    await gateway.picker_is_given_up()
    for ask in KINDS:
        for port in (PLACED, PLAIN):
            assert await served_in_turn(scene, ask, port)
    if away == "killed":
        gateway.release_picker()
        await gateway.picker_listens(started)
    else:
        gateway.thaw_picker()
    await gateway.picker_is_trusted()
    nobody_was_fooled(scene)
