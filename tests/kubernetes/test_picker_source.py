"""The picker on Kubernetes, against a real API server: Pods and ConfigMap in, endpoints out, with exactly its rights.

Engines are loopback addresses that Pods claim to have; the metrics page tells which endpoints the picker knows.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest_asyncio

from igw_api.objects import Key, Lead, Model
from igw_api.objectset import ObjectSet
from igw_testing.ext_proc import DESTINATION, First, chat, destinations, metadata, request_body, request_headers
from igw_testing.kube import ApiServer, api_server, fresh_namespace
from igw_testing.metrics_stub import EngineStub, serving
from igw_testing.picker import PickerProcess, eventually, running
from igw_testing.picker_objects import RIGHTS, RIGHTS_ON_PODS, Api, pool_of

__all__ = ["api_server"]

NOT_SERVING, SERVING = b"\x08\x02", b"\x08\x01"
# How long rights may take to reach the API server before pools are served without them.
GRACE_S = 5.0
UNSEEN = re.compile(r'igw_picker_pool_unseen\{pool="([^"]+)"\} 1.0')
ENDPOINT = re.compile(r'igw_picker_endpoint_available\{endpoint="([^"]+)"\}')


@pytest_asyncio.fixture
async def api(api_server: ApiServer) -> AsyncIterator[Api]:
    """The administrator's connection."""
    async with Api.of(api_server) as made:
        yield made


class Scene:
    """A picker's ConfigMap in one namespace, and its account's kubeconfig. Nothing else is there yet."""

    def __init__(self, api: Api, *, pods: bool = True) -> None:
        self.api = api
        self.name = Key(fresh_namespace(api.server, "gateway"), "igw-main-http")
        api.server.kubectl.apply(RIGHTS.format(namespace=self.name.namespace, name=self.name.name))
        self.namespace = fresh_namespace(api.server, "models")
        if pods:
            self.allow(self.namespace)
        self.kubeconfig = api.server.kubeconfig_of(*self.name)

    def allow(self, namespace: str) -> None:
        """The rights on a pool's namespace."""
        text = RIGHTS_ON_PODS.format(namespace=self.name.namespace, name=self.name.name, pods=namespace)
        self.api.server.kubectl.apply(text)

    @property
    def options(self) -> tuple[str, ...]:
        """The picker's, for this source."""
        return ("--kubernetes", str(self.name), "--kubeconfig", str(self.kubeconfig))


async def endpoints(picker: PickerProcess) -> set[str]:
    """Those that the picker knows."""
    return set(ENDPOINT.findall((await picker.get("/metrics"))[1]))


