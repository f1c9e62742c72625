"""`igw bench` as a user runs it: against one engine, and policy by policy against the whole product."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from igw_testing.sims import running_sim, sim_settings

IGW = Path(sys.executable).parent / "igw"
# Two starts of the product on a machine that does other things too.
LIMIT_S = 110.0


async def igw_bench(folder: Path, *words: str, stop_at: str = "") -> tuple[int, str, str]:
    """Exit code, output, errors; nothing that was started or written to a temporary folder may be left.

    `stop_at`: interrupted, as by Ctrl-C, when a line with these words was printed.
    """
    files = folder / "temporary"
    files.mkdir()
    environment = os.environ | {"NO_COLOR": "1", "TMPDIR": str(files), "COLUMNS": "80"}
    process = await asyncio.create_subprocess_exec(
        str(IGW), "bench", *words, stdout=PIPE, stderr=PIPE, env=environment, cwd=folder
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            if stop_at:
                await printed(process, stop_at)
                process.send_signal(signal.SIGINT)
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()
    assert list(files.iterdir()) == []
    assert started_from(files) == []
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def printed(process: Process, words: str) -> None:
    """Read its errors up to a line with `words`."""
    assert process.stderr is not None
    while words not in (line := (await process.stderr.readline()).decode()):
        assert line, f"it ended without {words!r}"


def started_from(files: Path) -> list[psutil.Process]:
    """Processes that have this folder for their temporary files."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            if one.environ().get("TMPDIR") == str(files) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


async def test_an_endpoint_by_its_url_in_an_open_and_a_closed_loop(tmp_path: Path) -> None:
    async with running_sim(sim_settings("one", "fixed:1", models=("llama",))) as sim:
        for number, loop in enumerate((("--rate", "40"), ("--clients", "8"))):
            folder = tmp_path / str(number)
            folder.mkdir()
            words = ("--url", f"{sim.url}/v1/", "--requests", "60", *loop, "--json", "r.json", "--html", "r.html")
            code, output, errors = await igw_bench(folder, *words)
            assert code == 0, errors
            assert "as it is" in output
            assert "\x1b" not in output + errors
            report = json.loads((folder / "r.json").read_text())
            (run,) = report["runs"]
            assert (report["about"], run["figures"]["answered"]) == (f"llama at {sim.url}/v1", 60)
            assert [one["endpoint"] for one in run["endpoints"]] == ["one"]
            assert (folder / "r.html").read_text().startswith("<!doctype html>")


async def test_an_endpoint_that_refuses_everything_is_told_and_exit_code_1(tmp_path: Path) -> None:
    async with running_sim(sim_settings(models=("llama",))) as sim:
        await sim.server.break_with({"error_share": 1.0, "error_status": 429})
        code, output, _ = await igw_bench(tmp_path, "--url", f"{sim.url}/v1", "--requests", "20")
    assert code == 1
    assert "Not answered under as it is: 20 x HTTP 429" in output


@pytest.mark.timeout(150)
async def test_the_product_policy_by_policy_with_conversations(tmp_path: Path) -> None:
    """Real Envoy and the real picker, started for each policy: conversations find their caches under one of them."""
    load = ("-w", "chats", "--requests", "60", "--clients", "12", "--think", "0s", "--speed", "10")
    words = ("--policies", "round-robin,prefix-cache", "--engines", "3", "--queue", *load, "--json", "r.json")
    code, output, errors = await igw_bench(tmp_path, *words)
    assert code == 0, errors
    assert "prefix-cache" in output
    report = json.loads((tmp_path / "r.json").read_text())
    plain, placed = (run["figures"] for run in report["runs"])
    assert (plain["answered"], placed["answered"]) == (60, 60)
    assert placed["cached_share"] > plain["cached_share"] > 0
    assert [len(run["endpoints"]) for run in report["runs"]] == [3, 3]


@pytest.mark.timeout(150)
async def test_the_product_divided_into_engines_for_prompts_and_for_answers(tmp_path: Path) -> None:
    """With a sidecar before each engine that answers; those that compute prompts answer nobody."""
    load = ("-w", "E", "--requests", "60", "--engines", "3", "--prefillers", "1", "--rate", "6", "--warmup", "0s")
    code, output, errors = await igw_bench(tmp_path, "--policies", "pd-split", *load, "--json", "r.json")
    assert code == 0, errors
    assert "pd-split" in output
    (run,) = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert (run["figures"]["answered"], run["figures"]["failed"]) == (60, 0)
    assert [one["endpoint"] for one in run["endpoints"]] == ["engine-2", "engine-3"]
    assert run["figures"]["cached_share"] > 0.9, "prompts came from elsewhere"


async def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    words = ("--policies", "round-robin", "--engines", "2", "--duration", "100s", "--speed", "2")
    code, output, _ = await igw_bench(tmp_path, *words, stop_at="in flight 3")
    assert (code, output) == (130, "")
