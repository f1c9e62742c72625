"""The fact that the picker's accounting rests on: its stream about a placed request lives as long as the response.

Envoy could end a stream that has nothing more to ask; for bodies that it buffers, it does not. Nobody has promised
that, so it is pinned here, for every way in which a request can end.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest
import pytest_asyncio
from aiohttp import ClientPayloadError, ClientResponse

from igw_testing.chat_load import SHORT_PROMPT, chat, chat_body
from igw_testing.gateway_process import Gateway, Sim, running_gateway, running_sims

pytestmark = pytest.mark.asyncio(loop_scope="module")

Body = io.BytesIO | AsyncIterator[bytes]

AT_ONCE = 1.0  # seconds: no timer plays a part
JSON = {"content-type": "application/json"}
LOOKS = 5  # how often the picker's page must say the same


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def process() -> AsyncIterator[Sim]:
    """The only engine."""
    async with running_sims("one", options=("--headers", "first-token")) as (sim,):
        yield sim


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[
        ("--first-byte", "--picker-transport", "http2"),
        ("--no-first-byte", "--picker-transport", "http2"),
        ("--first-byte", "--picker-transport", "grpc"),
    ],
    ids=["first-byte", "no-first-byte", "grpc"],
)
async def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, process: Sim
) -> AsyncIterator[Gateway]:
    """With the first-byte filter and without, by either transport."""
    folder = tmp_path_factory.mktemp("gateway")
    async with running_gateway(folder, [process.address], *request.param) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def engine(gateway: Gateway, process: Sim) -> AsyncIterator[Sim]:
    """The engine, in good health before each test."""
    await process.fail(gateway.session, clear=True)
    await gateway.sees(process.address)
    yield process


@asynccontextmanager
async def stalled(gateway: Gateway, engine: Sim, body: Body) -> AsyncIterator[ClientResponse]:
    """A streamed answer that has begun, and goes no further while the engine is stalled."""
    async with gateway.session.post(gateway.chat, data=body, headers=JSON) as answer:
        assert answer.status == 200, await answer.text()
        assert await answer.content.readany()
        await engine.fail(gateway.session, stall=True)
        yield answer


async def go_on(gateway: Gateway, engine: Sim) -> None:
    """Let the engine finish, quickly."""
    await engine.fail(gateway.session, stall=False, slow=0.05)


async def stays_in_flight(gateway: Gateway, engine: Sim) -> None:
    """Check that the picker counts one request, and keeps counting it."""
    await gateway.in_flight_is(**{engine.address: 1})
    for _ in range(LOOKS):
        assert await gateway.in_flight() == {engine.address: 1}


async def ends_at_once(gateway: Gateway) -> None:
    """Check that the picker soon counts nothing, and holds no stream."""
    await gateway.in_flight_is(within=AT_ONCE)
    assert await gateway.numbers("igw_picker_open_streams") == {"": 0}


def body(*, stream: bool, padding: int = 0) -> bytes:
    """A chat of 300 tokens, which is three seconds; `padding` makes it longer, and means nothing to the engine."""
    return orjson.dumps(chat_body(SHORT_PROMPT, tokens=300, stream=stream) | {"user": "x" * padding})


async def in_chunks(data: bytes) -> AsyncIterator[bytes]:
    """The same, of unknown length."""
    for at in range(0, len(data), 65536):
        yield data[at : at + 65536]


@pytest.mark.parametrize("sent", [io.BytesIO, in_chunks], ids=["length", "chunked"])
@pytest.mark.parametrize("padding", [0, 3_000_000], ids=["small", "3MB"])
async def test_a_streamed_answer_is_in_flight_until_its_last_byte(
    gateway: Gateway, engine: Sim, padding: int, sent: Callable[[bytes], Body]
) -> None:
    """Also when the body is larger than what the picker is shown of it. The client's connection stays open after."""
    async with stalled(gateway, engine, sent(body(stream=True, padding=padding))) as answer:
        await stays_in_flight(gateway, engine)
        await go_on(gateway, engine)
        assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        await ends_at_once(gateway)


async def test_a_whole_answer_is_in_flight_until_it_has_come(gateway: Gateway, engine: Sim) -> None:
    """Nothing at all passes while the engine works on it."""
    await engine.fail(gateway.session, stall=True)
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(chat(gateway.session, gateway.chat))
        await stays_in_flight(gateway, engine)
        await go_on(gateway, engine)
        assert (await asked).good
    await ends_at_once(gateway)


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "unanswered"])
async def test_a_request_ends_when_its_client_goes(gateway: Gateway, engine: Sim, begun: bool) -> None:
    """The engine gets rid of it too."""
    if begun:
        async with stalled(gateway, engine, io.BytesIO(body(stream=True))) as answer:
            await stays_in_flight(gateway, engine)
            answer.close()
            await ends_at_once(gateway)
        return
    await engine.fail(gateway.session, stall=True)
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(chat(gateway.session, gateway.chat, stream=True))
        await stays_in_flight(gateway, engine)
        asked.cancel()
        await ends_at_once(gateway)


async def test_a_request_ends_when_its_engine_dies(gateway: Gateway, engine: Sim) -> None:
    """The client gets an error, and the dead engine has nothing in flight."""
    async with stalled(gateway, engine, io.BytesIO(body(stream=True))) as answer:
        await stays_in_flight(gateway, engine)
        await engine.kill()
        await ends_at_once(gateway)
        with pytest.raises(ClientPayloadError):
            await answer.read()
    await engine.start()


async def test_many_requests_are_counted_one_by_one(gateway: Gateway, engine: Sim) -> None:
    """Each end is seen, whatever the others do."""
    await engine.fail(gateway.session, stall=True)
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(chat(gateway.session, gateway.chat, stream=bool(at % 2))) for at in range(20)]
        for left in range(20, 10, -1):
            await gateway.in_flight_is(**{engine.address: left})
            asked[left - 1].cancel()
        await gateway.in_flight_is(within=AT_ONCE, **{engine.address: 10})
        await go_on(gateway, engine)
    assert all(one.result().good for one in asked[:10])
    await ends_at_once(gateway)