async def knows(picker: PickerProcess, *addresses: str, seconds: float = 15.0) -> float:
    """Wait until the picker knows exactly these; how long that took."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def is_so() -> bool:
        return await endpoints(picker) == set(addresses)

    await eventually(is_so, f"{addresses}\n{picker.log.read_text()}", seconds)
    return loop.time() - began


async def is_ready(picker: PickerProcess) -> bool:
    """By its page; the gRPC health check must say the same, unless that changed between the questions."""
    before = (await picker.get("/readyz"))[0] == 200
    said = await picker.check("readiness")
    after = (await picker.get("/readyz"))[0] == 200
    assert before != after or said == (SERVING if after else NOT_SERVING)
    return after


async def test_pods_come_and_go_as_their_readiness_says(api: Api, tmp_path: Path) -> None:
    """Ready joins, unready leaves, a Pod whose deletion has begun leaves at once, each well within a second."""
    here = Scene(api)
    await api.configure(here.name, ObjectSet.of([pool_of(here.namespace, "llm")]))
    one, two = await api.make_ready_pods(here.namespace, "llm", ["127.1.0.1", "127.1.0.2"])
    async with running(tmp_path / "p", "http2", *here.options) as picker:
        await knows(picker, "127.1.0.1:8000", "127.1.0.2:8000")
        delays = {}
        await api.set_ready(one, "127.1.0.1", ready=False)
        delays["unready"] = await knows(picker, "127.1.0.2:8000", seconds=1.0)
        await api.set_ready(one, "127.1.0.1")
        delays["ready"] = await knows(picker, "127.1.0.1:8000", "127.1.0.2:8000", seconds=1.0)
        await api.delete_pod(two)
        delays["deleting"] = await knows(picker, "127.1.0.1:8000", seconds=1.0)
        await api.delete_pod(one, grace=0)
        delays["deleted"] = await knows(picker, seconds=1.0)
        print("seconds from the API's answer to the metrics page:", {k: round(v, 3) for k, v in delays.items()})


async def test_requests_go_to_a_ready_pod_and_never_to_a_leaving_one(api: Api, tmp_path: Path) -> None:
    """Through the whole picker: the Pod's address and the pool's port make the destination."""
    here, stays, leaves = Scene(api), EngineStub(waiting=9, host="127.1.1.1"), EngineStub(host="127.1.1.2")
    async with serving(stays):
        leaves.port = stays.port  # a pool's endpoints share their port
        async with serving(leaves):
            await api.configure(here.name, ObjectSet.of([pool_of(here.namespace, "llm", stays.port)]))
            pods = await api.make_ready_pods(here.namespace, "llm", [stays.host, leaves.host])
            async with running(tmp_path / "p", "http2", *here.options) as picker:
                await picker.sees(stays, leaves)
                assert await chosen(picker) == [leaves.address, stays.address]
                await api.delete_pod(pods[1])
                await knows(picker, stays.address, seconds=1.0)
                assert await chosen(picker) == [stays.address]


async def chosen(picker: PickerProcess) -> list[str]:
    """Where a chat goes, best first."""
    async with picker.stream() as stream:
        await stream.send(request_headers(), request_body(chat()))
        return destinations(await stream.receive())


async def test_the_picker_is_not_ready_until_the_configmap_and_all_pods_are_in(api: Api, tmp_path: Path) -> None:
    """Half a picture would refuse what the proxy can serve; rights that come late are no error."""
    here = Scene(api, pods=False)
    await api.make_ready_pods(here.namespace, "llm", ["127.1.2.1"])
    async with running(tmp_path / "p", "http2", *here.options) as picker:
        assert not await is_ready(picker)
        async with picker.stream() as stream:
            await stream.send(request_headers(), request_body(chat()))
            # No refusal: the stream ends with an error, and the proxy goes on by the pool's failure mode.
            assert (await stream.status()).name == "UNAVAILABLE"
        await api.configure(here.name, ObjectSet.of([pool_of(here.namespace, "llm")]))

        async def forbidden() -> bool:
            return "403" in picker.log.read_text()

        await eventually(forbidden, "the Pods are refused")
        assert not await is_ready(picker)
        here.allow(here.namespace)
        await knows(picker, "127.1.2.1:8000")
        assert await is_ready(picker)


async def test_a_namespace_that_stays_forbidden_holds_up_only_its_own_pools(api: Api, tmp_path: Path) -> None:
    """After a grace the others are placed, and the proxy chooses in the pool that nobody can see, until rights come."""
    here, shown, hidden = Scene(api), EngineStub(host="127.1.6.1"), EngineStub(host="127.1.6.2")
    other = fresh_namespace(api.server, "models")
    async with serving(shown, hidden):
        pools = pool_of(here.namespace, "llm", shown.port), pool_of(other, "hidden", hidden.port)
        models = [Model(one.key, one.key, one.key.name) for one in pools]
        leads = {"r": Lead(tuple(one.key for one in pools), announce=True)}
        await api.configure(here.name, ObjectSet.of([*pools, *models], leads))
        await api.make_ready_pods(here.namespace, "llm", [shown.host])
        await api.make_ready_pods(other, "hidden", [hidden.host])
        began = asyncio.get_running_loop().time()
        async with running(tmp_path / "p", "http2", *here.options) as picker:
            await eventually(lambda: logged(picker, "pods is forbidden"), "the missing right is logged")
            assert not await is_ready(picker), "rights may be on their way"
            await eventually(lambda: is_ready(picker), "ready without them", 30.0)
            assert asyncio.get_running_loop().time() - began >= GRACE_S
            await picker.sees(shown)
            assert (await endpoints(picker), await unseen(picker)) == ({shown.address}, {str(pools[1].key)})
            assert await routed(picker, "llm") == (str(pools[0].key), shown.address)
            assert await routed(picker, "hidden") == (str(pools[1].key), None)
            here.allow(other)
            await picker.sees(shown, hidden)
            assert await unseen(picker) == set()
            assert await routed(picker, "hidden") == (str(pools[1].key), hidden.address)
            told = picker.log.read_text()
            assert [told.count(text) for text in ("Pods cannot be listed", "pods is forbidden")] == [1, 1]


async def unseen(picker: PickerProcess) -> set[str]:
    """The pools whose Pods the picker says that it cannot list."""
    return set(UNSEEN.findall((await picker.get("/metrics"))[1]))


async def routed(picker: PickerProcess, model: str) -> tuple[object, object]:
    """The pool and the address that a chat for this model goes to. No address: the proxy chooses one."""
    async with picker.stream(First(route="r")) as stream:
        await stream.send(request_headers(), request_body(chat(model)))
        told = metadata(await stream.receive())
        return told.get("x-igw-pool"), told.get(DESTINATION)


async def test_a_picker_that_may_see_no_pods_at_all_does_not_become_ready(api: Api, tmp_path: Path) -> None:
    """It would have nothing to say; the proxy goes on without it."""
    here = Scene(api, pods=False)
    other = fresh_namespace(api.server, "models")
    await api.configure(here.name, ObjectSet.of([pool_of(here.namespace, "llm"), pool_of(other, "llm")]))
    async with running(tmp_path / "p", "http2", *here.options) as picker:
        await eventually(lambda: logged(picker, "pods is forbidden"), "the missing right is logged")
        await asyncio.sleep(GRACE_S + 1)  # nothing tells that nothing will happen
        assert not await is_ready(picker)
        here.allow(other)
        await eventually(lambda: is_ready(picker), "ready with some of them", 30.0)
        assert await unseen(picker) == {f"{here.namespace}/llm"}


async def test_pools_and_namespaces_come_and_go(api: Api, tmp_path: Path) -> None:
    """The ConfigMap says which; Pods of pools that are gone are not watched any more."""
    here = Scene(api)
    other = fresh_namespace(api.server, "models")
    here.allow(other)
    first, second = pool_of(here.namespace, "llm"), pool_of(other, "llm")
    await api.make_ready_pods(here.namespace, "llm", ["127.1.3.1"])
    await api.make_ready_pods(other, "llm", ["127.1.3.2"])
    await api.configure(here.name, ObjectSet.of([first]))
    async with running(tmp_path / "p", "http2", *here.options) as picker:
        await knows(picker, "127.1.3.1:8000")
        await api.configure(here.name, ObjectSet.of([first, second]))
        await knows(picker, "127.1.3.1:8000", "127.1.3.2:8000", seconds=1.0)
        await api.configure(here.name, ObjectSet.of([second]))
        await knows(picker, "127.1.3.2:8000", seconds=1.0)
        await api.configure(here.name, ObjectSet.of([replace(second, target_ports=(9000, 9001))]))
        await knows(picker, "127.1.3.2:9000", "127.1.3.2:9001", seconds=1.0)


async def test_a_configmap_that_makes_no_sense_or_is_gone_keeps_the_last_good_one(api: Api, tmp_path: Path) -> None:
    """Pods go on to be followed; the next good version takes effect."""
    here = Scene(api)
    await api.configure(here.name, ObjectSet.of([pool_of(here.namespace, "llm")]))
    (pod,) = await api.make_ready_pods(here.namespace, "llm", ["127.1.4.1"])
    path = f"/api/v1/namespaces/{here.name.namespace}/configmaps/{here.name.name}"
    async with running(tmp_path / "p", "http2", *here.options) as picker:
        await knows(picker, "127.1.4.1:8000")
        await api.configure(here.name, "nonsense")
        await eventually(lambda: logged(picker, "objects not loaded"), "the nonsense is noticed")
        await api.call("DELETE", path)
        await eventually(lambda: logged(picker, "gone or empty"), "the end is noticed")
        assert await endpoints(picker) == {"127.1.4.1:8000"} and await is_ready(picker)
        await api.set_ready(pod, "127.1.4.1", ready=False)
        await knows(picker, seconds=1.0)
        await api.set_ready(pod, "127.1.4.1")
        await api.configure(here.name, ObjectSet.of([pool_of(here.namespace, "llm", 9000)]))
        await knows(picker, "127.1.4.1:9000", seconds=1.0)


async def logged(picker: PickerProcess, text: str) -> bool:
    """Whether the picker's log has it."""
    return text in picker.log.read_text()


