"""`examples/standalone` does what its README says."""

import json
import shutil
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from igw_testing.engine_double import running_engine
from igw_testing.standalone import TESTS, ask, engines_asked, running_up

EXAMPLE = TESTS.parent / "examples" / "standalone"
USUAL = {"llama-a": 8001, "llama-b": 8002, "next": 8003, "admin": 8004}


async def test_the_example_leads_each_port_where_its_readme_says(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """The manifests unchanged, but for the ports of the processes."""
    async with AsyncExitStack() as stack:
        engines = {name: await stack.enter_async_context(running_engine(name)) for name in USUAL}
        manifests = Path(shutil.copytree(EXAMPLE, tmp_path / "manifests"))
        endpoints = manifests / "endpoints.yaml"
        for name, port in USUAL.items():
            endpoints.write_text(endpoints.read_text().replace(f"port: {port}", f"port: {engines[name].port}"))
        up = await stack.enter_async_context(running_up(manifests, tmp_path / "state"))

        assert set(await engines_asked(session, up.url(8080), 6)) <= {"llama-a", "llama-b"}
        shares = Counter(await engines_asked(session, up.url(8081), 100))
        assert set(shares) <= {"llama-a", "llama-b", "next"}
        assert 1 <= shares["next"] <= 30, "about one in ten"
        async with session.post(f"{up.url(8081)}/admin/x", data=b"") as answer:
            assert (await answer.json())["engine"] == "admin"
        async with session.get(f"{up.url(8081)}/elsewhere") as answer:
            assert answer.status == 404
            assert json.loads(await answer.text())["error"]["code"] == "route_not_found"
        assert up.problems == []
        assert (await ask(session, up.url(8080)))[0] == 200
