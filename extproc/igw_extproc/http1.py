"""One keep-alive HTTP/1.1 connection that asks for pages: what the scraper needs of HTTP, at little cost.

It notices the end of the connection the moment the kernel does, also while idle: that is how a process's death shows.
It must not decide what an end or a status means, keep time, or reconnect: the scraper does.
"""

import asyncio
import errno
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, NamedTuple, cast
from urllib.parse import quote

import httptools

from igw_api import wire
from igw_api.objects import join_host_port
from igw_extproc.domain import Endpoint, EngineKind

# One read's worth. A read is handled before the next one begins, whichever connection it is on, so all share one.
_READ_SIZE: Final = 256 * 1024


class Answer(NamedTuple):
    """A whole response. `body` is as sent: no encoding is asked for."""

    status: int
    body: bytes


class Opened(Enum):
    """The connection is ready for its first request."""

    OPENED = auto()


class Lost(Enum):
    """How a connection ended, or never came about. The value is for logs and statistics."""

    REFUSED = "refused"  # nobody listens there
    UNROUTABLE = "no-route"  # no way to that address
    RESET = "reset"  # the peer, or its kernel, broke it off
    CLOSED = "closed"  # the peer closed it in good order
    MALFORMED = "malformed"  # not HTTP, or an answer that nobody asked for
    TOO_LARGE = "too-large"
    TIMEOUT = "timeout"
    OURS = "local"  # we lack descriptors, ports or memory: says nothing about the peer


News = Opened | Answer | Lost


_OUR_ERRORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)

# Where engines serve their page. trtllm-serve has something else, in JSON, at the first.
_PATHS: Final = ("/metrics", "/prometheus/metrics")


def failure(error: OSError) -> Lost:
    """What an error of connecting says of the peer."""
    match error:
        case ConnectionRefusedError():
            return Lost.REFUSED
        case ConnectionError():
            return Lost.RESET
        case TimeoutError():
            return Lost.TIMEOUT
    return Lost.OURS if error.errno in _OUR_ERRORS else Lost.UNROUTABLE


def page_requests(endpoint: Endpoint, kind: EngineKind | None) -> tuple[str, int, tuple[bytes, ...]]:
    """Host, port and the whole requests to try for the endpoint's page, the likeliest first.

    Labels override port and path; a port that is none is passed over, a path may lack its first slash, since label
    values in Kubernetes cannot hold one. Raises ValueError if the endpoint's address is not `host:port`.
    """
    host, _, own_port = endpoint.address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    labelled = endpoint.labels.get(wire.METRICS_PORT_LABEL, "")
    port = int(labelled) if labelled.isdecimal() and 0 < int(labelled) < 65536 else int(own_port)
    path = endpoint.labels.get(wire.METRICS_PATH_LABEL)
    paths: tuple[str, ...] = (quote("/" + path.lstrip("/"), safe="/?=&%"),) if path else _PATHS
    if kind is EngineKind.TENSORRT_LLM:
        paths = tuple(reversed(paths))
    authority = join_host_port(host, port)
    return host, port, tuple(page_request(authority, path) for path in paths)


def page_request(authority: str, path: str = "/metrics") -> bytes:
    """The whole request for a page of `host:port`."""
    return f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: igw\r\nAccept: text/plain\r\n\r\n".encode()


class Connection(asyncio.BufferedProtocol):
    """Reports `Opened` once, an `Answer` for each `get`, and `Lost` once unless we aborted it ourselves."""

    _buffer: Final = memoryview(bytearray(_READ_SIZE))

    def __init__(self, report: Callable[["Connection", News], None], limit: int) -> None:
        """`limit`: bytes of one response, headers included."""
        self.usable = False  # open, and nothing under way
        self.answers = 0
        self._report = report
        self._limit = limit
        self._transport: asyncio.Transport | None = None
        self._asked = self._ended = False
        self._begin()
        self._parser = httptools.HttpResponseParser(self)

    def get(self, request: bytes) -> None:
        """Send one whole request. Only while `usable`."""
        assert self.usable and self._transport is not None
        self.usable, self._asked = False, True
        self._begin()
        self._transport.write(request)

    def abort(self) -> None:
        """Drop the connection and say no more."""
        self.usable, self._ended = False, True
        if self._transport is not None:
            self._transport.abort()

    def lose(self, how: Lost) -> None:
        """Drop the connection and report why, once."""
        if not self._ended:
            self.abort()
            self._report(self, how)

    # From asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called once connected. An abort may have come first."""
        self._transport = cast(asyncio.Transport, transport)
        if self._ended:
            self._transport.abort()
            return
        self.usable = True
        self._report(self, Opened.OPENED)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next read goes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes arrived."""
        self._received += nbytes
        if self._ended:
            return
        if not self._asked:
            self.lose(Lost.MALFORMED)
            return
        if self._received > self._limit:
            self.lose(Lost.TOO_LARGE)
            return
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.lose(Lost.MALFORMED)

    def eof_received(self) -> None:
        """The peer sends no more: for a response without a length, that is its end. `connection_lost` follows."""
        self.usable = False
        if self._asked and self._headers_complete and not self._framed:
            self.on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called once, however it ended."""
        self.lose(Lost.RESET if exc is not None else Lost.CLOSED)

    # From httptools. An exception here would only surface as a parser error.

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header of the response."""
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        """The body comes next."""
        self._headers_complete = True

    def on_body(self, part: bytes) -> None:
        """Some of the body, with any chunking undone."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """The response is whole."""
        if not self._asked:  # a second response to one request
            self.lose(Lost.MALFORMED)
            return
        status = self._parser.get_status_code()
        if status < 200:  # interim: the real one follows, and both together are one answer
            self._begin(self._received)
            return
        self._asked = False
        self.answers += 1
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self.usable = self._framed and self._parser.should_keep_alive()
        self._begin()
        self._report(self, Answer(status, body))
        if not self.usable and not self._asked:
            self.abort()

    def _begin(self, received: int = 0) -> None:
        self._parts: list[bytes] = []
        self._received = received
        self._framed = self._headers_complete = False
