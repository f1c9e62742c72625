"""`examples/prefill-decode` does what its README says: picker, Envoy, sidecars and simulated engines, as processes."""

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from igw_api.wire import PREFILL_OUTCOME_HEADER
from igw_testing.standalone import TESTS, Up, running_up, until

EXAMPLE = TESTS.parent / "examples" / "prefill-decode"
LINE = re.compile(r"igw (?:sim|sidecar) listening .*address=127\.0\.0\.1:(\d+)")
# Eight processes start for each test.
pytestmark = pytest.mark.timeout(300)
PROMPT = "tell me a story about the sea " * 40


@dataclass
class Scene:
    """The example, running. `ports` are those of its README, and what they are here."""

    up: Up
    ports: Mapping[str, str]
    processes: Mapping[str, asyncio.subprocess.Process]
    session: aiohttp.ClientSession

    async def ask(self, **more: Any) -> tuple[int, Mapping[str, str], bytes]:
        """A completion through the gateway, as the README asks."""
        body = {"model": "llama", "prompt": PROMPT, "max_tokens": 20, **more}
        async with self.session.post(f"{self.up.url(8080)}/v1/completions", json=body) as response:
            return response.status, response.headers, await response.read()

    async def statistics(self, port: str) -> dict[str, Any]:
        """Of the simulated engine that the README has on this port."""
        async with self.session.get(f"http://127.0.0.1:{self.ports[port]}/sim/state") as response:
            known: dict[str, Any] = json.loads(await response.read())["statistics"][0]
        return known

    async def idle(self) -> bool:
        """No engine holds KV for anybody."""
        held = [await self.statistics(port) for port in ("8001", "8002", "8011", "8012")]
        return not any(one["kv_used_blocks"] + one["kept"] + one["loading"] for one in held)


def readme() -> list[list[str]]:
    """The README's commands that start something."""
    lines = re.findall(r"^    (igw (?:sim|sidecar) .*)$", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
    return [shlex.split(line) for line in lines]


@asynccontextmanager
async def started(
    words: Sequence[str], ports: dict[str, str], option: str, count: int
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A command of the README on a port from the system; adds its ports to `ports`."""
    at = words.index(option) + 1
    first = words[at]
    moved = [re.sub(r"(?<=127\.0\.0\.1:)\d+", lambda found: ports[found.group()], word) for word in words[1:]]
    moved[at - 1] = "0"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "igw_operator", *moved, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(90):
            for index in range(count):
                found = LINE.match((await process.stdout.readline()).decode())
                assert found
                ports[str(int(first) + index)] = found.group(1)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def scene(
    folder: Path, session: aiohttp.ClientSession, change: tuple[str, str] = ("", "")
) -> AsyncIterator[Scene]:
    """The whole example; `change` replaces a text in its pool.yaml."""
    ports: dict[str, str] = {}
    processes = {}
    async with AsyncExitStack() as stack:
        for words in readme():
            sim = words[1] == "sim"
            option, count = ("--port", int(words[words.index("--count") + 1])) if sim else ("--listen", 1)
            name = words[words.index("--name") + 1] if sim else words[words.index("--listen") + 1]
            processes[name] = await stack.enter_async_context(started(words, ports, option, count))
        manifests = Path(shutil.copytree(EXAMPLE, folder / "manifests"))
        endpoints = manifests / "endpoints.yaml"
        endpoints.write_text(re.sub(r"(?<=port: )\d+", lambda found: ports[found.group()], endpoints.read_text()))
        pool = manifests / "pool.yaml"
        pool.write_text(pool.read_text().replace(*change))
        up = await stack.enter_async_context(running_up(manifests, folder / "state", ports=(8080,)))
        running = Scene(up, ports, processes, session)
        await until(lambda: _answered(running), 60)
        yield running


async def _answered(running: Scene) -> bool:
    return (await running.ask())[1].get(PREFILL_OUTCOME_HEADER) == "remote"


async def test_prompts_are_computed_by_one_half_of_the_engines_and_answers_by_the_other(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """And all KV is given back: by requests that end, and by those whose clients leave before their answer begins, most
    likely while the prompt is computed, or in its middle."""
    async with scene(tmp_path, session) as running:
        for number in range(8):
            status, headers, body = await running.ask(prompt=f"{number} {PROMPT}", stream=bool(number % 2))
            assert (status, headers[PREFILL_OUTCOME_HEADER]) == (200, "remote"), body
            assert headers["x-sim-engine"].startswith("decode-")
        prefilled = [await running.statistics(port) for port in ("8001", "8002")]
        decoded = [await running.statistics(port) for port in ("8011", "8012")]
        # One prefiller of the two may have had no request at all, and then tells of none that finished.
        ended = sum(one["finished"].get("length", 0) for one in prefilled)
        assert sum(one["generation_tokens"] for one in prefilled) == ended >= 8
        assert sum(one["generation_tokens"] for one in decoded) >= 8 * 15
        # Beyond the lease of 30 s: on a busy machine, a decoder may once have been unreachable in time.
        await until(running.idle, 45)
        assert running.up.problems == []
        for leave in (leave_early, leave_late):
            await leave(running)
            # The lease again: a client may leave just between the two halves.
            await until(running.idle, 60)


async def leave_early(running: Scene) -> None:
    """A client that has no patience for its long prompt."""
    body = {"model": "llama", "prompt": PROMPT * 100, "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with suppress(TimeoutError):
        async with (
            asyncio.timeout(0.5),
            running.session.post(f"{running.up.url(8080)}/v1/completions", json=body),
        ):
            pass


async def leave_late(running: Scene) -> None:
    """A client that reads the beginning of a long answer."""
    body = {"model": "llama", "prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True, "stream": True}
    async with running.session.post(f"{running.up.url(8080)}/v1/completions", json=body) as response:
        assert await response.content.readany()


@pytest.mark.parametrize(("failure", "outcomes"), [("decode", {200}), ("strict", {502, 503})])
async def test_without_prefill_engines_the_pools_failure_policy_holds(
    tmp_path: Path, session: aiohttp.ClientSession, failure: str, outcomes: set[int]
) -> None:
    async with scene(tmp_path, session, ("onPrefillFailure: decode", f"onPrefillFailure: {failure}")) as running:
        running.processes["prefill"].kill()
        await running.processes["prefill"].wait()
        answers = [await running.ask() for _ in range(6)]
        assert {status for status, _, _ in answers} <= outcomes
        assert all(headers.get(PREFILL_OUTCOME_HEADER) != "remote" for _, headers, _ in answers)
