"""`igw sim` as a process: what it prints, how it ends, what it refuses."""

import asyncio
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

LINE = re.compile(r"igw sim listening name=(\S+) engine=(\S+) address=(127\.0\.0\.1:\d+)\n")


async def start(*options: str) -> Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "igw_sim", *options, stdout=PIPE, stderr=PIPE)


@asynccontextmanager
async def process(*options: str) -> AsyncIterator[Process]:
    """A process of our own, gone at the end whatever happens."""
    started = await start(*options)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def listening(sim: Process) -> tuple[str, str, str]:
    """Name, dialect and address, from the next line."""
    assert sim.stdout is not None
    async with asyncio.timeout(20):
        line = (await sim.stdout.readline()).decode()
    found = LINE.fullmatch(line)
    assert found, line
    return found[1], found[2], found[3]


async def complete(address: str) -> str:
    """Ask once; the name of who answered."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/v1/completions", json={"prompt": "a", "model": "m"}) as response,
    ):
        assert response.status == 200
        await response.read()
        return response.headers["x-sim-engine"]


async def test_it_says_where_it_listens_and_ends_on_sigterm() -> None:
    async with process("--name", "a", "--engine", "sglang", "--model", "m", "--time-scale", "20") as sim:
        name, engine, address = await listening(sim)
        assert (name, engine) == ("a", "sglang")
        assert await complete(address) == "a"
        sim.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(sim.wait(), 20) == 0


async def test_a_running_request_is_finished_after_sigterm() -> None:
    async with process("--preset", "tiny", "--model", "m", "--output-tokens", "fixed:300", "--grace", "20") as sim:
        _, _, address = await listening(sim)
        ask = {"prompt": "a", "max_tokens": 300, "stream": True}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{address}/v1/completions", json=ask) as response,
        ):
            await response.content.readline()
            sim.send_signal(signal.SIGTERM)
            assert (await response.read()).endswith(b"data: [DONE]\n\n")
        assert await asyncio.wait_for(sim.wait(), 20) == 0


async def test_several_engines_run_in_one_process() -> None:
    async with process("--name", "e", "--count", "3", "--model", "m", "--time-scale", "20") as sim:
        engines = [await listening(sim) for _ in range(3)]
        assert [name for name, _, _ in engines] == ["e-0", "e-1", "e-2"]
        assert [await complete(address) for _, _, address in engines] == ["e-0", "e-1", "e-2"]


async def test_a_failure_may_be_there_from_the_start_and_death_ends_the_process() -> None:
    async with process("--fail", "die_after=1", "--model", "m", "--time-scale", "20") as sim:
        _, _, address = await listening(sim)
        await complete(address)
        assert await asyncio.wait_for(sim.wait(), 20) == 1


async def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with process("--port", str(port)) as sim:
            out, error = await asyncio.wait_for(sim.communicate(), 20)
    assert sim.returncode == 2
    assert out == b""
    assert error.decode() == f"igw sim: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--engine", "abacus"], "abacus"),
        (["--preset", "abacus"], "abacus"),
        (["--port", "high"], "--port"),
        (["--port", "70000"], "70000"),
        (["--headers", "late"], "late"),
        (["--time-scale", "0"], "--time-scale"),
        (["--output-tokens", "many"], "many"),
        (["--fail", "explode"], "explode"),
        (["--lora", "x", "--max-loras", "0"], "--max-loras"),
        (["--engines", "2", "--engine", "sglang"], "--engines"),
        (["--kv-blocks", "0"], "kv_blocks"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
async def test_a_bad_option_is_one_clear_line(options: list[str], word: str) -> None:
    async with process(*options) as sim:
        _, error = await asyncio.wait_for(sim.communicate(), 20)
    assert sim.returncode == 2
    assert error.decode().count("\n") == 1
    assert error.decode().startswith("igw sim: ")
    assert word in error.decode()
