"""`igw sidecar` as a process: what it prints, how it ends, what it refuses."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from igw_api.wire import PREFILLER_HEADER
from igw_testing.sidecars import BODY, running_sidecar
from igw_testing.sims import becomes, idle, running_sim, sim_settings

COMMAND = [sys.executable, "-m", "igw_operator", "sidecar"]
PAGE = Path(__file__).parents[2] / "docs" / "prefill-decode.md"


@asynccontextmanager
async def running(*options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The process and where it listens."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--listen", "0", "--host", "127.0.0.1", *options, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        found = re.fullmatch(r"igw sidecar listening address=(\S+) engine=http://\S+\n", line)
        assert found, line
        yield process, f"http://{found.group(1)}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_process_splits_requests_and_ends_with_those_it_has_begun() -> None:
    async with (
        running_sim(sim_settings("p")) as prefill,
        running_sim(sim_settings("d", decode_step_s=0.02)) as decode,
        running("--engine", decode.url) as (process, url),
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session,
    ):
        headers = {PREFILLER_HEADER: f"127.0.0.1:{prefill.address[1]}"}
        body = {**BODY, "max_tokens": 20, "ignore_eos": True, "stream": True}
        async with session.post(f"{url}/v1/completions", json=body, headers=headers) as response:
            await becomes(session, decode, lambda known: known["decoding"] == 1)
            process.send_signal(signal.SIGTERM)
            text = await response.text()
        assert text.endswith("data: [DONE]\n\n")
        async with asyncio.timeout(20):
            assert await process.wait() == 0
        await idle(session, prefill, decode)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Missing option '--engine'"),
        (("--engine", "127.0.0.1:8000"), "--engine 127.0.0.1:8000: not of the form http://HOST:PORT"),
        (("--engine", "http://127.0.0.1:8000/v1"), "not of the form http://HOST:PORT"),
        (("--engine", "http://127.0.0.1:1", "--allow-prefillers", "pods"), "pods: neither an address nor a network"),
        (("--engine", "http://127.0.0.1:1", "--format", "other"), "--format"),
        (("--engine", "http://127.0.0.1:1", "--host", "192.0.2.1"), "cannot listen on 192.0.2.1:0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(options: tuple[str, ...], message: str) -> None:
    done = subprocess.run(
        [*COMMAND, "--listen", "0", *options], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("igw sidecar: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


async def test_the_page_lists_every_series_and_no_other() -> None:
    async with running_sidecar("http://127.0.0.1:1") as sidecar:
        told = re.findall(r"^# TYPE (\S+) ", sidecar.telemetry.page().decode(), re.MULTILINE)
    names = {name for name in told if not name.endswith("_created")}
    assert names == {name.strip("`") for name in re.findall(r"^\| (`igw_sidecar_\w+`)", PAGE.read_text(), re.MULTILINE)}
