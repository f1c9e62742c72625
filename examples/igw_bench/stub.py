"""An upstream that costs next to nothing: a fixed answer to every POST, a fixed page to every GET.

For measuring what stands in front of it; it simulates no engine. Run as `python -m igw_bench.stub PORTS PAGE`: listens
on that many ports of the system's choice and prints them on one line.
"""

import asyncio
import re
import sys
from pathlib import Path
from typing import cast

import httptools
import uvloop

_BODY = (
    b'{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10}}'
)
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class Upstream(asyncio.Protocol):
    """One connection. Answers when a request is complete."""

    def __init__(self, page: bytes) -> None:
        self._page = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (len(page), page)
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self._transport.write(_ANSWER if self._parser.get_method() == b"POST" else self._page)


def with_room(page: bytes) -> bytes:
    """The same page of an engine in which nothing waits."""
    return re.sub(rb"(?m)^(vllm:num_requests_waiting\{.*\}) .*$", rb"\1 0", page)


async def serve(ports: int, page: bytes) -> None:
    """Until killed."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda: Upstream(page), "127.0.0.1", 0, backlog=512) for _ in range(ports)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    told = Path(sys.argv[2]).read_bytes()
    uvloop.run(serve(int(sys.argv[1]), told if "full" in sys.argv[3:] else with_room(told)))
