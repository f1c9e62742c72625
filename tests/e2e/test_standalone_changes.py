"""Edits of manifests while `igw up` runs: they take effect within two seconds, and streams that run are not cut."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from igw_testing.engine_double import EngineDouble, running_engine
from igw_testing.standalone import (
    ask,
    endpoint_list,
    engines_asked,
    picker_double,
    running_up,
    until,
    write_users_manifests,
)

Engines = tuple[EngineDouble, EngineDouble]
IN_EFFECT = 2.0  # seconds from the edit


def replace_file(path: Path, text: str) -> None:
    """As editors and `kubectl` do it: a whole new file moved onto the old one."""
    fresh = path.with_suffix(".tmp")
    fresh.write_text(text)
    os.replace(fresh, path)


@asynccontextmanager
async def streaming(session: aiohttp.ClientSession, url: str, engine: EngineDouble) -> AsyncIterator[None]:
    """A response of `engine` is being streamed while the context lasts, and must arrive whole."""
    engine.chunks.put_nowait(b"first ")
    async with session.post(f"{url}/stream", json={}) as answer:
        assert answer.headers["x-engine"] == engine.name
        assert await answer.content.readany() == b"first "
        yield
        engine.chunks.put_nowait(b"second ")
        assert await answer.content.readany() == b"second "
        engine.chunks.put_nowait(b"last")
        engine.chunks.put_nowait(b"")
        assert await answer.content.read() == b"last"


async def served_only_by(session: aiohttp.ClientSession, url: str, names: set[str]) -> bool:
    """Whether requests reach these engines and no other."""
    return set(await engines_asked(session, url, 4)) == names


async def test_an_endpoint_added_or_removed_changes_who_serves_and_cuts_no_stream(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """The stream runs on the very endpoint that is taken away."""
    one, two = engines
    manifests = write_users_manifests(tmp_path / "manifests", [one.address])
    listed = manifests / "endpoints.yaml"
    async with running_up(manifests, tmp_path / "state") as up, streaming(session, up.url(8081), one):
        replace_file(listed, endpoint_list([one.address, two.address]))
        await until(lambda: served_only_by(session, up.url(8080), {"one", "two"}), IN_EFFECT)
        replace_file(listed, endpoint_list([two.address]))
        await until(lambda: served_only_by(session, up.url(8080), {"two"}), IN_EFFECT)
        await until(lambda: served_only_by(session, up.url(8081), {"two"}), IN_EFFECT)
        assert f"-{one.address}" in "\n".join(up.lines)


async def test_a_route_that_moves_to_another_port_leaves_running_streams_alone(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """Attaching the pool elsewhere empties the old port for new requests only; its cluster goes away later."""
    one, _ = engines
    manifests = write_users_manifests(tmp_path / "manifests", [one.address])
    pool = manifests / "inference-gateway-llm.yaml"
    gateway = manifests / "inference-gateway.yaml"
    async with running_up(manifests, tmp_path / "state") as up, streaming(session, up.url(8081), one):
        without_route, _, _ = gateway.read_text().rpartition("---\n")
        replace_file(gateway, without_route)
        replace_file(pool, pool.read_text().replace("port: 8081", "port: 8080"))
        await until(lambda: status_is(session, up.url(8081), 404), IN_EFFECT)
        await until(lambda: served_only_by(session, up.url(8080), {"one"}), IN_EFFECT)
        service = tmp_path / "state" / "eds_service_default_vllm-llama2-7b-pool_8000.json"
        await until(lambda: not service.exists(), 5.0)


async def test_a_port_that_is_taken_away_or_added_leaves_running_streams_alone(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """The stream's own listener is removed while it runs, and another one is opened."""
    one, _ = engines
    manifests = write_users_manifests(tmp_path / "manifests", [one.address])
    pool = manifests / "inference-gateway-llm.yaml"
    gateway = manifests / "inference-gateway.yaml"
    async with running_up(manifests, tmp_path / "state", ports=(8080, 8081, 8082)) as up:
        old = up.url(8081)
        async with streaming(session, old, one):
            replace_file(gateway, gateway.read_text().replace("port: 8081", "port: 8082"))
            replace_file(pool, pool.read_text().replace("port: 8081", "port: 8082"))
            await up.line("port=8082", IN_EFFECT)
            await until(lambda: served_only_by(session, up.url(8082), {"one"}), IN_EFFECT)
            await until(lambda: refuses_connections(old), IN_EFFECT)


