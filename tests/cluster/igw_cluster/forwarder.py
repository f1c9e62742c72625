"""Carries connections from a port outside the private machine to an address inside.

Run as a program of its own inside the machine's network, with a listening socket that was made outside:
`forwarder.py FD HOST PORT`. Imports nothing of the package, so it can be run by its path.
"""

import asyncio
import socket
import sys

_CHUNK = 65536
_CONNECT_S = 10.0


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All bytes, then the end of them, so that a half-closed connection stays one."""
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def _carry(outer: tuple[asyncio.StreamReader, asyncio.StreamWriter], host: str, port: int) -> None:
    """One connection. Nobody inside: the outer end is closed at once, as a refusing host would."""
    reader, writer = outer
    try:
        async with asyncio.timeout(_CONNECT_S):
            inner_reader, inner_writer = await asyncio.open_connection(host, port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, inner_writer))
                group.create_task(_copy(inner_reader, writer))
        except BaseException:
            # A reset on one side is a reset on the other, not a clean end of a stream.
            inner_writer.transport.abort()
            raise
        inner_writer.close()
    except (OSError, ExceptionGroup):
        writer.transport.abort()
    else:
        writer.close()


async def serve(listener: socket.socket, host: str, port: int) -> None:
    """Until the process ends."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _carry((reader, writer), host, port)

    server = await asyncio.start_server(accepted, sock=listener)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3])))