async def test_active_ports_and_addresses_of_pods_count(api: Api, tmp_path: Path) -> None:
    """An annotation that names fewer ports leaves the others; a Pod without an address is none."""
    here = Scene(api)
    pool = replace(pool_of(here.namespace, "llm"), target_ports=(8000, 8001))
    await api.configure(here.name, ObjectSet.of([pool]))
    key = Key(here.namespace, "partial")
    await api.make_pod(Key(here.namespace, "pending"), {"app": "llm"})
    await api.make_pod(key, {"app": "llm"}, **{"inference.networking.k8s.io/active-ports": "8001"})
    await api.set_ready(key, "127.1.5.1")
    async with running(tmp_path / "p", "http2", *here.options) as picker:
        await knows(picker, "127.1.5.1:8001")


async def test_five_hundred_pods_are_listed_page_by_page_and_followed(api: Api, tmp_path: Path) -> None:
    """More than one page of a list, and many changes at once."""
    here = Scene(api)
    await api.configure(here.name, ObjectSet.of([pool_of(here.namespace, "llm")]))
    addresses = [f"127.2.{number // 250}.{number % 250 + 1}" for number in range(500)]
    keys = await api.make_ready_pods(here.namespace, "llm", addresses)
    async with running(tmp_path / "p", "http2", *here.options) as picker:
        await knows(picker, *(f"{one}:8000" for one in addresses))
        for key in keys[::5]:
            await api.delete_pod(key)
        left = [one for number, one in enumerate(addresses) if number % 5]
        delay = await knows(picker, *(f"{one}:8000" for one in left), seconds=2.0)
        print(f"seconds from the last of 100 deletions to the metrics page: {delay:.3f}")
