"""Pools of one Gateway come and go: those that stay do not notice, and of those that go nothing stays.

The Gateway is an impatient one, so that a stream is cut by any change of the listener that it came in by.
"""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from igw_api import wire
from igw_cluster.kubectl import KubectlFailed
from igw_testing.api_audit import Audit
from igw_testing.chat_load import chat, chat_body
from igw_testing.cluster_load import undisturbed
from igw_testing.operator_manifests import impatient_gateway, model, pool
from igw_testing.operator_process import OWN_KINDS
from igw_testing.product import SYSTEM, Picker, Space, engine_pods, manifest, post, service

pytestmark = pytest.mark.timeout(180)

POOLS = "inferencepools.v1.inference.networking.k8s.io"
SHARED, SINGLE = 8081, 8082
aside = asyncio.to_thread

FIRST = pool("first", SHARED, picker="first-picker") + "---\n" + model("llama", of="first")
SECOND = pool("second", SHARED, picker="second-picker") + "---\n" + model("qwen", of="second")
ANY = pool("any", SHARED, picker="any-picker", selector={"matchLabels": {"app": "second"}})
SINGLE_POOL = pool("single", SINGLE, picker="single-picker", selector={"matchLabels": {"app": "first"}})
# A route past the pools on their own port, to one of their engines.
USERS_ROUTE = manifest(
    "gateway.networking.k8s.io/v1",
    "HTTPRoute",
    "users",
    {
        "parentRefs": [{"name": "gw", "sectionName": f"p{SHARED}"}],
        "rules": [{"matches": [{"path": {"value": "/health"}}], "backendRefs": [{"name": "users", "port": 8000}]}],
    },
)
USERS = ("httproute/users", "service/users", "configmap/users", f"{POOLS}/first", "deployment/second")


@pytest.fixture(scope="module")
def first(space: Space) -> Space:
    """A pool that has its port to itself, with a user's objects beside it."""
    engines = [engine_pods("first", 1, "--model", "llama-next", model="llama"), engine_pods("second", 1, model="qwen")]
    space.apply(impatient_gateway(SHARED, SINGLE), *engines, FIRST)
    space.apply(USERS_ROUTE, service("users").replace("app: users", "app: first"))
    space.kubectl("create", "configmap", "users", "--from-literal=a=b")
    space.ready("first")
    space.ready("second")
    picker(space).until_asked(space.chats("gw", SHARED))
    until_served(space, "llama")
    return space


@pytest.fixture
async def patient() -> AsyncIterator[aiohttp.ClientSession]:
    """A client with time for long streams."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as client:
        yield client


def picker(space: Space) -> Picker:
    """That of the shared port."""
    return space.picker("gw", f"p{SHARED}")


def answer(space: Space, name: str, port: int = SHARED) -> tuple[int, str]:
    """Status and error code of a short chat with a model. No two pools' engines serve the same one."""
    status, body = post(space.chats("gw", port), chat_body("Hi", tokens=1, model=name))
    return status, body.get("error", {}).get("code", "")


def until_served(space: Space, name: str, port: int = SHARED) -> None:
    """Wait until chats with a model are answered."""
    space.until(lambda: answer(space, name, port) == (200, ""), f"{name} is served")


def until_unknown(space: Space, name: str) -> None:
    """Wait until the picker refuses chats with a model."""
    space.until(lambda: answer(space, name) == (404, "model_not_found"), f"{name} is served no more")


def made_for(space: Space, label: str, value: str) -> list[str]:
    """All that was created for a pool or a listener, and all that other controllers derived from that."""
    found = space.cluster.kubectl.list(",".join((*OWN_KINDS, "pod")), space.name, f"{label}={value}")
    return [f"{one['kind']}/{one['metadata']['name']}" for one in found]


def until_gone(space: Space, label: str, value: str) -> None:
    """Wait until nothing of it is left."""
    space.until(lambda: not made_for(space, label, value), f"nothing is left for {value}")


def standing(space: Space) -> dict[str, str]:
    """What is to stay as it is: our objects by version, users' too, and what the picker was told, by content."""
    ours = {name: version for name, version in space.versions().items() if not name.startswith("ConfigMap/")}
    users = {name: space.get(*name.split("/"))["metadata"] for name in USERS}
    theirs = {name: f"{one['uid']} {one.get('generation') or one['resourceVersion']}" for name, one in users.items()}
    return {**ours, **theirs, "told": str(space.get("configmap", picker(space).deployment)["data"])}


