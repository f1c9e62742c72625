"""What users are told on a real API server: mistakes are said where they were made, do no harm, and heal."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from igw_cluster.apiserver import ApiServer
from igw_cluster.kubectl import Kubectl
from igw_testing.operator_manifests import gateway, model, pool
from igw_testing.operator_process import (
    SOON_S,
    Operator,
    clean,
    install_gateway_kinds,
    own_objects,
    running_operator,
)

pytestmark = pytest.mark.timeout(180)
POOLS = "inferencepools.inference.networking.k8s.io"
NOTE = "inference.networking.x-k8s.io/attach-to"


@pytest.fixture(scope="module")
def kinds(installed: Kubectl) -> Kubectl:
    """kubectl to a server with all definitions that the operator needs."""
    install_gateway_kinds(installed)
    return installed


@pytest.fixture
def place(kinds: Kubectl, namespace: str) -> Iterator[str]:
    """A namespace that is emptied at the end."""
    yield namespace
    clean(kinds, namespace)


@pytest.fixture
def operator(api_server: ApiServer, kinds: Kubectl, tmp_path: Path) -> Iterator[Operator]:
    """One that serves."""
    with running_operator(api_server.kubeconfig, tmp_path) as running:
        yield running.serving()


def conditions(kubectl: Kubectl, place: str, name: str = "llm", kind: str = POOLS) -> dict[str, Any]:
    """By type, whichever list they are in."""
    status = kubectl.get(kind, name, place).get("status", {})
    entries = [one for one in status.get("parents", []) if one["parentRef"]["kind"] == "Gateway"] or [
        *status.get("parents", []),
        status,
    ]
    return {one["type"]: one for entry in entries for one in entry.get("conditions", [])}


def said(
    kubectl: Kubectl, place: str, reason: str, type_: str = "Accepted", name: str = "llm", kind: str = POOLS
) -> str:
    """Wait for the reason, and return the message."""
    kubectl.until(
        lambda: conditions(kubectl, place, name, kind).get(type_, {}).get("reason") == reason,
        SOON_S,
        f"{type_}={reason} of {name}",
    )
    return str(conditions(kubectl, place, name, kind)[type_]["message"])


def accept_all(kubectl: Kubectl, place: str) -> None:
    """Say of the operator's objects what Envoy Gateway says when it has taken them."""
    condition = {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    reference = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"}
    kubectl.until(lambda: ("HTTPRoute", "igw-llm") in own_objects(kubectl, place), SOON_S, "the route")
    for kind, name in own_objects(kubectl, place):
        if kind == "HTTPRoute":
            entry = {"parentRef": reference, "controllerName": "a.b/c", "conditions": [condition]}
            patch(kubectl, place, kind, name, {"status": {"parents": [entry]}}, "--subresource=status")
        elif kind.endswith("Policy"):
            entry = {"ancestorRef": reference, "controllerName": "a.b/c", "conditions": [condition]}
            patch(kubectl, place, kind, name, {"status": {"ancestors": [entry]}}, "--subresource=status")


def patch(kubectl: Kubectl, place: str, kind: str, name: str, body: dict[str, Any], *words: str) -> None:
    """A merge patch."""
    kubectl("patch", kind.lower(), name, "-n", place, "--type=merge", "-p", json.dumps(body), *words)


def test_a_pool_is_accepted_when_envoy_gateway_has_taken_its_objects(
    kinds: Kubectl, place: str, operator: Operator
) -> None:
    """Until then it is pending, on whose word it says."""
    kinds.apply(gateway() + "---\n" + pool(), "-n", place)
    assert f"HTTPRoute {place}/igw-llm" in said(kinds, place, "Pending")
    accept_all(kinds, place)
    said(kinds, place, "Accepted")
    assert conditions(kinds, place)["Accepted"]["status"] == "True"


@pytest.mark.parametrize(
    ("wrong", "reason", "told"),
    [
        (pool(to="none"), "NoMatchingParent", "no Gateway"),
        (pool(port=9999), "NoMatchingParent", "no listener on port 9999"),
        (pool(to="theirs"), "NotSupportedByParent", "not ours"),
        (pool().replace("name: gw", "nome: gw"), "Invalid", "attach-to].name: is required"),
        (pool(port=None), "NotExposed", "attach-to"),
    ],
    ids=["gateway", "port", "class", "annotation", "nothing"],
)
def test_a_wrong_reference_is_said_and_nothing_is_half_done(
    kinds: Kubectl, place: str, operator: Operator, wrong: str, reason: str, told: str
) -> None:
    """And it heals as soon as the reference is right."""
    theirs = gateway("theirs", controller="example.com/theirs")
    kinds.apply("---\n".join((gateway(), theirs, wrong)), "-n", place)
    assert told in said(kinds, place, reason)
    assert not own_objects(kinds, place)
    kinds.apply(pool(), "-n", place)
    accept_all(kinds, place)
    said(kinds, place, "Accepted")


def test_a_gateway_that_comes_later_heals_its_pools(kinds: Kubectl, place: str, operator: Operator) -> None:
    """Nobody has to touch the pool."""
    kinds.apply(pool(), "-n", place)
    said(kinds, place, "NoMatchingParent")
    kinds.apply(gateway(), "-n", place)
    accept_all(kinds, place)
    said(kinds, place, "Accepted")


def test_a_service_that_is_somebody_elses_is_said(kinds: Kubectl, place: str, operator: Operator) -> None:
    """The pool works all the same: Envoy asks the picker by another Service."""
    kinds("create", "service", "clusterip", "picker", "--tcp=80", "-n", place)
    kinds.apply(gateway() + "---\n" + pool(), "-n", place)
    assert "not ours" in said(kinds, place, "InvalidExtensionRef", "ResolvedRefs")
    kinds("delete", "service", "picker", "-n", place)
    said(kinds, place, "ResolvedRefs", "ResolvedRefs")


def test_an_object_of_our_name_that_is_somebody_elses_is_said(kinds: Kubectl, place: str, operator: Operator) -> None:
    """Of a kind that is watched only where it is ours."""
    kinds("create", "configmap", "igw-gw-p8081", "-n", place)
    kinds.apply(gateway() + "---\n" + pool(), "-n", place)
    assert f"ConfigMap {place}/igw-gw-p8081" in said(kinds, place, "Conflicted")
    kinds("delete", "configmap", "igw-gw-p8081", "-n", place)
    said(kinds, place, "Pending")


def test_an_invalid_edit_keeps_the_last_good_version_also_over_a_restart(
    api_server: ApiServer, kinds: Kubectl, place: str, tmp_path: Path
) -> None:
    """The listener goes on serving the pool, and the pool says why its new version does not count."""
    with running_operator(api_server.kubeconfig, tmp_path, "first") as first:
        kinds.apply(gateway() + "---\n" + pool(), "-n", place)
        said(kinds, place, "Pending")
        before = (first.idle(), set(own_objects(kinds, place)))[1]
        kinds("annotate", POOLS, "llm", f"{NOTE}=neither: yaml: nor", "--overwrite", "-n", place)
        assert "last valid version stays" in said(kinds, place, "Invalid")
        assert set(own_objects(kinds, place)) == before
    with running_operator(api_server.kubeconfig, tmp_path, "second") as second:
        second.serving().idle()
        assert second.writes() == 0
        assert set(own_objects(kinds, place)) == before
        assert "last valid version stays" in conditions(kinds, place)["Accepted"]["message"]
        kinds.apply(pool(port=8080), "-n", place)
        kinds.until(lambda: ("ConfigMap", "igw-gw-p8080") in own_objects(kinds, place), SOON_S, "the new port")


def test_a_model_name_belongs_to_the_older_object(kinds: Kubectl, place: str, operator: Operator) -> None:
    """The other one is told whose it is, and has it when that one goes."""
    kinds.apply("---\n".join((gateway(), pool(), model("a"))), "-n", place)
    said(kinds, place, "Accepted", name="a", kind="inferencemodels")
    kinds.apply(model("a").replace("name: a\nspec", "name: b\nspec"), "-n", place)
    assert f"{place}/a" in said(kinds, place, "ModelNameInUse", name="b", kind="inferencemodels")
    kinds("delete", "inferencemodel", "a", "-n", place)
    said(kinds, place, "Accepted", name="b", kind="inferencemodels")


def test_what_another_controller_says_of_the_pool_stays(kinds: Kubectl, place: str, operator: Operator) -> None:
    """Its entries are in the same list."""
    kinds.apply(gateway() + "---\n" + pool(), "-n", place)
    said(kinds, place, "Pending")
    entries = kinds.get(POOLS, "llm", place)["status"]["parents"]
    theirs = {"parentRef": {"name": "other", "namespace": "x"}, "controllerName": "example.com/theirs"}
    patch(kinds, place, POOLS, "llm", {"status": {"parents": [*entries, theirs]}}, "--subresource=status")
    accept_all(kinds, place)
    said(kinds, place, "Accepted")
    controllers = {one["controllerName"] for one in kinds.get(POOLS, "llm", place)["status"]["parents"]}
    assert controllers == {"example.com/theirs", "inferencegateway.io/inference-gateway"}


def test_endpoints_are_counted_by_the_slices_of_the_pools_service(
    kinds: Kubectl, place: str, operator: Operator
) -> None:
    """Without looking at Pods. The test writes the slice that the EndpointSlice controller would write."""
    kinds.apply(gateway() + "---\n" + pool(), "-n", place)
    kinds.until(lambda: ("Service", "igw-llm") in own_objects(kinds, place), SOON_S, "the Service")
    labels = kinds.get("service", "igw-llm", place)["metadata"]["labels"]
    slice_labels = {"kubernetes.io/service-name": "igw-llm", "endpointslice.kubernetes.io/managed-by": "x"}
    endpoints = [
        {"addresses": [f"10.1.2.{number}"], "conditions": {"ready": number > 1}, "targetRef": {"name": f"p{number}"}}
        for number in (1, 2, 3)
    ]
    kinds.apply(
        yaml.safe_dump(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": "igw-llm-abc", "labels": {**labels, **slice_labels}},
                "addressType": "IPv4",
                "endpoints": endpoints,
                "ports": [{"name": "port-8000", "port": 8000}],
            }
        ),
        "-n",
        place,
    )
    said(kinds, place, "EndpointsFound", "BackendsAvailable")
    assert kinds.get(POOLS, "llm", place)["status"]["endpoints"] == {"ready": 2, "total": 3}
    operator.idle()
    assert kinds.get("endpointslice", "igw-llm-abc", place)


