"""The sockets of the HTTP/2 transport: listens, moves bytes between asyncio and `Connection`, keeps time, drains.

One write per arrived chunk; answers given outside a chunk are collected until the loop's next turn. The picker's
command line starts it; nothing else does I/O in this package.
"""

import asyncio
import logging
import ssl
from typing import Final, cast

from igw_extproc.http2.connection import Connection
from igw_extproc.http2.frames import ErrorCode
from igw_extproc.http2.limits import Held, Limits
from igw_extproc.transport import Methods

log = logging.getLogger(__name__)

_SWEEP_S: Final = 1.0
# Time for the last frames to reach the peer before the socket closes; else its unread bytes would reset it.
_LINGER_S: Final = 1.0
# How long the end of streams that the peer has ended may wait for something to travel with: a system call less for
# every request, on both sides.
_LAZY_S: Final = 0.002
_WRITE_HIGH_WATER: Final = 1024 * 1024
_BACKLOG: Final = 1024


class Http2Server:
    """A gRPC server for `methods`, over cleartext (prior knowledge) or TLS with ALPN h2."""

    def __init__(self, methods: Methods, limits: Limits | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._methods = methods
        self._limits = limits or Limits()
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._peers: set[_Peer] = set()
        self.held = Held()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self.draining = False  # no new connections

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._peers)

    @property
    def open_streams(self) -> int:
        """Open streams of all connections."""
        return sum(peer.connection.open_streams for peer in self._peers)

    async def start(self, host: str, port: int) -> int:
        """Listen; the port that was bound, for port 0. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self._tls is not None:
            self._tls.set_alpn_protocols(["h2"])
        server = await loop.create_server(
            lambda: _Peer(self, self._methods, self._limits, loop),
            host,
            port,
            ssl=self._tls,
            ssl_handshake_timeout=self._limits.handshake_s if self._tls is not None else None,
            backlog=_BACKLOG,
            reuse_port=False,
        )
        self._server = server
        self._sweep_timer = loop.call_later(_SWEEP_S, self._sweep, loop)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def drain(self, grace_s: float) -> None:
        """Stop listening, send GOAWAY, wait for the open streams up to `grace_s`, then close everything."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for peer in list(self._peers):
            peer.shut_down()
        if self._peers:
            self._empty.clear()
            try:
                async with asyncio.timeout(grace_s):
                    await self._empty.wait()
            except TimeoutError:
                log.warning("drain cut short connections=%d streams=%d", self.connections, self.open_streams)
        self.close()

    def close(self) -> None:
        """Close the listener and every connection now; streams end."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        for peer in list(self._peers):
            peer.abort()

    def admit(self, peer: "_Peer") -> bool:
        """Whether this new peer may stay."""
        if len(self._peers) >= self._limits.max_connections or self.draining:
            return False
        self._peers.add(peer)
        return True

    def forget(self, peer: "_Peer") -> None:
        """The peer's socket is gone."""
        self._peers.discard(peer)
        if not self._peers:
            self._empty.set()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep_timer = loop.call_later(_SWEEP_S, self._sweep, loop)
        now = loop.time()
        for peer in list(self._peers):
            peer.sweep(now)


class _Peer(asyncio.Protocol):
    """One socket, as the driver of one `Connection`."""

    def __init__(self, server: Http2Server, methods: Methods, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.connection = Connection(methods, limits, self, server.held)
        self._server = server
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._held_since: float | None = None
        self._leaving_since: float | None = None
        self._stall_s = limits.stall_s
        self._lazy = False  # a flush is on its way

    # asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = transport = cast(asyncio.Transport, transport)
        if not self._server.admit(self):
            transport.abort()
            return
        transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER)
        self.connection.start(self._loop.time())
        self._flush()

    def data_received(self, data: bytes) -> None:
        self.connection.receive(data, self._loop.time())
        if self.connection.settle():
            self._flush()
        elif not self._lazy:
            self._lazy = True
            self._loop.call_later(_LAZY_S, self._flush)

    def pause_writing(self) -> None:
        self._held_since = self._loop.time()
        self.connection.hold()
        # What a peer does not read it may not make us answer either.
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._held_since = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        self.connection.release()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._transport = None
        self.connection.lost()
        self._server.forget(self)

    # The connection calls these

    def wake(self) -> None:
        self._loop.call_soon(self._flush)

    def alarm(self, at: float) -> None:
        if self._alarm is not None:
            if self._alarm.when() <= at and not self._alarm.cancelled():
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(at, self._expire)

    # The server calls these

    def sweep(self, now: float) -> None:
        """Once a second: deadlines of the connection and of this socket."""
        if self._leaving_since is not None and now - self._leaving_since >= _LINGER_S:
            self.abort()
        elif self._held_since is not None and now - self._held_since >= self._stall_s:
            log.warning("http2 peer does not read peer=%s", self._name())
            self.abort()
        else:
            self.connection.sweep(now)
            self._flush()

    def shut_down(self) -> None:
        """Close after the open streams."""
        self.connection.shut_down(self._loop.time())
        self._flush()

    def abort(self) -> None:
        """Close now: the last word is a GOAWAY if the socket takes it."""
        stuck = self._held_since is not None or self._leaving_since is not None
        self.connection.abort(ErrorCode.NO_ERROR, "server closes")
        self._flush()
        if self._transport is None:
            return
        if stuck:
            self._transport.abort()  # what waits to be written would keep it open
        else:
            self._transport.close()

    # Inside

    def _expire(self) -> None:
        self._alarm = None
        self.connection.expire(self._loop.time())
        self._flush()

    def _flush(self) -> None:
        self._lazy = False
        output = self.connection.take()
        transport = self._transport
        if transport is None:
            return
        if output:
            transport.write(output)
        if self.connection.closed and self._leaving_since is None:
            self._leave(transport)

    def _leave(self, transport: asyncio.Transport) -> None:
        """Say that no more comes, then let the peer close; `sweep` does it if the peer does not."""
        self._leaving_since = self._loop.time()
        fault = self.connection.fault
        if fault is not None and fault.code != ErrorCode.NO_ERROR:
            log.warning("http2 fault code=%s detail=%s peer=%s", fault.code.name, fault.detail, self._name())
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def _name(self) -> object:
        return self._transport.get_extra_info("peername") if self._transport is not None else None
