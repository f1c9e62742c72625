"""Bad manifests, bad options and bad moments: one line that says what to do, and what runs goes on running.

The messages are those of the second table of `docs/errors.md`; a message that it does not have fails, and so does a row
that nothing here provokes.
"""

import asyncio
import os
import re
import resource
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from igw_testing.engine_double import EngineDouble
from igw_testing.standalone import (
    USERS_MANIFESTS,
    Up,
    endpoint_list,
    engines_asked,
    run_up,
    running_up,
    until,
    write_users_manifests,
)

Engines = tuple[EngineDouble, EngineDouble]
DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
POOL_FILE, GATEWAY_FILE = "inference-gateway-llm.yaml", "inference-gateway.yaml"
POOL, GATEWAY = ((USERS_MANIFESTS / name).read_text() for name in (POOL_FILE, GATEWAY_FILE))
IN_EFFECT = 3.0  # seconds from the edit; a whole directory is looked for every 0.3 s


# ------------------------------------------------------------------------------------------------ bad manifests


@dataclass(frozen=True)
class Mistake:
    """A text for one of the manifest files, and what is said of it: parts of one line."""

    name: str
    file: str
    text: str | bytes
    says: tuple[str, ...]

    def make(self, manifests: Path) -> None:
        """Commit it, as editors do: a whole new file moved onto the old one."""
        fresh = manifests / "fresh.tmp"
        fresh.write_bytes(self.text if isinstance(self.text, bytes) else self.text.encode())
        os.replace(fresh, manifests / self.file)


NAME = "InferencePool default/vllm-llama2-7b-pool: "
# Two pools without models: a request's model cannot tell them apart.
RIVAL = "---\n".join(
    POOL.partition("---")[0].replace("name: vllm-llama2-7b-pool", f"name: {one}-rival") for one in "ab"
)
# Another Gateway, whose certificate is nowhere.
SECURED = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: secured}
spec:
  gatewayClassName: inference-gateway
  listeners:
    - {name: tls, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: web}]}}
"""
TWIN = GATEWAY.split("---\n")[1].replace("  name: inference-gateway\n", "  name: twin\n", 1)
MISTAKES = [
    Mistake("no YAML", POOL_FILE, "kind: [", (f"{POOL_FILE}:", "is not YAML")),
    Mistake("no text", POOL_FILE, b"\xff\xfe\0", (f"{POOL_FILE}:1: cannot be read: it is not UTF-8 text",)),
    Mistake("no manifest", POOL_FILE, "- 1\n", (f"{POOL_FILE}:1: is not a manifest",)),
    Mistake(
        "an unknown field",
        POOL_FILE,
        POOL.replace("targetPortNumber", "targetPortNumbr"),
        (f"{POOL_FILE}:10: {NAME}spec.targetPortNumbr: unknown field; did you mean targetPortNumber?",),
    ),
    Mistake(
        "a wrong value",
        POOL_FILE,
        POOL.replace("targetPortNumber: 8000", "targetPortNumber: eight"),
        (f"{POOL_FILE}:10: {NAME}spec.targetPortNumber: must be a whole number, not 'eight'",),
    ),
    Mistake(
        "a missing field",
        POOL_FILE,
        POOL.replace("  targetPortNumber: 8000\n", ""),
        (f"{NAME}spec.targetPortNumber: is required",),
    ),
    Mistake(
        "an unknown version",
        POOL_FILE,
        POOL.replace("x-k8s.io/v1alpha1\nkind: InferencePool", "x-k8s.io/v9\nkind: InferencePool"),
        (f"{POOL_FILE}:1: {NAME}apiVersion: ", "v9 is not supported; use "),
    ),
    Mistake(
        "an object defined twice",
        "z.yaml",
        POOL.partition("---")[0],
        (f"z.yaml:1: {NAME}was already defined at ", f"{POOL_FILE}:1; remove one of them"),
    ),
    Mistake(
        "a pool on a Gateway that is not there",
        POOL_FILE,
        POOL.replace("name: inference-gateway\n", "name: elsewhere\n"),
        (f"{NAME}NoMatchingParent: no Gateway default/elsewhere (known: default/inference-gateway)",),
    ),
    Mistake(
        "a pool on a listener that is not there",
        POOL_FILE,
        POOL.replace("port: 8081", "port: 9999"),
        (f"{NAME}NoMatchingParent: ", "no listener on port 9999", "llm-gw on port 8081"),
    ),
    Mistake(
        "a route on a listener that is not there",
        GATEWAY_FILE,
        GATEWAY.replace("sectionName: http", "sectionName: https"),
        ("HTTPRoute default/backend: NoMatchingParent: ", "no listener named https"),
    ),
    Mistake(
        "two pools for any model on one port",
        "z.yaml",
        RIVAL,
        ("Conflicted: port 8081 ", "attach this one to another port"),
    ),
    Mistake(
        "two Gateways on one port",
        "z.yaml",
        TWIN,
        ("is already the place of another Gateway's listener; see --listen",),
    ),
    Mistake(
        "a certificate that is not there",
        "z.yaml",
        SECURED,
        ("Gateway default/secured: InvalidCertificateRef: listener tls: no Secret default/web for its certificate",),
    ),
]


def table() -> list[str]:
    """What is said, row by row, from the document's second table."""
    rows = DOCUMENT.read_text().partition("## Manifests")[2].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows if row.startswith("| ")]
    return [row[1] for row in cells[1:]]


