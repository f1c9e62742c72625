"""A closed loop of keep-alive connections that post one body again and again: cheap, so that it disturbs little."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import cast

import httptools


@dataclass(frozen=True, slots=True)
class Loop:
    """What a loop measured. `latencies` in seconds, one for each answered request."""

    latencies: Sequence[float]
    failures: int

    def percentile(self, share: float) -> float:
        """The latency that `share` of the requests stay below."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


async def run(
    port: int,
    body: bytes,
    connections: int,
    seconds: float,
    path: str = "/v1/chat/completions",
    host: str = "127.0.0.1",
) -> Loop:
    """Post `body` over `connections` connections for `seconds`. Each waits for its answer before the next."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    head = (
        f"POST {path} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    posters = [_Poster(head.encode() + body, until, loop) for _ in range(connections)]
    for poster in posters:
        await loop.create_connection(lambda poster=poster: poster, host, port)  # type: ignore[misc]
    async with asyncio.timeout(seconds + 30):
        for poster in posters:
            await poster.done
    return Loop([one for poster in posters for one in poster.latencies], sum(poster.failures for poster in posters))


class _Poster(asyncio.Protocol):
    """One connection of the loop."""

    def __init__(self, request: bytes, until: float, loop: asyncio.AbstractEventLoop) -> None:
        self._request = request
        self._until = until
        self._loop = loop
        self._sent = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self.latencies: list[float] = []
        self.failures = 0
        self.done: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._post()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        now = perf_counter()
        self.latencies.append(now - self._sent)
        self.failures += self._parser.get_status_code() != 200
        if self._loop.time() < self._until:
            self._parser = httptools.HttpResponseParser(self)
            self._post()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _post(self) -> None:
        self._sent = perf_counter()
        self._transport.write(self._request)
