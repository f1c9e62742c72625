"""What is read of the cluster's objects: ours strictly and with a memory, others' only as far as they matter."""

from typing import Any

import yaml

from igw_api.objects import Key, Pool
from igw_api.objectset import ObjectSet, dump
from igw_api.wire import (
    ATTACH_TO_ANNOTATION,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    OBJECTS_KEY,
    POOL_LABEL,
    POOL_NAMESPACE_LABEL,
)
from igw_operator.controller.inventory import Reader
from igw_operator.controller.resources import ALPHA_POOL, CONFIG_MAP, GATEWAY, POOL, ROUTE, SERVICE, SLICE, Resource
from igw_operator.controller.store import Body, View
from igw_testing.operator_manifests import gateway, pool

LLM = Key("ns", "llm")
OURS = {MANAGED_BY_LABEL: MANAGED_BY, POOL_NAMESPACE_LABEL: "ns", POOL_LABEL: "llm"}


def live(text: str, version: str = "1") -> Body:
    """The manifest as the API server has it."""
    body: Body = yaml.safe_load(text)
    body["metadata"] |= {"namespace": "ns", "resourceVersion": version, "uid": "u", "generation": 1}
    return body


def view(objects: dict[Resource, list[Body]]) -> View:
    return View({kind: {Key("ns", one["metadata"]["name"]): one for one in found} for kind, found in objects.items()})


def served(*objects: Any) -> Body:
    """A picker's ConfigMap."""
    meta = {"name": "igw-gw-p", "namespace": "ns", "resourceVersion": "1", "labels": dict(OURS)}
    return {"metadata": meta, "data": {OBJECTS_KEY: dump(ObjectSet.of(objects)).decode()}}


def test_an_invalid_edit_keeps_the_version_before() -> None:
    """Its mistake is said, until it is mended or the object is gone."""
    reader = Reader()
    good, bad = live(pool()), live(pool().replace("name: gw", "nome: gw"), "2")
    assert reader.read(view({POOL: [good]})).objects.pools[LLM].attach_to is not None
    kept = reader.read(view({POOL: [bad]}))
    assert kept.objects.pools[LLM].attach_to is not None
    assert "name: is required" in kept.mistakes[POOL, LLM][0]
    assert not reader.read(view({POOL: []})).objects.pools


def test_after_a_restart_the_last_good_version_is_what_pickers_serve() -> None:
    """It is read from their ConfigMap. Without one, an invalid object has no effect."""
    bad = live(pool().replace("name: gw", "nome: gw"))
    before = Pool(LLM, {"app": "before"}, (8000,))
    found = Reader().read(view({POOL: [bad], CONFIG_MAP: [served(before)]}))
    assert found.objects.pools == {LLM: before}
    assert found.mistakes
    assert not Reader().read(view({POOL: [bad]})).objects.pools


def test_what_pickers_serve_does_not_bring_back_what_was_deleted() -> None:
    """Nor does it outlive a valid version."""
    before = Pool(LLM, {"app": "before"}, (8000,))
    assert not Reader().read(view({CONFIG_MAP: [served(before)]})).objects.pools
    found = Reader().read(view({POOL: [live(pool())], CONFIG_MAP: [served(before)]}))
    assert found.objects.pools[LLM].selector == {"app": "llm"}


def test_a_config_map_that_another_version_wrote_is_not_read() -> None:
    """Nothing is lost but the memory of bad edits."""
    other = served()
    other["data"][OBJECTS_KEY] = '{"version": 99}'
    assert not Reader().read(view({CONFIG_MAP: [other]})).objects.pools


def test_of_two_pools_of_one_name_the_newer_api_wins() -> None:
    """The other is told."""
    alpha = live("{kind: InferencePool, metadata: {name: llm}, spec: {targetPortNumber: 1, selector: {a: b}}}")
    found = Reader().read(view({POOL: [live(pool())], ALPHA_POOL: [alpha]}))
    assert found.objects.pools[LLM].target_ports == (8000,)
    assert "already defined" in found.mistakes[ALPHA_POOL, LLM][0]


def test_an_object_that_is_being_deleted_is_gone_already() -> None:
    """Whatever still holds it."""
    leaving = live(pool())
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not Reader().read(view({POOL: [leaving]})).objects.pools


def test_listeners_that_speak_no_http_are_not_offered() -> None:
    """A Gateway may have what standalone mode refuses: other protocols, TLS, selectors."""
    body = live(gateway().split("---\n")[1])
    body["spec"]["listeners"] += [
        {"name": "tls", "port": 443, "protocol": "HTTPS", "tls": {}, "allowedRoutes": {}},
        {"name": "tcp", "port": 5432, "protocol": "TCP"},
    ]
    [found] = Reader().read(view({GATEWAY: [body]})).objects.gateways.values()
    assert [(one.name, one.any_namespace) for one in found.listeners] == [
        ("p8080", True),
        ("p8081", True),
        ("tls", False),
    ]


def test_endpoints_come_from_slices_of_the_service_with_the_pools_selector() -> None:
    """Slices of the Service that leads to the picker have the same labels, and do not count."""

    def slice_of(service: str, *addresses: str) -> Body:
        labels = {**OURS, "kubernetes.io/service-name": service}
        endpoints = [{"addresses": [one], "conditions": {"ready": one != "10.0.0.2"}} for one in addresses]
        return {"metadata": {"name": f"{service}-1", "namespace": "ns", "labels": labels}, "endpoints": endpoints}

    def service(name: str, app: str) -> Body:
        return {"metadata": {"name": name, "namespace": "ns", "labels": OURS}, "spec": {"selector": {"app": app}}}

    objects = {
        POOL: [live(pool())],
        SERVICE: [service("igw-llm", "llm"), service("picker", "picker")],
        SLICE: [slice_of("igw-llm", "10.0.0.1", "10.0.0.2"), slice_of("picker", "10.0.0.9")],
    }
    members = Reader().read(view(objects)).objects.members.values()
    assert [(one.address, one.ready, one.labels) for one in members] == [
        ("10.0.0.1", True, {"app": "llm"}),
        ("10.0.0.2", False, {"app": "llm"}),
    ]


def test_of_routes_only_those_that_name_pools_are_read_and_only_that() -> None:
    """They may use all that the Gateway API has."""
    reference = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llm"}
    rule = {"backendRefs": [reference, {"name": "svc"}], "filters": [{"type": "RequestMirror"}]}
    parents = [{"name": "gw", "sectionName": "p8081"}]
    named = {"metadata": {"name": "a", "namespace": "ns"}, "spec": {"parentRefs": parents, "rules": [rule]}}
    plain = {"metadata": {"name": "b", "namespace": "ns"}, "spec": {"rules": [{"backendRefs": [{"name": "svc"}]}]}}
    [found] = Reader().read(view({ROUTE: [named, plain]})).objects.routes.values()
    assert found.key == Key("ns", "a")
    assert [ref.key for rule in found.rules for ref in rule.backends] == [LLM]


def test_an_object_that_did_not_change_is_not_parsed_again() -> None:
    """A pass over hundreds of pools must be quick."""
    reader = Reader()
    one = live(pool())
    first = reader.read(view({POOL: [one]})).objects.pools[LLM]
    one["metadata"]["annotations"][ATTACH_TO_ANNOTATION] = "not looked at, for the version is the same"
    assert reader.read(view({POOL: [one]})).objects.pools[LLM] is first
