"""A short form of `make chaos` on one machine: what breaks in turn costs no request and no stream that it need not."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# Time for three or four faults; a busy machine needs as long again to start all and to recover.
SECONDS = 25


@pytest.mark.timeout(240)
async def test_nothing_is_lost_that_a_healthy_engine_could_have_served(tmp_path: Path) -> None:
    """With this seed: an engine, `igw up`, all engines; where time allows, the picker and Envoy."""
    words = ("--home", "standalone", "--minutes", str(SECONDS / 60), "--seed", "11004")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "igw_testing.chaos", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS / 'cluster'}", "TMPDIR": str(tmp_path)},
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    figures = json.loads(output.splitlines()[-1])
    assert (figures["failed_avoidable"], figures["streams_cut"]) == (0, 0), output.decode()
    assert process.returncode == 0, output.decode()
    assert figures["answered"] > 50
    assert os.listdir(tmp_path) == []