async def test_a_bad_edit_is_reported_once_and_changes_nothing(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """The last good version serves on; what is right in other files still takes effect; the correction too."""
    one, two = engines
    manifests = write_users_manifests(tmp_path / "manifests", [one.address])
    pool = manifests / "inference-gateway-llm.yaml"
    good = pool.read_text()
    async with running_up(manifests, tmp_path / "state") as up:
        replace_file(pool, good.replace("targetPortNumber: 8000", "targetPortNumber: eight"))
        await up.line("targetPortNumber", IN_EFFECT)
        replace_file(manifests / "endpoints.yaml", endpoint_list([one.address, two.address]))
        await until(lambda: served_only_by(session, up.url(8080), {"one", "two"}), IN_EFFECT)
        replace_file(pool, "kind: [")
        await up.line("is not YAML", IN_EFFECT)
        assert (await ask(session, up.url(8081)))[0] == 200
        assert sum("targetPortNumber" in problem for problem in up.problems) == 1
        replace_file(pool, good.replace("port: 8081", "port: 8080"))
        await until(lambda: status_is(session, up.url(8081), 404), IN_EFFECT)


async def test_a_gateway_port_that_is_in_use_is_a_problem_of_that_port_only(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """The other ports serve on."""
    one, two = engines
    manifests = write_users_manifests(tmp_path / "manifests", [one.address])
    gateway = manifests / "inference-gateway.yaml"
    options = ("--listen", f"9999=127.0.0.1:{two.port}")
    async with running_up(manifests, tmp_path / "state", *options) as up:
        extra = "    - name: extra\n      protocol: HTTP\n      port: 9999\n"
        replace_file(gateway, gateway.read_text().replace("  listeners:\n", "  listeners:\n" + extra))
        await up.line(f"listener inference-gateway/extra: 127.0.0.1:{two.port} is in use", IN_EFFECT)
        assert await served_only_by(session, up.url(8081), {"one"})


async def test_a_config_map_mount_is_followed(tmp_path: Path, session: aiohttp.ClientSession, engines: Engines) -> None:
    """Kubernetes replaces a whole directory by moving one symbolic link."""
    one, two = engines
    mount = tmp_path / "mount"
    mount.mkdir()
    write_users_manifests(mount / "..v1", [one.address])
    write_users_manifests(mount / "..v2", [two.address])
    (mount / "..data").symlink_to("..v1")
    for path in (mount / "..v1").iterdir():
        (mount / path.name).symlink_to(Path("..data") / path.name)
    async with running_up(mount, tmp_path / "state") as up:
        assert await served_only_by(session, up.url(8081), {"one"})
        (mount / "..new").symlink_to("..v2")
        os.replace(mount / "..new", mount / "..data")
        await until(lambda: served_only_by(session, up.url(8080), {"two"}), IN_EFFECT)


async def test_a_fallen_endpoint_is_passed_over_by_round_robin_and_taken_back(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """No request fails while an engine is gone: the proxy tries the next one, then ejects the dead one."""
    one, _ = engines
    async with running_engine("falls") as falls:
        place = falls.port
        manifests = write_users_manifests(tmp_path / "manifests", [one.address, falls.address])
    async with running_up(manifests, tmp_path / "state", *picker_double(tmp_path / "orders")) as up:
        assert await engines_asked(session, up.url(8080), 12) == ["one"] * 12
        async with running_engine("falls", place):
            await until(lambda: served_only_by(session, up.url(8080), {"one", "falls"}), 20)


async def status_is(session: aiohttp.ClientSession, url: str, wanted: int) -> bool:
    """Whether a request is answered with this status."""
    return (await ask(session, url))[0] == wanted


async def refuses_connections(url: str) -> bool:
    """Whether nothing listens there any more."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return True
    writer.close()
    await writer.wait_closed()
    return False
