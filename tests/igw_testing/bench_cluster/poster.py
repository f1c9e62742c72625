"""The load of `igw_bench.closed_loop`, as a program to be run inside the cluster's network, where no forwarder is in
its way: `python -m igw_testing.bench_cluster.poster HOST PORT SIZE SECONDS` prints how many requests were answered, and
how many of them badly.
"""

import sys
from typing import Final

import uvloop

from igw_bench import closed_loop
from igw_bench.picker import chat_body

CONNECTIONS: Final = 16


def main(host: str, port: int, size: int, seconds: float) -> None:
    """One loop."""
    body = chat_body(size, turn=1)
    loop = uvloop.run(closed_loop.run(port, body, CONNECTIONS, seconds, host=host))
    print(len(loop.latencies), loop.failures)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