async def test_what_comes_and_goes_beside_a_pool_cuts_none_of_its_streams(
    first: Space, patient: aiohttp.ClientSession
) -> None:
    """A second pool with its model on the same port, a further model, an endpoint; then all of it goes again."""
    before = await aside(standing, first)
    further = model("llama-next", of="first")
    url = await aside(first.chats, "gw", SHARED)
    longest = asyncio.create_task(chat(patient, url, tokens=2000, stream=True, model="llama"))
    async with undisturbed(patient, url, "llama"):
        await aside(first.apply, SECOND)
        await aside(until_served, first, "qwen")
        await aside(first.apply, further)
        await aside(until_served, first, "llama-next")
        await aside(first.ready, "second", 2)
        await aside(picker(first).until_sees, 3)
        await aside(first.ready, "second", 1)
        await aside(picker(first).until_sees, 2)
        await aside(lambda: first.kubectl("delete", "-f", "-", stdin=further))
        await aside(until_unknown, first, "llama-next")
        await aside(lambda: first.kubectl("delete", "-f", "-", stdin=SECOND))
        await aside(until_unknown, first, "qwen")
        await aside(until_gone, first, wire.POOL_LABEL, "second")
    assert (await longest).good
    after = await aside(standing, first)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed <= {"deployment/second"} and before.keys() == after.keys()


async def test_the_pool_where_requests_of_a_port_land_may_go(first: Space, patient: aiohttp.ClientSession) -> None:
    """They land on the other one's route from then on, and none of those that are meant for it is lost on the way."""
    url = await aside(first.chats, "gw", SHARED)
    await aside(first.apply, SECOND)
    await aside(until_served, first, "qwen")
    async with undisturbed(patient, url, "qwen"):
        await aside(lambda: first.kubectl("delete", "-f", "-", stdin=FIRST))
        await aside(until_gone, first, wire.POOL_LABEL, "first")
        await aside(until_unknown, first, "llama")
        await aside(first.apply, FIRST)
        await aside(until_served, first, "llama")
    async with undisturbed(patient, url, "llama"):
        await aside(lambda: first.kubectl("delete", "-f", "-", stdin=SECOND))
        await aside(until_gone, first, wire.POOL_LABEL, "second")


async def test_a_pool_that_takes_any_model_may_join_and_leave(first: Space, patient: aiohttp.ClientSession) -> None:
    """Requests land on its route while it is there. Those for the other pool are led back, from the first one on."""
    url = await aside(first.chats, "gw", SHARED)
    async with undisturbed(patient, url, "llama"):
        await aside(first.apply, ANY)
        await aside(until_served, first, "qwen")
        await aside(lambda: first.kubectl("delete", "-f", "-", stdin=ANY))
        await aside(until_unknown, first, "qwen")
        await aside(until_gone, first, wire.POOL_LABEL, "any")


async def test_the_last_pool_of_a_port_takes_all_with_it(first: Space, patient: aiohttp.ClientSession) -> None:
    """Picker and policies too. Envoy has nothing for the port then, and the other port does not notice."""
    before = await aside(standing, first)
    url = await aside(first.chats, "gw", SHARED)
    async with undisturbed(patient, url, "llama"):
        await aside(first.apply, SINGLE_POOL)
        await aside(until_served, first, "llama", SINGLE)
        kinds = {name.split("/")[0] for name in await aside(made_for, first, wire.LISTENER_LABEL, f"p{SINGLE}")}
        assert {"Deployment", "EnvoyExtensionPolicy", "ClientTrafficPolicy", "HTTPRoute", "Pod"} <= kinds
        await aside(first.kubectl, "delete", f"{POOLS}/single")
        await aside(until_gone, first, wire.LISTENER_LABEL, f"p{SINGLE}")
        await aside(first.until, lambda: answer(first, "llama", SINGLE) == (404, ""), "nothing on the port")
    with pytest.raises(KubectlFailed, match="NotFound"):
        await aside(first.get, "service", "single-picker")
    assert await aside(standing, first) == before


def test_reconciling_again_writes_nothing(first: Space) -> None:
    """Neither objects nor statuses, however often: what is as it should be is left alone."""
    audit = Audit(first.cluster.server.audit)
    for number in range(5):
        before = reconciles(first)
        first.kubectl("annotate", "--overwrite", f"{POOLS}/first", f"touched={number}")
        first.until(lambda before=before: reconciles(first) > before, "it reconciles")
    assert audit.writes(SYSTEM, first.name) == []
    first.kubectl("delete", "service", "first-picker")
    first.until(lambda: bool(first.get("service", "first-picker")), "the Service is there again")
    assert "patch services/first-picker" in audit.writes(SYSTEM, first.name)


def reconciles(space: Space) -> float:
    """How often the operators have looked at everything."""
    return sum(space.operator_metric("igw_operator_reconciles_total"))
