"""`igw demo` as a user runs it: the whole product from one command, what it prints, and that nothing is left behind."""

import asyncio
import os
import re
import shlex
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from igw_bench.demo import EXAMPLE
from igw_bench.scene import ENGINES

IGW = Path(sys.executable).parent / "igw"
SMALL = ("--any-ports", "--requests", "40", "--concurrency", "16", "--time-scale", "8")
# Seven Python processes and Envoy start on a machine that does other things too.
LIMIT_S = 80.0
ROW = re.compile(r"^(?P<label>\S+) +(?P<policy>round-robin|prefix-cache) +(?P<requests>\d+) ", re.MULTILINE)
LAST_LINE = "Ctrl-C stops everything"


def family(folder: Path) -> list[psutil.Process]:
    """The demo that has its temporary files there, and all that it started: they have its environment."""
    found = []
    for one in psutil.process_iter():
        with suppress(psutil.Error):
            if one.environ().get("TMPDIR") == str(folder) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


@dataclass(slots=True)
class Demo:
    """A running demo, and what it printed so far. `folder` is for its temporary files."""

    process: Process
    folder: Path
    text: str = ""

    async def prints(self, wanted: str) -> None:
        """Read until a line with `wanted`."""
        assert self.process.stdout is not None
        async with asyncio.timeout(LIMIT_S):
            while True:
                line = (await self.process.stdout.readline()).decode()
                self.text += line
                assert line, f"it ended without {wanted!r}:\n{self.text}"
                if wanted in line:
                    return

    async def ends(self) -> int:
        """The exit code; everything that it started or wrote must be gone by then."""
        async with asyncio.timeout(LIMIT_S):
            rest, _ = await self.process.communicate()
        self.text += rest.decode()
        assert family(self.folder) == []
        assert list(self.folder.iterdir()) == []
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def demo(folder: Path, *options: str) -> AsyncIterator[Demo]:
    """`igw demo` with these options. Ended in the end, if it still runs."""
    files = folder / "temporary"
    files.mkdir()
    environment = os.environ | {"NO_COLOR": "1", "TMPDIR": str(files), "COLUMNS": "80"}
    process = await asyncio.create_subprocess_exec(
        str(IGW), "demo", *options, stdout=PIPE, stderr=STDOUT, env=environment
    )
    try:
        yield Demo(process, files)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()


async def run(folder: Path, *options: str) -> tuple[int, str]:
    """Exit code and output of a demo that ends by itself."""
    async with demo(folder, *options) as running:
        return await running.ends(), running.text


async def curl(line: str) -> str:
    """What this command prints."""
    process = await asyncio.create_subprocess_exec(*shlex.split(line), "-sS", stdout=PIPE, stderr=STDOUT)
    async with asyncio.timeout(30):
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed
    return printed.decode()


@pytest.mark.timeout(2 * LIMIT_S)
async def test_once_it_answers_every_request_and_compares_all_endpoints(tmp_path: Path) -> None:
    """Two vLLM, one SGLang and one BladeLLM, under round robin and under the example folder's policy."""
    code, text = await run(tmp_path, "--once", *SMALL)
    assert code == 0, text
    rows = [(row["policy"], int(row["requests"])) for row in ROW.finditer(text)]
    assert len(rows) == 2 * len(ENGINES) + 1
    for engine in ENGINES:
        assert re.search(rf"^{engine.name} +round-robin", text, re.MULTILINE)
        assert re.search(rf"^{engine.label} +prefix-cache", text, re.MULTILINE)
        assert re.search(rf"{engine.name} +{engine.label} +127\.0\.0\.1:\d+", text)
    assert [count for policy, count in rows if policy == "round-robin"] == [10, 10, 10, 10, 40]
    assert sum(count for policy, count in rows if policy == "prefix-cache") == 40
    assert re.search(r"^  mean TTFT [\d,.]+ ms instead of [\d,.]+ ms \([+-]\d+%\)$", text, re.MULTILINE)
    assert "Engine times are simulated" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.timeout(3 * LIMIT_S)
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
async def test_it_stays_up_for_the_reader_to_try_until_ctrl_c(tmp_path: Path) -> None:
    """The lines it prints work as printed."""
    async with demo(tmp_path, *SMALL) as running:
        await running.prints(LAST_LINE)
        streaming, whole = (line for line in running.text.splitlines() if line.startswith("  curl "))
        streamed = await curl(streaming)
        assert "x-sim-engine: " in streamed
        assert streamed.rstrip().endswith("data: [DONE]")
        answered = await curl(whole)
        assert '"object":"chat.completion"' in answered
        assert '"model":"meta-llama/Llama-2-7b-chat-hf"' in answered, "the picker gives the engines their own name"
        metrics = re.search(r"^Metrics +(\S+)$", running.text, re.MULTILINE)
        assert metrics
        assert "igw_picker_requests_total" in await curl(f"curl {metrics[1]}")
        assert len(family(running.folder)) == len(ENGINES) + 4  # itself, the gateway, Envoy and the picker
        running.process.send_signal(signal.SIGINT)
        assert await running.ends() == 0


