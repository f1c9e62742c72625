"""Tokens of `igw up`, with real Envoy and the real picker: who is let in, and where a token goes.

Engine doubles keep the headers that they got. The same is asked of Envoy Gateway in tests/cluster_e2e.
"""

import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import openai
import pytest
import pytest_asyncio
import yaml

from igw_testing.engine_double import END, EngineDouble, running_engine
from igw_testing.gateway_process import START_S
from igw_testing.gateway_texts import engine, gateway, http_route, pool
from igw_testing.standalone import Up, running_up, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWN, COMMON = 8081, 8082
CI, OLD, NEW, STAFF = "sk-ci-0123456789abcdef", "sk-old-0123456789abcdef", "sk-new-0123456789abcdef", "sk-staff-0123"
GATEWAY: Final = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"}
TOKENS: Final = (CI, OLD, NEW, STAFF)


def secret(name: str, **tokens: str) -> str:
    """A Secret of tokens by client."""
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": tokens})


def access(secret_name: str, **target: str) -> str:
    """An InferencePoolPolicy that asks for the tokens of a Secret, and has its name."""
    spec: dict[str, Any] = {"targetRefs": [target], "access": {"tokens": [{"name": secret_name}]}}
    metadata = {"name": secret_name}
    policy = {"apiVersion": "inferencegateway.io/v1alpha1", "kind": "InferencePoolPolicy", "metadata": metadata}
    return yaml.safe_dump({**policy, "spec": spec})


@dataclass
class Scene:
    """A gateway of two ports: a pool with tokens of its own, and one with the Gateway's."""

    up: Up
    engine: EngineDouble
    session: aiohttp.ClientSession

    def write(self, **files: str) -> None:
        """Replace manifest files, whole."""
        for name, text in files.items():
            fresh = self.up.manifests / f".{name}"
            fresh.write_text(text)
            fresh.replace(self.up.manifests / f"{name}.yaml")

    async def status(
        self, token: str | None, port: int = OWN, path: str = "/v1/models", headers: Mapping[str, str] | None = None
    ) -> int:
        """What becomes of a GET."""
        given = {**(headers or {}), **({} if token is None else {"authorization": f"Bearer {token}"})}
        async with self.session.get(self.up.url(port) + path, headers=given) as answer:
            return answer.status

    async def until(self, token: str | None, status: int) -> None:
        """Wait until it becomes that of it."""

        async def is_so() -> bool:
            return await self.status(token) == status

        await until(is_so, START_S)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """The gateway, as verbose as it can be."""
    folder: Path = tmp_path_factory.mktemp("access")
    manifests = folder / "manifests"
    manifests.mkdir()
    async with running_engine() as one, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        pools = [pool("llm", OWN), pool("common", COMMON), engine("llm", one.address), engine("common", one.address)]
        # A plain route too: without a pool it needs the Gateway's tokens.
        plain = http_route(backends=[], rule={"matches": [{"path": {"value": "/plain"}}]}, parent={"port": OWN})
        texts = {
            "a": "---\n".join([gateway(OWN, COMMON), *pools, plain]),
            "policies": "---\n".join([access("team", name="llm"), access("staff", **GATEWAY)]),
            "tokens": "---\n".join([secret("team", ci=CI, nightly=OLD), secret("staff", alice=STAFF)]),
        }
        for name, text in texts.items():
            (manifests / f"{name}.yaml").write_text(text)
        options = ("--log-level", "debug", "--access-log", str(folder / "access.log"))
        async with running_up(manifests, folder / "state", *options, ports=(OWN, COMMON)) as up:
            yield Scene(up, one, session)


@pytest.mark.parametrize("token", [CI, OLD])
async def test_every_token_of_the_pool_lets_in(scene: Scene, token: str) -> None:
    """Several are valid at once."""
    assert await scene.status(token) == 200


@pytest.mark.parametrize("token", [None, "", "sk-wrong", CI[:-1], CI + "x", CI.upper(), f"{CI} ", STAFF, "x" * 2000])
async def test_nothing_else_does(scene: Scene, token: str | None) -> None:
    """The Gateway's tokens neither, where a pool has its own."""
    assert await scene.status(token) == (200 if token == f"{CI} " else 401)  # HTTP drops blanks at the end


async def test_a_pool_without_tokens_needs_the_gateways(scene: Scene) -> None:
    """And so does what leads to no pool at all."""
    assert await scene.status(STAFF, COMMON) == 200
    assert await scene.status(CI, COMMON) == 401
    assert await scene.status(None, OWN, "/plain") == 401
    assert await scene.status(STAFF, OWN, "/plain") == 500  # let in, and the route leads nowhere


