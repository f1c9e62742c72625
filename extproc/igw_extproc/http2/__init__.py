"""The picker's own gRPC server transport: HTTP/2 as a sans-I/O state machine under a thin asyncio driver.

It moves whole gRPC messages between sockets and conversations (`igw_extproc.transport`), and knows nothing of what
they say. Layers, top first: server, connection, calls, streams and hpack_cache, then the pure parts: deframe,
request, responses, limits, frames.
"""

from igw_extproc.http2.limits import Limits
from igw_extproc.http2.server import Http2Server

__all__ = ["Http2Server", "Limits"]
