"""An engine that costs next to nothing, in a Pod: `python -m igw_testing.bench_cluster.engine PORT PAGE`.

The upstream of `igw_bench.stub`, on all of the Pod's addresses.
"""

import asyncio
import sys
from pathlib import Path

import uvloop

from igw_bench.stub import Upstream


async def serve(port: int, page: bytes) -> None:
    """Until killed."""
    server = await asyncio.get_running_loop().create_server(lambda: Upstream(page), "0.0.0.0", port, backlog=512)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes()))
