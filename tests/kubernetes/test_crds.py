"""The CustomResourceDefinitions on a real API server: it takes them, and then it takes and refuses what it should.

What a unit test cannot know: whether the schemas are structural, and whether the rules compile and are cheap enough.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from igw_api.crdgen import DEFINITIONS, Definition
from igw_cluster.kubectl import Kubectl, KubectlFailed
from igw_testing.crd_objects import K8S, X_K8S, apply, endpoints, model, objective, policy, pool, rewrite

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "tests" / "data" / "manifests"


# ------------------------------------------------------------------------------------------------ definitions


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda one: one.name)
def test_the_server_establishes_the_definition_and_finds_its_schema_structural(
    installed: Kubectl, definition: Definition
) -> None:
    """A schema that is not structural gets a condition that says so; rules that do not compile, a refusal."""
    found = installed.get("crd", definition.name)
    conditions = {one["type"]: one for one in found["status"]["conditions"]}
    assert conditions["Established"]["status"] == "True"
    assert "NonStructuralSchema" not in conditions
    assert "Terminating" not in conditions


def test_a_definition_in_a_protected_group_needs_to_say_that_nobody_approved_it(installed: Kubectl) -> None:
    """Without its annotation the server refuses it."""
    crd = yaml.safe_load((ROOT / "crds" / f"{K8S}_inferencepools.yaml").read_text())
    crd["metadata"] = {"name": f"other.{K8S}"}
    crd["spec"]["names"] = {"kind": "Other", "listKind": "OtherList", "plural": "other", "singular": "other"}
    with pytest.raises(KubectlFailed, match=r"api-approved\.kubernetes\.io"):
        installed.apply(yaml.safe_dump(crd), "--dry-run=server")


def test_applying_the_definitions_again_changes_nothing(installed: Kubectl) -> None:
    before = {one["metadata"]["name"]: one["metadata"]["generation"] for one in installed.list("crd")}
    installed.apply(ROOT / "crds")
    assert {one["metadata"]["name"]: one["metadata"]["generation"] for one in installed.list("crd")} == before


# ------------------------------------------------------------------------------------------------ objects


def test_the_manifests_of_users_are_taken_as_they_are(installed: Kubectl, namespace: str) -> None:
    """Strictly: a field that would be dropped is an error."""
    text = (MANIFESTS / "inference-gateway-llm.yaml").read_text()
    applied = installed.apply(text, "-n", namespace, "--validate=strict")
    assert applied.count("serverside-applied") == 2


VALID = {
    "pool v1, as short as it can be": pool(),
    "pool v1, several ports": pool(targetPorts=[{"number": 8000}, {"number": 8001}]),
    "pool v1, h2c": pool(appProtocol="kubernetes.io/h2c"),
    "pool v1, with a picker": pool(
        endpointPickerRef={"name": "p", "port": {"number": 9002}, "failureMode": "FailOpen"}
    ),
    "pool v1, a picker that is no Service, without port": pool(endpointPickerRef={"name": "p", "kind": "Other"}),
    "pool v1alpha1": pool("v1alpha1", extensionRef={"name": "p", "targetPortNumber": 9002}),
    "pool v1alpha2": pool("v1alpha2", extensionRef={"name": "p", "portNumber": 9002, "failureMode": "FailClose"}),
    "model v1alpha1": model("v1alpha1", criticality="Critical", targetModels=[{"name": "m", "weight": 100}]),
    "model v1alpha2": model(criticality="Sheddable", targetModels=[{"name": "a"}, {"name": "b"}]),
    "objective": objective(priority=-1),
    "objective of the extension's group": objective(X_K8S, priority=2**31 - 1),
    "rewrite": rewrite(
        rules=[{"matches": [{"model": {"value": "m"}}], "targets": [{"modelRewrite": "m", "weight": 1}]}]
    ),
    "rewrite of the extension's group": rewrite(X_K8S),
    "policy": policy(scheduling={"policy": "least-request"}),
    "policy, a shadow": policy(scheduling={"shadow": {"policy": "random", "sampling": 0.25}}),
    "endpoints": endpoints({"address": "10.0.0.1", "port": 8000, "labels": {"app": "x"}}),
}


@pytest.mark.parametrize("manifest", VALID.values(), ids=VALID)
def test_a_valid_object_is_taken(installed: Kubectl, namespace: str, manifest: dict[str, Any]) -> None:
    """And none of its fields is dropped: strict validation is on."""
    assert "serverside-applied" in apply(installed, namespace, manifest)


PORTS_TWICE = [{"number": 8000}, {"number": 8000}]
MIXED = [{"name": "a", "weight": 1}, {"name": "b"}]
INVALID = {
    "pool v1, a port twice": (pool(targetPorts=PORTS_TWICE), "port number must be unique"),
    "pool v1, no port": (pool(targetPorts=[]), "targetPorts"),
    "pool v1, nine ports": (pool(targetPorts=[{"number": n} for n in range(1, 10)]), "at most 8"),
    "pool v1, a port out of range": (pool(targetPorts=[{"number": 65536}]), "65535"),
    "pool v1, no selector": (pool(selector=None), "selector"),
    "pool v1, an empty selector": (pool(selector={"matchLabels": {}}), "at least 1"),
    "pool v1, a label that is none": (pool(selector={"matchLabels": {"app": "a b"}}), "should match"),
    "pool v1, a Service without port": (pool(endpointPickerRef={"name": "p"}), "port is required"),
    "pool v1, an unknown failure mode": (pool(endpointPickerRef={"name": "p", "failureMode": "Open"}), "Unsupported"),
    "pool v1, an unknown protocol": (pool(appProtocol="grpc"), "Unsupported value"),
    "pool v1, an unknown field": (pool(targetPort=8000), "targetPort"),
    "pool v1, a number as text": (pool(targetPorts=[{"number": "8000"}]), "type"),
    "pool v1alpha1, no port": (pool("v1alpha1", targetPortNumber=None), "targetPortNumber"),
    "pool v1alpha1, a selector as in v1": (pool("v1alpha1", selector={"matchLabels": {"app": "x"}}), "matchLabels"),
    "pool v1alpha2, both port names": (
        pool("v1alpha2", extensionRef={"name": "p", "portNumber": 1, "targetPortNumber": 1}),
        "use either portNumber or targetPortNumber",
    ),
    "model v1alpha1, some weights": (model("v1alpha1", targetModels=MIXED), "for all targetModels or for none"),
    "model v1alpha2, some weights": (model(targetModels=MIXED), "for all targetModels or for none"),
    "model, no name": (model(modelName=None), "modelName"),
    "model, an empty name": (model(modelName=""), "at least 1"),
    "model, no pool": (model(poolRef=None), "poolRef"),
    "model, an unknown criticality": (model(criticality="High"), "Unsupported value"),
    "model, eleven targets": (model(targetModels=[{"name": f"m{n}"} for n in range(11)]), "at most 10"),
    "objective, a priority too high": (objective(priority=2**31), "2147483647"),
    "objective of the extension's group, no pool": (objective(X_K8S, poolRef=None), "poolRef"),
    "rewrite, no rule": (rewrite(rules=[]), "at least 1"),
    "rewrite, a rule without target": (rewrite(rules=[{"targets": []}]), "at least 1"),
    "rewrite of the extension's group, a weight of zero": (
        rewrite(X_K8S, rules=[{"targets": [{"modelRewrite": "m", "weight": 0}]}]),
        "greater than or equal to 1",
    ),
    "policy, an unknown scheduling policy": (policy(scheduling={"policy": "fastest"}), "Unsupported value"),
    "policy, an unknown shadow": (policy(scheduling={"shadow": {"policy": "pd-split"}}), "Unsupported value"),
    "policy, more than all of the requests in the shadow": (
        policy(scheduling={"shadow": {"policy": "random", "sampling": 1.5}}),
        "less than or equal to 1",
    ),
    "policy, no target": (policy(targetRefs=[]), "at least 1"),
    "policy, an unknown field": (policy(schedule={}), "schedule"),
    "endpoints, a host name": (endpoints({"address": "engine.local"}), "should match"),
}


@pytest.mark.parametrize(("manifest", "said"), INVALID.values(), ids=INVALID)
def test_an_invalid_object_is_refused_with_the_reason(
    installed: Kubectl, namespace: str, manifest: dict[str, Any], said: str
) -> None:
    with pytest.raises(KubectlFailed, match=f"(?s){said}"):
        apply(installed, namespace, manifest)


def test_the_name_of_a_model_never_changes(installed: Kubectl, namespace: str) -> None:
    """Clients and priorities hang on it; another name is another object."""
    apply(installed, namespace, model())
    with pytest.raises(KubectlFailed, match="modelName is immutable"):
        apply(installed, namespace, model(modelName="other"))


def test_a_policy_without_scheduling_gets_the_default_for_everybody_to_see(installed: Kubectl, namespace: str) -> None:
    apply(installed, namespace, policy())
    assert installed.get("inferencepoolpolicies", "policy", namespace)["spec"]["scheduling"] == {
        "policy": "prefix-cache",
        "explain": False,
    }


@pytest.mark.parametrize("version", ["v1", "v1alpha1", "v1alpha2"])
def test_an_unset_failure_mode_stays_unset(installed: Kubectl, namespace: str, version: str) -> None:
    """Unset means that losing the picker costs no request; a default would be taken for a wish."""
    field = "endpointPickerRef" if version == "v1" else "extensionRef"
    picker: dict[str, Any] = {"name": "p"} | ({"port": {"number": 9002}} if version == "v1" else {})
    apply(installed, namespace, pool(version, "pool", **{field: picker}))
    group = K8S if version == "v1" else X_K8S
    stored = installed.get(f"inferencepools.{version}.{group}", "pool", namespace)
    assert "failureMode" not in stored["spec"][field]
