"""What floods can take of Envoy, and broken clients: bounds that good ones never meet, tried on the real one."""

import asyncio
import json
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp

from igw_operator.plan.model import ClientRules
from igw_testing.engine_double import END, EngineDouble
from igw_testing.envoy_process import running_envoy
from igw_testing.standalone import until

with warnings.catch_warnings():
    # The protobuf classes warn of their own use of pydantic.
    warnings.simplefilter("ignore", DeprecationWarning)
    from igw_operator.render.bootstrap import everything
    from igw_operator.render.files import Address
    from igw_testing.plans import engine, gateway, http_route, plan_of, service, surroundings

ANYWHERE = Address("127.0.0.1", 0)
MOST = 20
IMPATIENT = ClientRules(idle=2.0, headers_timeout=1.0, body_timeout=2.0)
WAIT_S = 30.0


@asynccontextmanager
async def running(folder: Path, behind: EngineDouble, rules: ClientRules) -> AsyncIterator[str]:
    """The address of an Envoy with few connections, whose only route leads to that engine."""
    plan = plan_of(gateway(8080), http_route(), service(), engine("web", behind.address))
    plan = replace(plan, clients=rules)
    around = replace(surroundings(plan), admin=ANYWHERE, connections=MOST)
    around = replace(around, binds=dict.fromkeys(around.binds, ANYWHERE))
    async with running_envoy(folder, everything(plan, around)) as url:
        yield url.removeprefix("http://")


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client's connection."""
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def closed(reader: asyncio.StreamReader) -> bytes:
    """What came until the other side closed."""
    async with asyncio.timeout(WAIT_S):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def test_more_connections_than_there_may_be_are_closed_and_those_that_are_there_go_on(
    tmp_path: Path, engines: tuple[EngineDouble, EngineDouble]
) -> None:
    async with running(tmp_path, engines[0], ClientRules()) as address:
        connections = [await connect(address) for _ in range(MOST)]
        request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
        for reader, writer in connections:
            writer.write(request)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        for _ in range(3):
            reader, writer = await connect(address)
            assert await closed(reader) == b""
            writer.close()
        connections[0][1].write(request)
        async with asyncio.timeout(WAIT_S):
            await connections[0][0].readuntil(b"HTTP/1.1 200")
        for _, writer in connections:
            writer.close()

        async def answered() -> bool:
            reader, writer = await connect(address)
            writer.write(request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
            found = await closed(reader)
            writer.close()
            return found.startswith(b"HTTP/1.1 200")

        await until(answered, WAIT_S)


async def test_who_sends_too_slowly_is_told_so_and_who_sends_nothing_is_disconnected(
    tmp_path: Path, engines: tuple[EngineDouble, EngineDouble]
) -> None:
    async with running(tmp_path, engines[0], IMPATIENT) as address:
        for begun in (
            b"POST / HTTP/1.1\r\nhost: a\r\n",
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf",
        ):
            reader, writer = await connect(address)
            writer.write(begun)
            head, _, body = (await closed(reader)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 408"), head
            assert json.loads(body)["error"]["code"] == "request_timeout"
            writer.close()
        reader, writer = await connect(address)
        assert await closed(reader) == b""
        writer.close()


async def test_long_streams_and_open_sockets_are_not_taken_for_slow_requests(
    tmp_path: Path, engines: tuple[EngineDouble, EngineDouble], session: aiohttp.ClientSession
) -> None:
    """Their requests have come in long since."""
    one = engines[0]
    async with (
        running(tmp_path, one, IMPATIENT) as address,
        session.ws_connect(f"http://{address}/socket") as socket,
        session.post(f"http://{address}/stream", json={}) as stream,
    ):
        # Longer than all of the impatient times.
        await asyncio.sleep(IMPATIENT.body_timeout + 2.0)
        await socket.send_str("still there")
        assert await socket.receive_str() == "one still there"
        one.chunks.put_nowait(b"data: late\n\n")
        assert await stream.content.readline() == b"data: late\n"
        one.chunks.put_nowait(END)
