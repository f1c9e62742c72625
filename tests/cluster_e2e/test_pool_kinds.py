"""What a pool may be: of each version, elsewhere, closed when the picker is down, of other engines, of other policies.

One Gateway with a port for each way to attach. The Gateway is an impatient one, so that a stream is cut by any change
of the listener that it came in by.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator

import aiohttp
import orjson
import pytest

from igw_testing.chat_load import SHORT_PROMPT, Chat, chat, chat_body, engines, load
from igw_testing.cluster_load import CHANGE_S, WORKERS, kept_together, spread, undisturbed, until_in_load
from igw_testing.operator_manifests import alpha_pool, impatient_gateway, model, policy, pool
from igw_testing.product import Picker, Product, Space, engine_pods, post
from igw_testing.special_engines import PROTOCOL_HEADER, http2, sockets, two_ports

pytestmark = pytest.mark.timeout(240)

OPEN, CLOSED, ALPHA1, ALPHA2, SHARED = range(8081, 8086)
POOL = "inferencepools.v1.inference.networking.k8s.io"
PORTS = {"v1": OPEN, "v1alpha1": ALPHA1, "v1alpha2": ALPHA2}
USUAL = {"matchLabels": {"app": "llm"}}
CLOSE = {"name": "closed-picker", "port": {"number": 9002}, "failureMode": "FailClose"}
TARGETS = [{"name": "llama-a", "weight": 3}, {"name": "llama-b", "weight": 1}]
ENGINES = (
    engine_pods("llm", 2, "--model", "llama-a", "--model", "llama-b", model="llama"),
    two_ports("twin", model="twin"),
    http2("h2c", model="h2c"),
    sockets("sockets"),
)
POOLS = (
    pool("open", OPEN, picker="open-picker", selector=USUAL),
    pool("closed", CLOSED, selector=USUAL, endpointPickerRef=CLOSE),
    alpha_pool("v1alpha1", "weighted", ALPHA1, app="llm"),
    model("llama", of="weighted", group="inference.networking.x-k8s.io", targetModels=TARGETS),
    alpha_pool("v1alpha2", "alpha2", ALPHA2, app="llm"),
    pool("twin", SHARED, picker="twin-picker", targetPorts=[{"number": 8000}, {"number": 8001}]),
    model("twin", of="twin"),
    pool("h2c", SHARED, picker="h2c-picker", appProtocol="kubernetes.io/h2c"),
    model("h2c", of="h2c"),
    pool("sockets", SHARED, picker="sockets-picker"),
)
aside = asyncio.to_thread


@pytest.fixture(scope="module")
def elsewhere(product: Product) -> Iterator[Space]:
    """Another namespace."""
    made = product.space()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def kinds(space: Space, elsewhere: Space) -> Space:
    """All pools, each of which is placed."""
    space.apply(*ENGINES, impatient_gateway(*range(OPEN, SHARED + 1)), *POOLS)
    far = pool("far", SHARED, namespace=space.name, picker="far-picker")
    elsewhere.apply(engine_pods("far", 1, model="far"), far, model("far", of="far"))
    for name in ("llm", "twin", "h2c", "sockets"):
        space.ready(name)
    elsewhere.ready("far")
    for port in (OPEN, CLOSED, ALPHA1, ALPHA2):
        picker(space, port).until_sees(2)
        space.until(lambda port=port: is_placed(space, port), f"port {port} is placed")
    picker(space, SHARED).until_sees(5)
    space.until(lambda: is_placed(space, SHARED, "twin"), f"port {SHARED} is placed")
    return space


def picker(space: Space, port: int) -> Picker:
    """That of a port."""
    return space.picker("gw", f"p{port}")


def is_placed(space: Space, port: int, name: str = "llama") -> bool:
    """Whether a chat is answered, and its picker counts one more."""
    asked = picker(space, port)
    before = asked.placed()
    status, _ = post(space.chats("gw", port), chat_body("Hi", tokens=1, model=name))
    return status == 200 and asked.placed() == before + 1


@pytest.mark.parametrize("version", PORTS)
def test_a_pool_of_each_version_is_placed(kinds: Space, version: str) -> None:
    assert is_placed(kinds, PORTS[version])


async def test_a_pool_may_be_in_another_namespace_than_its_gateway(
    kinds: Space, elsewhere: Space, session: aiohttp.ClientSession
) -> None:
    """Its objects are beside it, the picker is beside the Gateway, and the Service that it names leads there."""
    url = await aside(kinds.chats, "gw", SHARED)
    answers = [await chat(session, url, tokens=1, model="far") for _ in range(3)]
    (pod,) = await aside(elsewhere.pods, "app=far")
    assert engines(answers) == {pod["metadata"]["name"]: 3} and all(one.good for one in answers)
    assert not await aside(kinds.pods, "app=far") and not await aside(elsewhere.pods, "inferencegateway.io/picker")
    (front,) = await aside(
        elsewhere.cluster.kubectl.list, "endpointslice", elsewhere.name, "kubernetes.io/service-name=far-picker"
    )
    service = await aside(kinds.get, "service", picker(kinds, SHARED).deployment)
    assert front["endpoints"][0]["addresses"] == [service["spec"]["clusterIP"]]


async def test_a_model_is_divided_by_weight(kinds: Space, session: aiohttp.ClientSession) -> None:
    """Three to one. Of 240 chats, 180 are expected, give or take 6.7: the limits are 5 times that far away."""
    url = await aside(kinds.chats, "gw", ALPHA1)
    async with load(session, url, SHORT_PROMPT, streams=(False,), model="llama", tokens=1) as running:
        answers = await running.more(240)
    assert running.failed == []
    served = Counter(orjson.loads(one.body)["model"] for one in answers)
    assert served.keys() == {"llama-a", "llama-b"}
    assert 146 <= served["llama-a"] <= 214


async def test_all_ports_of_a_pod_are_endpoints(kinds: Space, session: aiohttp.ClientSession) -> None:
    """Each is placed by its own load: with as much on both, requests go to both."""
    url = await aside(kinds.chats, "gw", SHARED)
    async with load(session, url, SHORT_PROMPT, model="twin") as running:
        answers = await running.more(60)
    (pod,) = await aside(kinds.pods, "app=twin")
    counts = engines(answers)
    assert running.failed == [] and counts.keys() == {pod["metadata"]["name"], "second"}
    assert min(counts.values()) >= 15


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_engine_is_spoken_to_in_clear_text_http2(
    kinds: Space, session: aiohttp.ClientSession, stream: bool
) -> None:
    url = await aside(kinds.chats, "gw", SHARED)
    body = chat_body("Hi", tokens=5, model="h2c", stream=stream)
    async with session.post(url, json=body) as answer:
        assert (answer.status, answer.headers[PROTOCOL_HEADER]) == (200, "HTTP/2")
        assert await answer.read()


async def test_a_websocket_goes_through(kinds: Space, session: aiohttp.ClientSession) -> None:
    """It has no body that names a model, so it goes to the pool that takes any."""
    base = await aside(kinds.base, "gw", SHARED)
    before = await aside(picker(kinds, SHARED).placed)
    async with session.ws_connect(f"{base}/v1/realtime") as socket:
        for word in ("one", "two"):
            await socket.send_str(word)
            assert (await socket.receive_str(timeout=10)).endswith(f" {word}")
    assert await aside(picker(kinds, SHARED).placed) == before + 1


async def test_a_policy_changes_while_requests_run(kinds: Space, session: aiohttp.ClientSession) -> None:
    """There and back: no stream is cut for it, and the picker is still the same one."""
    url = await aside(kinds.chats, "gw", OPEN)
    before = {pod["metadata"]["uid"] for pod in await aside(picker(kinds, OPEN).pods)}
    in_turn = policy("open", of="open", scheduling="round-robin")
    async with (
        undisturbed(session, url, "llama"),
        load(session, url, workers=WORKERS, most=9000, model="llama") as long,
    ):
        await until_in_load(long, lambda: kept_together(long))
        await aside(kinds.apply, in_turn)
        await until_in_load(long, lambda: spread(long, 2))
        await aside(lambda: kinds.kubectl("delete", "-f", "-", stdin=in_turn))
        await until_in_load(long, lambda: kept_together(long))
    assert long.failed == []
    assert {pod["metadata"]["uid"] for pod in await aside(picker(kinds, OPEN).pods)} == before


async def test_a_pool_is_closed_and_opened_while_requests_run(kinds: Space, session: aiohttp.ClientSession) -> None:
    """With a picker that is no difference to anybody."""
    url = await aside(kinds.chats, "gw", OPEN)
    async with undisturbed(session, url, "llama"):
        for mode, rules in (("FailClose", 2), ("FailOpen", 1)):
            change = {"spec": {"endpointPickerRef": {"failureMode": mode}}}
            await aside(kinds.kubectl, "patch", f"{POOL}/open", "--type=merge", "-p", json.dumps(change))
            await aside(kinds.until, lambda rules=rules: is_programmed(kinds, "igw-open", rules), mode)


def is_programmed(space: Space, route: str, rules: int) -> bool:
    """Whether Envoy Gateway has accepted a route with so many rules."""
    found = space.get("httproute", route)
    (parent,) = found["status"]["parents"]
    seen = {one["observedGeneration"] for one in parent["conditions"]}
    return len(found["spec"]["rules"]) == rules and seen == {found["metadata"]["generation"]}


async def test_a_closed_pool_refuses_what_an_open_one_serves_without_a_picker(
    kinds: Space, session: aiohttp.ClientSession
) -> None:
    """Both pickers are killed. Clients of the closed pool get a placed answer or a refusal until it heals.

    What was placed before is not ended by it.
    """
    opened, closed = [await aside(kinds.chats, "gw", port) for port in (OPEN, CLOSED)]
    seen: list[Chat] = []
    async with (
        load(session, closed, SHORT_PROMPT, workers=1, most=1, streams=(True,), model="llama", tokens=1000) as stream,
        load(session, opened, SHORT_PROMPT, workers=2, most=9000, model="llama") as running,
    ):
        await until_in_load(running, lambda: bool(stream.answering))
        assert not stream.chats
        for port in (CLOSED, OPEN):
            await aside(picker(kinds, port).kill)
        async with asyncio.timeout(CHANGE_S):
            while not (any(refused(one) for one in seen) and all(one.good for one in seen[-5:])):
                seen.append(await chat(session, closed, tokens=1, model="llama"))
                await asyncio.sleep(0.02)
        await aside(picker(kinds, OPEN).until_ready)
        await running.more(10)
    assert running.failed == [] and stream.failed == []
    assert [one for one in seen if not one.good and not refused(one)] == []


def refused(one: Chat) -> bool:
    """Whether it was refused because nobody could place it."""
    return one.status == 503 and orjson.loads(one.body)["error"]["code"] == "picker_unavailable"
