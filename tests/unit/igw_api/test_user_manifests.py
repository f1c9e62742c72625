"""The manifests that users of this kind of gateway apply already: accepted without a change."""

from pathlib import Path

import pytest

from igw_api.manifests import ObjectSet, collect, parse
from igw_api.objects import AttachTo, FailureMode, Key, Listener, Target

MANIFESTS = Path(__file__).parents[2] / "data" / "manifests"
POOL = Key("default", "vllm-llama2-7b-pool")
GATEWAY = Key("default", "inference-gateway")


@pytest.fixture(scope="module")
def objects() -> ObjectSet:
    files = sorted(MANIFESTS.glob("*.yaml"))
    found, problems = collect({path.name: parse(path.read_text(), path.name) for path in files})
    assert not problems
    return found


def test_the_pool_is_exposed_on_the_annotated_port_and_fails_open(objects: ObjectSet) -> None:
    pool = objects.pools[POOL]
    assert pool.attach_to == AttachTo(GATEWAY, 8081)
    assert pool.failure_mode is FailureMode.OPEN
    assert (pool.selector, pool.target_ports) == ({"app": "vllm-llama2-7b-pool"}, (8000,))
    assert (pool.picker, pool.picker_port) == ("inference-gateway-ext-proc", 9002)


def test_the_model_is_critical_and_goes_by_its_own_name(objects: ObjectSet) -> None:
    (model,) = objects.models.values()
    assert (model.pool, model.name, model.priority) == (POOL, "/model/llama2", 2)
    assert model.targets == (Target("/model/llama2", 100),)


def test_the_plain_route_stands_beside_the_exposed_pool(objects: ObjectSet) -> None:
    assert objects.gateways[GATEWAY].listeners == (Listener("http", 8080), Listener("llm-gw", 8081))
    (route,) = objects.routes.values()
    (rule,) = route.rules
    assert (route.parents[0].gateway, route.parents[0].section) == (GATEWAY, "http")
    assert (rule.backends[0].key, rule.backends[0].port) == (POOL, 8000)
    assert (rule.request_timeout, rule.backend_timeout) == (86400.0, 86400.0)