async def test_a_refusal_is_what_openais_clients_expect(scene: Scene) -> None:
    """Streaming or not."""
    async with openai.AsyncOpenAI(base_url=scene.up.url(OWN) + "/v1", api_key="sk-wrong", max_retries=0) as client:
        for stream in (False, True):
            with pytest.raises(openai.AuthenticationError) as refused:
                await client.completions.create(model="m", prompt="hello", stream=stream)
            assert refused.value.code == "invalid_api_key"
            assert refused.value.type == "invalid_request_error"
            assert refused.value.response.headers["www-authenticate"].startswith("Bearer ")
            assert refused.value.response.headers["content-type"] == "application/json"


async def test_an_upgrade_needs_a_token_too(scene: Scene) -> None:
    """A WebSocket is refused before it is one."""
    url = scene.up.url(OWN) + "/v1/realtime"
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await scene.session.ws_connect(url)
    assert refused.value.status == 401
    async with scene.session.ws_connect(url, headers={"authorization": f"Bearer {CI}"}) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str(timeout=20) == "one hello"


async def test_the_engine_gets_the_clients_name_and_never_its_token(scene: Scene) -> None:
    """Whatever name the client gives itself."""
    scene.engine.seen.clear()
    forged = {"x-igw-client": "admin"}
    assert await scene.status(OLD, headers=forged) == 200
    url = scene.up.url(OWN) + "/v1/completions"
    headers = {**forged, "authorization": f"Bearer {CI}"}
    async with scene.session.post(url, json={"model": "m", "prompt": "hello"}, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
    async with scene.session.get(scene.up.url(OWN) + "/v1/models", headers={"x-api-key": CI}) as answer:
        assert answer.status == 200
    assert [one.get("x-igw-client") for one in scene.engine.seen] == ["nightly", "ci", "ci"]
    assert not [one for one in scene.engine.seen if {"authorization", "x-api-key"} & set(one)]


async def test_the_gate_holds_while_the_picker_is_gone(scene: Scene) -> None:
    """It opens to nobody else, and to those with a token it stays open."""
    picker = scene.up.children()["picker"]
    os.kill(picker, signal.SIGSTOP)
    try:
        url = scene.up.url(OWN) + "/v1/completions"
        for token, status in ((CI, 200), ("sk-wrong", 401)):
            given = {"authorization": f"Bearer {token}"}
            async with scene.session.post(url, json={"model": "m", "prompt": "hello"}, headers=given) as answer:
                assert answer.status == status
    finally:
        os.kill(picker, signal.SIGCONT)


async def test_a_token_is_replaced_without_a_restart(scene: Scene) -> None:
    """The new one lets in, the old one does not any more, and what runs goes on."""
    envoy = scene.up.children()["envoy"]
    headers = {"authorization": f"Bearer {OLD}"}
    async with scene.session.post(scene.up.url(OWN) + "/stream", json={}, headers=headers) as stream:
        scene.engine.chunks.put_nowait(b"one")
        assert await stream.content.readexactly(3) == b"one"
        scene.write(tokens="---\n".join([secret("team", ci=CI, nightly=NEW), secret("staff", alice=STAFF)]))
        await scene.until(NEW, 200)
        await scene.until(OLD, 401)
        assert await scene.status(CI) == 200
        scene.engine.chunks.put_nowait(b"two")
        scene.engine.chunks.put_nowait(END)
        assert await stream.content.read() == b"two"
    assert scene.up.children()["envoy"] == envoy


async def test_a_secret_that_is_gone_lets_nobody_in(scene: Scene) -> None:
    """A mistake never opens a gate."""
    text = (scene.up.manifests / "tokens.yaml").read_text()
    scene.write(tokens=secret("staff", alice=STAFF))
    await scene.up.line("no Secret default/team; its tokens let nobody pass")
    await scene.until(CI, 401)
    scene.write(tokens=text)
    await scene.until(CI, 200)


async def test_no_token_is_in_any_file_of_ours(scene: Scene) -> None:
    """Neither in a log at level debug nor in what Envoy and the picker get; asked last, after all of the above."""
    written = [path for path in scene.up.state.parent.rglob("*") if path.is_file() and "manifests" not in path.parts]
    texts = {path: path.read_text(errors="replace") for path in written}
    assert any("envoy.log" in str(path) for path in texts)
    assert [path for path, text in texts.items() if any(token in text for token in TOKENS)] == []
    said = "\n".join((*scene.up.lines, *scene.up.problems))
    assert not [token for token in TOKENS if token in said]
    async with scene.session.get(f"{scene.up.admin}/config_dump") as answer:
        dumped = await answer.text()
    assert not [token for token in TOKENS if token in dumped]