def matches(promise: str, line: str) -> bool:
    """Whether a row of the table is about this line. A row that quotes nothing is about options and ports of ours."""
    if not promise.startswith("`"):
        return re.search(r"--[a-z]+|127\.0\.0\.1", line) is not None
    return re.fullmatch(".+".join(map(re.escape, constants(promise))), line) is not None


def constants(promise: str) -> list[str]:
    """The parts of a row that are the same in every case."""
    return re.split("…|LAST LINE|LINE|KIND|NAME|PATH|LOG", promise.strip("`"))


def promise_for(line: str) -> str:
    """The first row of the table that is about this line."""
    said = re.sub(r"^(problem|igw (picker|sim)): ", "", line)
    found = next((promise for promise in table() if matches(promise, said)), None)
    assert found is not None, f"the document does not say {said!r}"
    return found


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
async def test_a_mistake_at_the_start_is_one_line_and_nothing_is_started(tmp_path: Path, mistake: Mistake) -> None:
    """Exit code 2: half a gateway would look like a whole one."""
    manifests = write_users_manifests(tmp_path / "manifests", ["127.0.0.1:1"])
    mistake.make(manifests)
    code, output = await run_up(manifests, tmp_path / "state", *one_place())
    lines = output.splitlines()
    assert code == 2, output
    # Of the second Gateway both listeners are in the way.
    assert len(lines) == (2 if "two Gateways" in mistake.name else 1), output
    for line in lines:
        assert line.startswith("problem: ")
        assert all(part in line for part in mistake.says), line
        promise_for(line)
    assert not (tmp_path / "state" / "envoy.log").exists()


