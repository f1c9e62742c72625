"""The server's sockets: deadlines, limits on connections, peers that do not read, and closing."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from igw_extproc.http2 import Http2Server, Limits
from igw_testing.http2_peers import (
    DATA,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    PREFACE,
    SETTINGS,
    Frame,
    Talk,
    Talks,
    data,
    frame,
    headers,
    message,
    nothing,
    parse,
    settings,
    until,
    window,
)

CERTIFICATE = Path(__file__).parent / "localhost.pem"


async def read_to_end(reader: asyncio.StreamReader) -> list[Frame]:
    """All frames until the server closes."""
    async with asyncio.timeout(10):
        found, rest = parse(await reader.read())
    assert rest == b""
    return found


async def test_a_peer_without_a_preface_is_closed_in_time() -> None:
    server = Http2Server(Talks().methods, Limits(handshake_s=1.0))
    reader, writer = await asyncio.open_connection("127.0.0.1", await server.start("127.0.0.1", 0))
    assert [one.kind for one in await read_to_end(reader)] == [SETTINGS, 8, GOAWAY]
    writer.close()
    server.close()


async def test_a_fault_is_told_before_the_connection_closes() -> None:
    """Even to a peer that goes on sending: an early close would reset the socket and lose the GOAWAY."""
    server = Http2Server(Talks().methods)
    reader, writer = await asyncio.open_connection("127.0.0.1", await server.start("127.0.0.1", 0))
    writer.write(PREFACE + frame(SETTINGS, 0, 0, (b"\0\4" + bytes(4)) * 400) + bytes(100_000))
    last = (await read_to_end(reader))[-1]
    assert (last.kind, last.code) == (GOAWAY, ENHANCE_YOUR_CALM)
    await until(lambda: server.connections == 1)
    writer.close()
    await until(lambda: server.connections == 0)
    server.close()


async def test_a_faulty_peer_that_never_closes_is_closed() -> None:
    server = Http2Server(Talks().methods)
    _, writer = await asyncio.open_connection("127.0.0.1", await server.start("127.0.0.1", 0))
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await until(lambda: server.connections == 1)
    await until(lambda: server.connections == 0)
    writer.close()
    server.close()


async def test_connections_above_the_limit_are_closed_and_room_comes_back() -> None:
    server = Http2Server(Talks().methods, Limits(max_connections=1))
    port = await server.start("127.0.0.1", 0)
    _, first = await asyncio.open_connection("127.0.0.1", port)
    await until(lambda: server.connections == 1)
    reader, second = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    first.close()
    await until(lambda: server.connections == 0)
    _, third = await asyncio.open_connection("127.0.0.1", port)
    await until(lambda: server.connections == 1)
    second.close()
    third.close()
    server.close()
    await until(lambda: server.connections == 0)


async def test_a_peer_that_does_not_read_is_held_back_and_then_dropped() -> None:
    """Its windows are open, so only the full socket tells: we stop reading it, hold a bounded amount, and give up."""
    chunk = bytes(100_000)
    talks = Talks(lambda talk, _: talk.call.send(chunk))
    server = Http2Server(talks.methods, Limits(stall_s=1.5, max_queued=500_000))
    port = await server.start("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setblocking(False)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, PREFACE + settings(p4=2**31 - 1) + window(0, 2**30) + headers(1))
        request = data(1, message(b"x" * 1000)) * 16
        with pytest.raises((ConnectionError, TimeoutError)):
            async with asyncio.timeout(20):
                while True:
                    await loop.sock_sendall(peer, request)
        await until(lambda: server.connections == 0)
    # Sent and held: what the kernel's buffers took, and our own bounds.
    assert len(talks.all[0].received) < 1000
    assert talks.all[0].ends == 1
    server.close()


async def test_a_slow_reader_gets_everything_once_it_reads() -> None:
    count, size = 100, 100_000

    def flood(talk: Talk, _: bytes) -> None:
        for number in range(count):
            talk.call.send(bytes([number]) * size)
        talk.call.finish()

    server = Http2Server(Talks(flood).methods)
    reader, writer = await asyncio.open_connection("127.0.0.1", await server.start("127.0.0.1", 0), limit=65_536)
    writer.write(PREFACE + settings(p4=2**31 - 1) + window(0, 2**30) + headers(1) + data(1, message(b"go"), end=True))
    found: list[Frame] = []
    rest = b""
    async with asyncio.timeout(20):
        while not found or found[-1].kind != HEADERS or len(found) < 5:
            more, rest = parse(rest + await reader.read(65_536))
            found += more
    text = b"".join(one.payload for one in found if one.kind == DATA)
    assert text == b"".join(message(bytes([number]) * size) for number in range(count))
    writer.close()
    server.close()
    await until(lambda: server.connections == 0)


async def test_over_tls_h2_is_chosen_and_http1_is_not_spoken() -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)
    server = Http2Server(Talks().methods, tls=tls)
    port = await server.start("127.0.0.1", 0)
    client = ssl.create_default_context(cafile=str(CERTIFICATE))
    client.set_alpn_protocols(["http/1.1", "h2"])
    _, chosen = await asyncio.open_connection("127.0.0.1", port, ssl=client)
    assert chosen.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    chosen.close()
    client.set_alpn_protocols(["http/1.1"])
    reader, other = await asyncio.open_connection("127.0.0.1", port, ssl=client)
    other.write(b"GET / HTTP/1.1\r\n\r\n")
    assert (await read_to_end(reader))[-1].kind == GOAWAY
    other.close()
    server.close()
    await until(lambda: server.connections == 0)


async def test_closing_ends_every_stream_at_once_and_frees_the_port() -> None:
    talks = Talks(nothing)
    server = Http2Server(talks.methods)
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(PREFACE + settings() + headers(1))
    await until(lambda: server.open_streams == 1)
    server.close()
    assert talks.all[0].ends == 1
    assert (await read_to_end(reader))[-1].kind == GOAWAY
    writer.close()
    again = Http2Server(talks.methods)
    assert await again.start("127.0.0.1", port) == port
    again.close()