def test_an_event_tells_of_each_turn_once(kinds: Kubectl, place: str, operator: Operator) -> None:
    """`kubectl describe` shows them."""
    kinds.apply(pool(), "-n", place)
    said(kinds, place, "NoMatchingParent")
    kinds.apply(gateway(), "-n", place)
    accept_all(kinds, place)
    said(kinds, place, "Accepted")
    operator.idle()
    found = [one for one in kinds.list("events", place) if one["involvedObject"]["kind"] == "InferencePool"]
    assert sorted(one["reason"] for one in found if one["message"].startswith("Accepted:")) == [
        "Accepted",
        "NoMatchingParent",
    ]
    assert {one["type"] for one in found if one["reason"] == "NoMatchingParent"} == {"Warning"}
    assert {one["source"]["component"] for one in found} == {"inference-gateway"}


def test_a_listener_that_somebody_elses_policy_is_for_is_left_alone(
    kinds: Kubectl, place: str, operator: Operator
) -> None:
    """Nothing is made, rather than a route past the picker. It heals when that policy is gone."""
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw", "sectionName": "p8081"}
    meta = {"name": "theirs", "namespace": place}
    kind = {"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "ClientTrafficPolicy"}
    theirs = yaml.safe_dump({**kind, "metadata": meta, "spec": {"targetRefs": [target]}})
    kinds.apply("---\n".join((gateway(), theirs, pool())), "-n", place)
    assert f"ClientTrafficPolicy {place}/theirs is for listener p8081" in said(kinds, place, "Conflicted")
    assert not own_objects(kinds, place)
    kinds("delete", "clienttrafficpolicy", "theirs", "-n", place)
    said(kinds, place, "Pending")
    accept_all(kinds, place)
    said(kinds, place, "Accepted")