def one_place() -> tuple[str, ...]:
    """Options that give both ports a place which only one Gateway can have."""
    return ("--listen", f"8080={free_port()}", "--listen", f"8081={free_port()}")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("nowhere",), "no such file or directory"),
        (("empty",), "no .yaml, .yml or .json files"),
        (("pool.yaml",), "there is no Gateway in the manifests, so no port would be opened; add one with a listener"),
        (("pool.yaml", "nowhere"), "no such file or directory"),
    ],
)
async def test_manifests_that_are_not_there_are_named(tmp_path: Path, names: tuple[str, ...], says: str) -> None:
    """Every path that is given must hold something."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "pool.yaml").write_text(re.sub(r"  annotations:.*?\n  name", "  name", POOL, flags=re.DOTALL))
    more = [word for name in names[1:] for word in ("-f", str(tmp_path / name))]
    code, output = await run_up(tmp_path / names[0], tmp_path / "state", *more)
    assert code == 2
    (line,) = output.splitlines()
    assert says in line
    promise_for(line)


# ------------------------------------------------------------------------------------------------ bad options


async def igw(*words: str, folder: Path | None = None) -> tuple[int | None, list[str]]:
    """Exit code and lines of an `igw` command that ends by itself."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "igw_operator", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
    )
    try:
        async with asyncio.timeout(20):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, output.decode().splitlines()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--listen", "8080"), "--listen 8080: must look like 8080=127.0.0.1:9090 or 8080=9090"),
        (("--listen", "8080="), "--listen 8080=: must look like 8080=127.0.0.1:9090 or 8080=9090"),
        (("--listen", "8080=99999"), "--listen 8080=99999: '99999' is not a port"),
        (("--listen", "99999=8080"), "--listen 99999=8080: '99999' is not a port"),
        (("--listen", "8080=localhost:1"), "'localhost' is not an IP address; host names are not resolved"),
        (("--listen", "8080=127.0.0.1"), "a port is missing after the address"),
        (("--listen-host", "localhost"), "--listen-host localhost: 'localhost' is not an IP address"),
        (("--endpoint", "127.0.0.1:8001"), "must look like app=vllm@127.0.0.1:8001"),
        (("--endpoint", "app@127.0.0.1:8001"), "must look like app=vllm@127.0.0.1:8001"),
        (("--endpoint", "a b=c@127.0.0.1:8001"), "must look like app=vllm@127.0.0.1:8001"),
        (("--endpoint", "app=vllm@engine:8001"), "'engine' is not an IP address; host names are not resolved"),
        (("--endpoint", "app=vllm@127.0.0.1:0"), "'0' is not a port"),
        (("--log-level", "loud"), "'loud' is not one of 'debug', 'info', 'warning', 'error'"),
        (("--picker-transport", "tcp"), "'tcp' is not one of 'http2', 'grpc'"),
        (("--concurrency", "0"), "--concurrency"),
        (("--drain-timeout", "-1"), "--drain-timeout"),
        (("--admin-port", "99999"), "--admin-port"),
        (("--metrics-port", "many"), "--metrics-port"),
        (("--no-such-option",), "No such option: --no-such-option"),
        (("--state-dir", "manifests/inference-gateway.yaml"), "cannot be used: File exists"),
        (("--access-log", "nowhere/log"), "Envoy refuses the configuration: unable to open file"),
    ],
)
async def test_an_option_of_up_that_makes_no_sense_is_one_line(
    tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    """Before anything is started; exit code 2."""
    write_users_manifests(tmp_path / "manifests", ["127.0.0.1:1"])
    ports = ("--listen", "8080=0", "--listen", "8081=0")
    code, lines = await igw("up", "-f", "manifests", "--state-dir", "state", *ports, *options, folder=tmp_path)
    assert code == 2, lines
    (line,) = lines
    assert line.startswith("problem: ") and says in line
    promise_for(line)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("up",), "problem: Missing option '-f' / '--filename'."),
        (("picker",), "igw picker: say where the objects come from: either --objects or --kubernetes"),
        (("picker", "--objects", "nowhere"), "path 'nowhere' does not exist"),
        (("picker", "--objects", ".", "--policy", "best"), "unknown policy `best`; choose one of: "),
        (("picker", "--objects", ".", "--transport", "tcp"), "'tcp' is not one of 'http2', 'grpc'"),
        (("picker", "--objects", ".", "--log-level", "loud"), "'loud' is not one of 'debug', "),
        (("picker", "--objects", ".", "--port", "99999"), "--port"),
        (("picker", "--objects", ".", "--max-body-bytes", "0"), "--max-body-bytes"),
        (("picker", "--objects", ".", "--tls-key", "bad.yaml"), "--tls-certificate and --tls-key go together"),
        (("picker", "--objects", ".", "--port", "0"), "bad.yaml:2: is not YAML"),
        (("sim", "--engine", "none"), "--engine none: no such dialect; there are vllm"),
        (("sim", "--port", "99999"), "--port 99999: no such port"),
        (("sim", "--fail", "boom"), "no failure is called 'boom'; there are "),
        (
            (
                "sim",
                "--no-such-option",
            ),
            "No such option: --no-such-option",
        ),
        (("upp",), "igw: no command 'upp'; there are bench, demo, explain, operator, picker, sidecar, sim, top, up"),
    ],
)
async def test_a_command_line_that_makes_no_sense_is_one_line(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    """Whichever the command; exit code 2."""
    (tmp_path / "bad.yaml").write_text("kind: [\n")
    code, lines = await igw(*words, folder=tmp_path)
    assert code == 2, lines
    (line,) = lines
    assert says in line


@pytest.mark.parametrize("command", ["up", "picker", "sim", "demo", "explain", "top", ""])
async def test_every_command_explains_itself_quickly(command: str) -> None:
    """Exit code 0, and less than 2 s of computing; how long that takes depends on what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, lines = await igw(*filter(None, (command,)), "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert code == 0
    assert any("--help" in line for line in lines)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0


async def test_a_port_that_another_program_has_is_named(tmp_path: Path) -> None:
    """Every port that a command opens: the Gateway's, the admin port, the metrics port, the picker's, an engine's."""
    manifests = write_users_manifests(tmp_path / "manifests", [])
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        up = ("up", "-f", str(manifests), "--state-dir", str(tmp_path / "state"), "--listen", "8080=0", "--listen")
        picker = ("picker", "--objects", str(manifests), "--port")
        for words, says in {
            (*up, f"8081={port}"): "listener inference-gateway/llm-gw: 127.0.0.1:",
            (*up, "8081=0", "--admin-port", port): "--admin-port: 127.0.0.1:",
            (*up, "8081=0", "--metrics-port", port): "--metrics-port: 127.0.0.1:",
            (*picker, port, "--metrics-port", "0"): "igw picker: ",
            (*picker, "0", "--metrics-port", port): "igw picker: ",
            ("sim", "--port", port): "igw sim: cannot listen on 127.0.0.1:",
        }.items():
            code, lines = await igw(*words)
            assert code == 2, lines
            (line,) = lines
            assert says in line and port in line and "in use" in line.lower()
            promise_for(line)


# ------------------------------------------------------------------------------------------------ while running


async def served_by(session: aiohttp.ClientSession, up: Up, engine: EngineDouble) -> bool:
    """Whether both ports lead to this engine alone."""
    asked = [await engines_asked(session, up.url(port), 2) for port in (8080, 8081)]
    return asked == [[engine.name] * 2] * 2


async def test_no_mistake_takes_down_what_runs(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """Each is reported once, both ports serve on, and the next good change is taken over."""
    manifests = write_users_manifests(tmp_path / "manifests", [engines[0].address])
    good = {path.name: path.read_text() for path in manifests.iterdir()}
    async with running_up(manifests, tmp_path / "state", *one_place()) as up:
        now, later = engines
        for mistake in MISTAKES:
            mistake.make(manifests)
            await until(
                partial(says, up.problems, mistake.says), IN_EFFECT, partial("{}: {}".format, mistake, up.problems)
            )
            assert await served_by(session, up, now), mistake.name
            restore(manifests, good | {"endpoints.yaml": endpoint_list([later.address])})
            await until(partial(served_by, session, up, later), IN_EFFECT)
            said = [line for line in up.problems if line.startswith("problem: ")]
            assert len(said) == (2 if "two Gateways" in mistake.name else 1), said
            assert up.process.returncode is None
            up.problems.clear()
            good["endpoints.yaml"] = endpoint_list([later.address])
            now, later = later, now


def says(lines: Iterable[str], parts: Iterable[str]) -> bool:
    return any(all(part in line for part in parts) for line in lines)


def restore(manifests: Path, good: dict[str, str]) -> None:
    """Exactly these files."""
    for name, text in good.items():
        Mistake("", name, text, ()).make(manifests)
    for path in manifests.iterdir():
        if path.name not in good:
            path.unlink()


@pytest.mark.parametrize("lost", [(GATEWAY_FILE,), (GATEWAY_FILE, POOL_FILE, "endpoints.yaml")], ids=["one", "all"])
async def test_manifests_that_vanish_take_nothing_down(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines, lost: tuple[str, ...]
) -> None:
    """They are most likely being replaced: the Gateway's file, or all of them. What comes back is taken over."""
    one, two = engines
    manifests = write_users_manifests(tmp_path / "manifests", [one.address])
    good = {path.name: path.read_text() for path in manifests.iterdir()}
    async with running_up(manifests, tmp_path / "state") as up:
        for name in lost:
            (manifests / name).unlink()
        await up.line("problem: there is no Gateway in the manifests any more; everything stays as it was", IN_EFFECT)
        assert await served_by(session, up, one)
        restore(manifests, good | {"endpoints.yaml": endpoint_list([two.address])})
        await until(lambda: served_by(session, up, two), IN_EFFECT)


async def test_a_directory_that_is_replaced_as_a_whole_is_followed(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """Moved away, another one moved there, and that one edited; and nothing happens to what runs meanwhile."""
    one, two = engines
    manifests = write_users_manifests(tmp_path / "manifests", [one.address])
    fresh = write_users_manifests(tmp_path / "fresh", [two.address])
    async with running_up(manifests, tmp_path / "state") as up:
        manifests.rename(tmp_path / "old")
        await up.line("manifests:1: cannot be read: No such file or directory", IN_EFFECT)
        assert await served_by(session, up, one)
        fresh.rename(manifests)
        await until(lambda: served_by(session, up, two), IN_EFFECT)
        restore(manifests, {path.name: path.read_text() for path in manifests.iterdir()} | listing([one.address]))
        await until(lambda: served_by(session, up, one), IN_EFFECT)


def listing(addresses: list[str]) -> dict[str, str]:
    return {"endpoints.yaml": endpoint_list(addresses)}


async def test_a_state_directory_has_one_gateway(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """A second one would overwrite the files that the first one's Envoy follows."""
    one, two = engines
    manifests = write_users_manifests(tmp_path / "manifests", [one.address])
    others = write_users_manifests(tmp_path / "others", [two.address])
    async with running_up(manifests, tmp_path / "state") as up:
        code, output = await run_up(others, tmp_path / "state")
        assert code == 2
        assert "another gateway is using it" in output
        promise_for(output.strip())
        assert await served_by(session, up, one)
    async with running_up(others, tmp_path / "state") as up:
        assert await served_by(session, up, two)


async def test_a_state_directory_that_vanishes_costs_the_change_and_not_the_gateway(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """As with a full disk: what runs has all that it needs."""
    one, two = engines
    manifests = write_users_manifests(tmp_path / "manifests", [one.address])
    state = tmp_path / "state"
    async with running_up(manifests, state) as up:
        state.rename(tmp_path / "away")
        restore(manifests, {path.name: path.read_text() for path in manifests.iterdir()} | listing([two.address]))
        await up.line("problem: the change was not taken over, what runs goes on: ", IN_EFFECT)
        promise_for(next(line for line in up.problems if "not taken over" in line))
        assert await served_by(session, up, one)
        (tmp_path / "away").rename(state)
        restore(manifests, {path.name: path.read_text() + "\n" for path in manifests.iterdir()})
        await until(lambda: served_by(session, up, two), IN_EFFECT)


async def test_a_place_that_no_gateway_asks_for_is_a_warning(tmp_path: Path, engines: Engines) -> None:
    """Not a problem: the Gateway may get that port later."""
    manifests = write_users_manifests(tmp_path / "manifests", [engines[0].address])
    async with running_up(manifests, tmp_path / "state", "--listen", "7777=0") as up:
        await up.line("warning: --listen 7777=...: no Gateway has that port (they have 8080, 8081)")


# ------------------------------------------------------------------------------------------------ the document


@pytest.mark.parametrize("promise", [promise for promise in table() if promise.startswith("`")])
def test_every_message_of_the_document_is_waited_for_by_a_test(promise: str) -> None:
    """Its longest constant part stands in one of the end-to-end tests."""
    words = max(constants(promise), key=len).strip(" :;")
    assert any(words in path.read_text() for path in Path(__file__).parent.glob("test_*.py")), words