@pytest.mark.timeout(3 * LIMIT_S)
@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        pytest.param("Starting", signal.SIGINT, 130, id="while-engines-start"),
        pytest.param("bladellm", signal.SIGINT, 130, id="while-the-gateway-starts"),
        pytest.param("The load", signal.SIGINT, 130, id="under-load"),
        pytest.param("The load", signal.SIGTERM, 143, id="terminated-under-load"),
    ],
)
async def test_ctrl_c_at_any_moment_leaves_nothing_behind(
    tmp_path: Path, moment: str, number: signal.Signals, code: int
) -> None:
    """Twice, as impatient people do."""
    async with demo(tmp_path, "--any-ports") as running:
        await running.prints(moment)
        running.process.send_signal(number)
        running.process.send_signal(number)
        assert await running.ends() == code, running.text
        assert "Traceback" not in running.text


@pytest.mark.timeout(3 * LIMIT_S)
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is needed")
async def test_a_killed_demo_leaves_no_process_behind(tmp_path: Path) -> None:
    async with demo(tmp_path, "--any-ports") as running:
        await running.prints("The load")
        running.process.kill()
        await running.process.communicate()
        async with asyncio.timeout(LIMIT_S):
            while family(running.folder):  # noqa: ASYNC110 -- other processes' state
                await asyncio.sleep(0.05)


@pytest.mark.timeout(2 * LIMIT_S)
async def test_requests_that_an_engine_fails_are_counted_and_the_exit_code_says_so(tmp_path: Path) -> None:
    code, text = await run(tmp_path, "--once", *SMALL, "--fail", "vllm-2:error_share=1")
    assert code == 1, text
    assert re.search(r"^\d+ requests were not answered:$", text, re.MULTILINE)
    assert "HTTP 500: " in text
    assert re.search(r"^vllm-2 +round-robin +0 ", text, re.MULTILINE)


def _without_policy(folder: Path) -> Sequence[str]:
    (folder / "policy.yaml").unlink()
    return ()


def _without_ports(folder: Path) -> Sequence[str]:
    (folder / "gateway.yaml").unlink()
    return ()


def _without_order(folder: Path) -> Sequence[str]:
    (folder / "gateway.yaml").write_text("a: b: c")
    return ()


def _without_meaning(folder: Path) -> Sequence[str]:
    (folder / "pool.yaml").write_text((folder / "pool.yaml").read_text().replace("targetPortNumber: 8000", "x: 1"))
    return ()


@pytest.mark.timeout(2 * LIMIT_S)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(_without_policy, r"has no policy\.yaml", id="a-file-is-missing"),
        pytest.param(_without_ports, r"has no Gateway with the ports 8080 and 8081", id="the-gateway-is-missing"),
        pytest.param(_without_order, r"gateway\.yaml is not YAML", id="a-manifest-is-broken"),
        pytest.param(_without_meaning, r"gateway did not start: it ended\n +.*pool\.yaml.*", id="a-manifest-is-wrong"),
        pytest.param(
            lambda _: ("--fail", "vllm-1:lazy=1"), r"vllm-1 did not start: it ended\n +.*lazy", id="an-engine"
        ),
        pytest.param(lambda _: ("--fail", "nobody:die"), r"--fail nobody:die: must be NAME", id="an-option"),
    ],
)
async def test_what_does_not_start_is_named_with_its_last_words(tmp_path: Path, spoil: object, said: str) -> None:
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLE, folder)
    assert callable(spoil)
    code, text = await run(tmp_path, "--once", *SMALL, "-f", str(folder), *spoil(folder))
    assert code == 2, text
    assert re.search(said, text), text
    assert "Traceback" not in text
