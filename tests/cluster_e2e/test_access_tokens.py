"""Tokens on Kubernetes: Envoy Gateway asks for them, and is told by the operator which Secrets hold them.

The same is asked of `igw up` in tests/e2e; here also what happens to the listener when tokens change.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import pytest
import yaml

from igw_testing.chat_load import SHORT_PROMPT, chat_body
from igw_testing.gateway_process import MODEL
from igw_testing.operator_manifests import gateway, pool
from igw_testing.product import Space, engine_pods, manifest
from igw_testing.special_engines import sockets

pytestmark = pytest.mark.timeout(240)
OWN, COMMON = 8081, 8082
CI, OLD, NEW, STAFF = "sk-ci-0123456789abcdef", "sk-old-0123456789abcdef", "sk-new-0123456789abcdef", "sk-staff-0123"
GATEWAY: Final = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"}
aside = asyncio.to_thread


def secret(name: str, **tokens: str) -> str:
    """A Secret of tokens by client."""
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": tokens})


def access(secret_name: str, **target: str) -> str:
    """An InferencePoolPolicy that asks for the tokens of a Secret, and has its name."""
    spec: Mapping[str, Any] = {"targetRefs": [target], "access": {"tokens": [{"name": secret_name}]}}
    return manifest("inferencegateway.io/v1alpha1", "InferencePoolPolicy", secret_name, spec)


@pytest.fixture(scope="module")
def served(space: Space) -> Space:
    """A pool with tokens of its own, and one of WebSockets with the Gateway's."""
    space.apply(secret("team", ci=CI, nightly=OLD), secret("staff", alice=STAFF))
    space.apply(gateway(ports=(OWN, COMMON)), access("team", name="llm"), access("staff", **GATEWAY))
    space.apply(engine_pods("llm", 1), sockets("sockets"), pool("llm", OWN), pool("sockets", COMMON))
    space.picker("gw", f"p{OWN}").until_sees(1)
    return space


async def status(space: Space, session: aiohttp.ClientSession, token: str | None, port: int = OWN) -> int:
    """What becomes of a GET; 0 while nobody answers."""
    base = await aside(space.base, "gw", port)
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    try:
        async with session.get(f"{base}/v1/models", headers=headers) as answer:
            return answer.status
    except aiohttp.ClientError:
        return 0


async def until(space: Space, session: aiohttp.ClientSession, token: str, wanted: int) -> None:
    """Wait until it becomes that of it."""
    async with asyncio.timeout(60):
        while await status(space, session, token) != wanted:  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.1)


async def test_only_requests_with_a_token_pass(served: Space, session: aiohttp.ClientSession) -> None:
    """A pool's own tokens replace the Gateway's."""
    await until(served, session, CI, 200)
    assert await status(served, session, OLD) == 200
    for token in (None, "", "sk-wrong", CI[:-1], CI.upper(), STAFF):
        assert await status(served, session, token) == 401, token


async def test_a_refusal_is_what_openais_clients_expect(served: Space, session: aiohttp.ClientSession) -> None:
    """The same text as in standalone mode."""
    await until(served, session, CI, 200)
    url = await aside(served.chats, "gw", OWN)
    async with session.post(url, json=chat_body("Who?"), headers={"authorization": "Bearer sk-wrong"}) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["code"], error["type"]) == (401, "invalid_api_key", "invalid_request_error")
        assert answer.headers["www-authenticate"].startswith("Bearer ")


async def test_an_upgrade_needs_the_gateways_token(served: Space, session: aiohttp.ClientSession) -> None:
    """Where the pool has none of its own."""
    base = await aside(served.base, "gw", COMMON)
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await session.ws_connect(f"{base}/v1/realtime", headers={"authorization": f"Bearer {CI}"})
    assert refused.value.status == 401
    async with session.ws_connect(f"{base}/v1/realtime", headers={"authorization": f"Bearer {STAFF}"}) as socket:
        await socket.send_str("one")
        assert (await socket.receive_str(timeout=10)).endswith(" one")


async def test_a_token_is_replaced_under_a_running_stream(served: Space, session: aiohttp.ClientSession) -> None:
    """The new one lets in, the old one does not any more, and what began with the old one goes on."""
    url = await aside(served.chats, "gw", OWN)
    body = {**chat_body(SHORT_PROMPT, tokens=2000, model=MODEL), "stream": True}
    async with session.post(url, json=body, headers={"authorization": f"Bearer {OLD}"}) as stream:
        assert stream.status == 200
        await stream.content.readline()
        await aside(served.apply, secret("team", ci=CI, nightly=NEW))
        await until(served, session, NEW, 200)
        await until(served, session, OLD, 401)
        assert await status(served, session, CI) == 200
        assert await stream.content.readline()


async def test_the_gate_holds_while_the_picker_is_gone(served: Space, session: aiohttp.ClientSession) -> None:
    """It opens to nobody else, and to those with a token it stays open."""
    served.kubectl("scale", f"deployment/igw-gw-p{OWN}", "--replicas=0")
    assert await status(served, session, CI) == 200
    assert await status(served, session, "sk-wrong") == 401


async def test_a_secret_that_is_gone_lets_nobody_in(served: Space, session: aiohttp.ClientSession) -> None:
    """And says so in the pool's status. Last: the pool is of no use after it."""
    served.kubectl("delete", "secret", "team")
    await until(served, session, CI, 500)
    assert await status(served, session, None) in (401, 500)
    await aside(
        served.until, lambda: served.reason("inferencepool", "llm") == "PolicyNotAccepted", "the status says so"
    )
