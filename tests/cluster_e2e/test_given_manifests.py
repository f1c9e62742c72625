"""The manifests that the first users brought, applied unchanged: 8080 routes plainly, 8081 through the picker.

Then what happens to them under load: engines come and go, the picker is killed or replaced. No request ever fails.
All chats of a load have one long prompt: the picker keeps them together where it is cached, and round robin spreads
them. That tells the two apart from outside.
"""

import asyncio

import aiohttp
import openai
import pytest

from igw_testing.chat_load import SHORT_PROMPT, chat, chat_body, engines, load
from igw_testing.cluster_load import WORKERS, kept_together, spread, until_in_load
from igw_testing.gateway_process import MODEL
from igw_testing.product import MANIFESTS, Picker, Space, engine_pods, service

pytestmark = pytest.mark.timeout(240)

ENGINES = "vllm-llama2-7b-pool"
GATEWAY = "inference-gateway"
POOL = "inferencepools.v1alpha1.inference.networking.x-k8s.io"
aside = asyncio.to_thread


@pytest.fixture(scope="module")
def given(space: Space) -> Space:
    """All of it, asked by Envoy."""
    space.apply(*sorted(MANIFESTS.iterdir()), engine_pods(ENGINES), service(ENGINES))
    picker(space).until_asked(space.chats(GATEWAY, 8081))
    return space


@pytest.fixture(autouse=True)
def three_engines(given: Space) -> None:
    """As many at the start of each test, all of them known."""
    given.ready(ENGINES, replicas=3)
    three = {"ready": 3, "total": 3}
    given.until(lambda: given.get(POOL, ENGINES)["status"]["endpoints"] == three, "three engines")
    picker(given).until_sees(3)


def picker(space: Space) -> Picker:
    """That of port 8081."""
    return space.picker(GATEWAY, "llm-gw")


@pytest.mark.parametrize("port", [8080, 8081])
async def test_an_openai_client_streams(given: Space, port: int) -> None:
    """Word by word, through the plain port and through the one that places."""
    base = await aside(given.base, GATEWAY, port)
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, timeout=20) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=7, stream=True
        )
        words = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    assert len([word for word in words if word]) == 7


async def test_requests_go_where_there_is_no_load_and_plain_ones_in_turn(
    given: Space, session: aiohttp.ClientSession
) -> None:
    """One engine is busy with requests of somebody else, which the picker knows from its metrics alone."""
    busy = await aside(lambda: given.pods(f"app={ENGINES}")[0])
    direct = f"{await aside(given.direct, busy)}/v1/chat/completions"
    placed, plain = [await aside(given.chats, GATEWAY, port) for port in (8081, 8080)]
    async with asyncio.TaskGroup() as group:
        others = [group.create_task(chat(session, direct, tokens=800)) for _ in range(30)]
        await aside(picker(given).until_metric, "igw_picker_endpoint_kv_tokens", above=100)
        answers = [await chat(session, placed, SHORT_PROMPT, tokens=1) for _ in range(12)]
        in_turn = [await chat(session, plain, SHORT_PROMPT, tokens=1) for _ in range(12)]
        assert not any(one.done() for one in others)
    assert all(one.good for one in (*answers, *in_turn))
    assert busy["metadata"]["name"] not in engines(answers)
    assert engines(in_turn)[busy["metadata"]["name"]] >= 2


async def test_no_request_fails_while_engines_are_added_and_removed(
    given: Space, session: aiohttp.ClientSession
) -> None:
    """The new ones get their share, and those that end are given time to."""
    url = await aside(given.chats, GATEWAY, 8081)
    async with load(session, url, SHORT_PROMPT, workers=WORKERS, most=4000) as running:
        await running.more(WORKERS)
        await aside(given.ready, ENGINES, 5)
        await aside(picker(given).until_sees, 5)
        assert len(engines(await running.more(60))) == 5
        await aside(given.ready, ENGINES, 1)
        await aside(picker(given).until_sees, 1)
        assert len(engines(await running.more(30))) == 1
    assert running.failed == []


async def test_no_request_fails_when_the_picker_is_killed(given: Space, session: aiohttp.ClientSession) -> None:
    """Round robin until the new one is there; then it places again, by itself."""
    url = await aside(given.chats, GATEWAY, 8081)
    asked = picker(given)
    async with load(session, url, workers=WORKERS, most=6000) as running:
        await until_in_load(running, lambda: kept_together(running))
        await aside(asked.kill)
        await until_in_load(running, lambda: spread(running, 3))
        await aside(asked.until_ready)
        await until_in_load(running, lambda: kept_together(running))
    assert running.failed == []


async def test_no_request_fails_while_the_picker_is_replaced(given: Space, session: aiohttp.ClientSession) -> None:
    """A rolling update: the new one is ready before the old one goes."""
    url = await aside(given.chats, GATEWAY, 8081)
    asked = picker(given)
    old = {pod["metadata"]["name"] for pod in await aside(asked.pods)}
    async with load(session, url, workers=WORKERS, most=6000) as running:
        await until_in_load(running, lambda: kept_together(running))
        await aside(given.kubectl, "rollout", "restart", f"deployment/{asked.deployment}")
        await aside(given.ready, asked.deployment)
        await until_in_load(running, lambda: kept_together(running))
    assert running.failed == []
    assert old.isdisjoint(pod["metadata"]["name"] for pod in await aside(asked.pods))


async def test_a_stream_outlives_the_operator_and_its_restart_changes_nothing(
    given: Space, session: aiohttp.ClientSession
) -> None:
    """Not one object has another version afterwards, and the stream that ran all the while is whole."""
    url = await aside(given.chats, GATEWAY, 8081)
    before = await aside(given.versions)
    running = asyncio.create_task(chat(session, url, tokens=2000, stream=True))
    await aside(given.restart_operator)
    body = chat_body("anew", tokens=1)
    async with session.post(url, json=body) as answer:
        assert answer.status == 200
    assert await aside(given.versions) == before
    assert not running.done()
    assert (await running).good
