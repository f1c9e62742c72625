"""`igw up` serves what the manifests ask for: real Envoy, real picker, real sockets."""

import io
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from igw_testing.engine_double import EngineDouble, running_engine
from igw_testing.standalone import (
    ask,
    engines_asked,
    picker_double,
    run_up,
    running_up,
    until,
    write_users_manifests,
)

Engines = tuple[EngineDouble, EngineDouble]


async def test_the_users_manifests_serve_unchanged(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """Port 8080 leads round robin to the Service's endpoints, port 8081 through the picker to the pool's."""
    manifests = write_users_manifests(tmp_path / "manifests", (one.address for one in engines))
    async with running_up(manifests, tmp_path / "state") as up:
        assert sorted(await engines_asked(session, up.url(8080), 4)) == ["one", "one", "two", "two"]
        assert set(await engines_asked(session, up.url(8081), 4)) <= {"one", "two"}
        async with session.get(up.metrics) as answer:
            placed = re.findall(r"^igw_picker_placed_total\{.*\} (\d+)", await answer.text(), re.MULTILINE)
        assert sum(map(int, placed)) == 4, "the picker placed what came in on 8081 only"
        up.stop()
        assert await up.process.wait() == 0
        assert "igw up: stopped" in up.lines
        assert up.problems == []


async def test_a_client_cannot_choose_its_destination_or_its_lease(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """The picker names no endpoint here, so that round robin would obey a header that came through."""
    one, two = engines
    manifests = write_users_manifests(tmp_path / "manifests", [one.address, two.address])
    async with running_up(manifests, tmp_path / "state", *picker_double(tmp_path / "orders")) as up:
        forged = {"x-gateway-destination-endpoint": one.address, "x-igw-lease": "forged"}
        for _ in range(4):
            assert (await ask(session, up.url(8081), headers=forged))[0] == 200
            assert (await ask(session, up.url(8080), headers=forged))[0] == 200
        assert len(one.seen) == len(two.seen) == 4
        for headers in one.seen + two.seen:
            assert "x-gateway-destination-endpoint" not in headers
            assert headers.get("x-igw-lease") != "forged"


async def test_the_pickers_choice_is_followed_and_the_rest_of_its_list_is_tried(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """The destination header is an ordered list: a dead first choice costs a retry, not the request."""
    one, two = engines
    async with running_engine("gone") as gone:
        dead = gone.address
    orders = tmp_path / "orders"
    manifests = write_users_manifests(tmp_path / "manifests", [one.address, two.address, dead])
    async with running_up(manifests, tmp_path / "state", *picker_double(orders)) as up:
        (orders / "destination").write_text(two.address)
        assert await engines_asked(session, up.url(8081), 4) == ["two"] * 4
        (orders / "destination").write_text(f"{dead},{one.address}")
        assert await engines_asked(session, up.url(8081), 3) == ["one"] * 3
        size = 4_000_000
        async with session.post(f"{up.url(8081)}/v1/completions", data=io.BytesIO(bytes(size))) as answer:
            assert (await answer.json())["size"] == size, "a body of 4 MB is kept for the retry"


async def test_upgrades_are_placed_and_requests_without_a_body_are_not_held(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """An upgrade has no body to wait for: the picker sees its headers. A GET costs no engine anything: round robin."""
    one, two = engines
    orders = tmp_path / "orders"
    manifests = write_users_manifests(tmp_path / "manifests", [one.address, two.address])
    async with running_up(manifests, tmp_path / "state", *picker_double(orders)) as up:
        (orders / "destination").write_text(two.address)
        for _ in range(2):
            async with session.get(f"{up.url(8081)}/v1/models") as answer:
                assert answer.status == 200
            async with session.ws_connect(f"{up.url(8081)}/v1/realtime") as socket:
                await socket.send_str("hello")
                assert (await socket.receive()).data == "two hello"


async def test_a_websocket_is_in_flight_while_it_is_open(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """It weighs on its engine for as long as any other request."""
    manifests = write_users_manifests(tmp_path / "manifests", (one.address for one in engines))
    async with running_up(manifests, tmp_path / "state") as up:

        async def in_flight(count: float) -> bool:
            async with session.get(up.metrics) as answer:
                pattern = r"^igw_picker_endpoint_in_flight_requests\{.*\} (\S+)"
                return sum(map(float, re.findall(pattern, await answer.text(), re.MULTILINE))) == count

        async with session.ws_connect(f"{up.url(8081)}/v1/realtime") as socket:
            await socket.send_str("hello")
            assert str((await socket.receive()).data).endswith("hello")
            await until(lambda: in_flight(1), 10)
        await until(lambda: in_flight(0), 10)


async def test_an_unknown_backend_is_answered_503_with_the_reason(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """The rest of the gateway serves; the condition is a warning, since the backend may come later."""
    manifests = write_users_manifests(tmp_path / "manifests", [engines[0].address])
    route = manifests / "inference-gateway.yaml"
    route.write_text(
        route.read_text().replace("name: vllm-llama2-7b-pool\n          port", "name: missing\n          port")
    )
    async with running_up(manifests, tmp_path / "state") as up:
        status, answer = await ask(session, up.url(8080))
        assert status == 503 and isinstance(answer, dict)
        assert answer["error"]["code"] == "backend_not_found"
        assert "no Service default/missing" in answer["error"]["message"]
        assert await engines_asked(session, up.url(8081), 1) == ["one"]
        await up.line("BackendNotFound")


async def test_a_port_in_use_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    """One line, exit code 2."""
    async with running_engine("holder") as holder:
        manifests = write_users_manifests(tmp_path / "manifests", [holder.address])
        code, output = await run_up(
            manifests, tmp_path / "state", "--listen", f"8081=127.0.0.1:{holder.port}", ports=(8080,)
        )
    assert code == 2
    assert output.splitlines() == [
        f"problem: listener inference-gateway/llm-gw: 127.0.0.1:{holder.port} is in use by another program"
    ]
    assert not (tmp_path / "state" / "envoy.log").exists()


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("empty", "", "no Gateway in the manifests"),
        ("broken.yaml", "kind: [", "broken.yaml:"),
        (
            "gateway.yaml",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: a}\nspec: {}\n",
            "gateway.yaml",
        ),
    ],
)
async def test_any_problem_at_the_start_is_printed_and_nothing_is_started(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    """Exit code 2: half a gateway would look like a whole one."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / (name if "." in name else "pool.yaml")).write_text(text)
    code, output = await run_up(tmp_path / "manifests", tmp_path / "state")
    assert code == 2
    assert says in output
    assert not (tmp_path / "state" / "envoy.log").exists()


async def test_a_path_that_is_not_there_is_a_clear_refusal(tmp_path: Path) -> None:
    """Exit code 2."""
    code, output = await run_up(tmp_path / "nowhere", tmp_path / "state")
    assert (code, output) == (2, f"problem: {tmp_path / 'nowhere'}: no such file or directory\n")


async def test_a_picker_that_does_not_start_ends_the_start_with_its_last_words(tmp_path: Path) -> None:
    """Exit code 1, and Envoy is not left behind."""
    async with running_engine() as engine:
        manifests = write_users_manifests(tmp_path / "manifests", [engine.address])
        code, output = await run_up(
            manifests, tmp_path / "state", "--picker-command", "sh -c 'echo no model of the world; exit 3'"
        )
    assert code == 1
    assert "picker did not start: no model of the world" in output


async def test_the_picker_sees_when_the_response_begins(
    tmp_path: Path, session: aiohttp.ClientSession, engines: Engines
) -> None:
    """The first-byte filter shows the response headers with the lease, and the first chunk, and then leaves."""
    one, two = engines
    orders = tmp_path / "orders"
    manifests = write_users_manifests(tmp_path / "manifests", [one.address, two.address])
    async with running_up(manifests, tmp_path / "state", *picker_double(orders)) as up:
        (orders / "destination").write_text(one.address)
        for text in (b"a", b"b", b"c", b""):
            one.chunks.put_nowait(text)
        async with session.post(f"{up.url(8081)}/stream", json={}) as answer:
            assert await answer.read() == b"abc"
        told = await _messages(orders)
    kinds = [message["kind"] for message in told]
    assert kinds == ["request_body", "response_headers", "response_body", "end"], "of three chunks the first"
    asked = told[0]["attributes"]
    assert asked["xds.route_name"] == "default/vllm-llama2-7b-pool"
    assert asked["request.path"] == "/stream"
    assert told[1]["metadata"]["x-igw-lease"] == "lease-1"
    assert told[1]["metadata"]["x-gateway-destination-endpoint-served"] == one.address


async def _messages(orders: Path) -> list[dict[str, Any]]:
    path = orders / "messages.jsonl"
    await until(lambda: path.exists() and path.read_text().count('"end"}') >= 1, 5)
    return [json.loads(line) for line in path.read_text().splitlines()]
