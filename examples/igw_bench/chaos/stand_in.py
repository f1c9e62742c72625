"""The picker as `igw up` starts it in a chaos run: `python -m igw_bench.chaos.stand_in FILE OPTIONS...`.

While FILE says `garbage` or `silence`, another program has the picker's port: one that answers all with nonsense, or
takes connections and says nothing. Else this becomes the picker.
"""

import asyncio
import os
import sys
from pathlib import Path

GARBAGE, SILENCE = "garbage", "silence"


async def _impostor(host: str, port: int, way: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            if way == GARBAGE:
                writer.write(os.urandom(100))

    server = await asyncio.start_server(answer, host, port)
    async with server:
        await server.serve_forever()


def main(orders: Path, options: list[str]) -> None:
    """Until killed."""
    way = orders.read_text() if orders.exists() else ""
    if not way:
        os.execv(sys.executable, [sys.executable, "-m", "igw_extproc", *options])
    told = dict(zip(options[::2], options[1::2], strict=True))
    asyncio.run(_impostor(told["--host"], int(told["--port"]), way))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
