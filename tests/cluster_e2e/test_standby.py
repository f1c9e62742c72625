"""A pool whose standby is a provider, under Envoy Gateway: used while no engine is there, with a key that nobody sees.

Envoy Gateway reads the Secret, and the policy's status tells while there is none.
"""

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from igw_testing.chat_load import SHORT_PROMPT, chat_body
from igw_testing.operator_manifests import gateway, model, pool
from igw_testing.product import Product, Space, engine_pods, manifest, service
from igw_testing.provider_double import KEY, secret
from igw_testing.special_engines import provider

pytestmark = pytest.mark.timeout(420)
PORT = 8081
aside = asyncio.to_thread


def policy(namespace: str) -> str:
    """An empty pool is not waited for; one that comes up is used as soon as it has room."""
    cloud = {
        "name": "cloud",
        "provider": {
            "url": f"http://provider.{namespace}.svc.cluster.local:8000/compatible/v1",
            "credentialSecret": "cloud-key",
        },
        "models": {"good": "big-model"},
    }
    spec = {"targetRefs": [{"name": "llm"}], "standby": [cloud], "queue": {"waitTimeout": "200ms"}}
    return manifest("inferencegateway.io/v1alpha1", "InferencePoolPolicy", "standby", spec)


@pytest.fixture(scope="module")
def served(product: Product, space: Space) -> Iterator[Space]:
    """A pool without engines, whose provider has no key yet. Backends are off at the end: the cluster is shared."""
    product.upgrade({"gateway": {"providers": True}})
    space.apply(provider("provider"), service("provider"), engine_pods("llm", 0, model="good"))
    space.apply(gateway(), pool("llm", PORT, picker="llm-picker"), model("good"), policy(space.name))
    yield space
    product.upgrade({})


def standby_is(space: Space, status: str) -> bool:
    """Whether the policy's status says that its standbys can be used, or cannot."""
    return space.conditions("inferencepoolpolicy", "standby").get("ResolvedRefs", ("",))[0] == status


def got(space: Space) -> list[dict[str, Any]]:
    """What the provider was sent."""
    (pod,) = space.pods("app=provider")
    with urllib.request.urlopen(f"{space.direct(pod)}/got", timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)
        return found


async def test_a_provider_serves_an_empty_pool_with_a_key_that_may_come_later(
    served: Space, session: aiohttp.ClientSession
) -> None:
    url = await aside(served.chats, "gw", PORT)
    last: tuple[int, str | None] = (0, None)

    async def ask(stream: bool = False) -> tuple[int, str | None]:
        headers = {"authorization": "Bearer of-the-client", "cookie": "a=b", "x-session-id": "mine"}
        body = chat_body(SHORT_PROMPT, model="good") | {"stream": stream}
        async with session.post(url, json=body, headers=headers) as answer:
            text = await answer.text()
            assert not stream or text.endswith("data: [DONE]\n\n"), text
            return answer.status, answer.headers.get("x-igw-served-by")

    async def answers(status: int, who: str | None) -> None:
        nonlocal last
        async with asyncio.timeout(90):
            while last != (status, who):
                with suppress(aiohttp.ClientError):  # Envoy has yet to start
                    last = await ask()
                await asyncio.sleep(0.2)

    await aside(served.until, lambda: standby_is(served, "False"), "the status tells that there is no Secret")
    await answers(503, None)
    await aside(served.apply, json.dumps(secret()))
    await aside(served.until, lambda: standby_is(served, "True"), "the status tells that the standby can be used")
    await answers(200, "cloud")
    assert await ask(stream=True) == (200, "cloud")
    for one in await aside(got, served):
        assert (one["path"], one["body"]["model"]) == ("/compatible/v1/chat/completions", "big-model")
        headers = one["headers"]
        assert headers["authorization"] == KEY
        assert not {"cookie", "x-session-id", "x-igw-pool", "x-gateway-destination-endpoint"} & headers.keys()

    await aside(served.ready, "llm", 1)
    await answers(200, None)
    count = len(await aside(got, served))
    assert [await ask(stream) for stream in (False, True)] == [(200, None)] * 2
    assert len(await aside(got, served)) == count
