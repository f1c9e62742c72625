"""What the API server keeps of our kinds, and what `kubectl get` shows: versions, status, columns."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from igw_cluster.kubectl import Kubectl, KubectlFailed
from igw_testing.crd_objects import K8S, LLM_D, OWN, X_K8S, apply, model, objective, policy, pool, rewrite

NOW = "2026-01-31T12:00:00Z"


def spec_of(kubectl: Kubectl, namespace: str, version: str, name: str) -> dict[str, Any]:
    """The pool's spec as a client of an alpha version reads it."""
    found = kubectl.get(f"inferencepools.{version}.{X_K8S}", name, namespace)
    assert found["apiVersion"] == f"{X_K8S}/{version}"
    return dict(found["spec"])


# ------------------------------------------------------------------------------------------------ versions

WRITTEN = {
    "v1alpha1": {"name": "p", "targetPortNumber": 9003},
    "v1alpha2": {"name": "p", "portNumber": 9004, "failureMode": "FailClose"},
}


@pytest.mark.parametrize("read", WRITTEN)
@pytest.mark.parametrize("written", WRITTEN)
def test_every_field_survives_whichever_version_is_written_and_read(
    installed: Kubectl, namespace: str, written: str, read: str
) -> None:
    """The server converts by renaming the version and drops what the stored one does not know: so both know all."""
    apply(installed, namespace, pool(written, extensionRef=WRITTEN[written]))
    stored = spec_of(installed, namespace, read, "pool")
    assert stored["extensionRef"] == {"group": "", "kind": "Service", **WRITTEN[written]}
    assert stored["targetPortNumber"] == 8000
    assert stored["selector"] == {"app": "x"}


def test_a_field_written_in_one_version_survives_a_change_made_in_the_other(installed: Kubectl, namespace: str) -> None:
    """As when a team edits an old manifest that another tool reads in the new version."""
    apply(installed, namespace, pool("v1alpha1", extensionRef=WRITTEN["v1alpha1"]))
    patch = '{"spec": {"extensionRef": {"failureMode": "FailClose"}}}'
    installed("patch", f"inferencepools.v1alpha2.{X_K8S}", "pool", "-n", namespace, "--type=merge", "-p", patch)
    stored = spec_of(installed, namespace, "v1alpha1", "pool")["extensionRef"]
    assert (stored["targetPortNumber"], stored["failureMode"]) == (9003, "FailClose")


@pytest.mark.parametrize("read", ["v1alpha1", "v1alpha2"])
@pytest.mark.parametrize("written", ["v1alpha1", "v1alpha2"])
def test_models_survive_the_same_way(installed: Kubectl, namespace: str, written: str, read: str) -> None:
    apply(installed, namespace, model(written, criticality="Critical", targetModels=[{"name": "m", "weight": 3}]))
    stored = installed.get(f"inferencemodels.{read}.{X_K8S}", "model", namespace)["spec"]
    assert (stored["criticality"], stored["targetModels"]) == ("Critical", [{"name": "m", "weight": 3}])


# ------------------------------------------------------------------------------------------------ status


def condition(status: str = "True") -> dict[str, Any]:
    return {"type": "Accepted", "status": status, "reason": "Accepted", "message": "", "lastTransitionTime": NOW}


def parents() -> list[dict[str, Any]]:
    return [{"parentRef": {"name": "gateway"}, "controllerName": "inferencegateway.io/c", "conditions": [condition()]}]


def write_status(kubectl: Kubectl, namespace: str, kind: str, name: str, status: dict[str, Any]) -> None:
    """As the operator does: server-side apply of the status subresource."""
    shape = kubectl.get(kind, name, namespace)
    body = {key: shape[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": name}, "status": status}
    words = ("--subresource=status", "--field-manager=inference-gateway", "-n", namespace)
    kubectl.apply(yaml.safe_dump(body), *words)


FACTS = {"policy": "prefix-cache", "endpoints": {"ready": 2, "total": 3}, "models": 1}
POOL_COLUMNS = {"POLICY": "prefix-cache", "READY": "2", "ENDPOINTS": "3", "MODELS": "1", "ACCEPTED": "True"}
CONDITIONS = {"conditions": [condition()]}
COLUMNS: dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Any], dict[str, str]]] = {
    f"inferencepools.v1.{K8S}": (pool, FACTS | {"parents": parents()}, POOL_COLUMNS),
    f"inferencepools.v1alpha1.{X_K8S}": (lambda: pool("v1alpha1"), FACTS | {"parent": parents()}, POOL_COLUMNS),
    f"inferencepools.v1alpha2.{X_K8S}": (lambda: pool("v1alpha2"), FACTS | {"parent": parents()}, POOL_COLUMNS),
    f"inferencemodels.v1alpha2.{X_K8S}": (
        lambda: model(criticality="Critical"),
        CONDITIONS,
        {"MODEL NAME": "m", "POOL": "pool", "CRITICALITY": "Critical", "ACCEPTED": "True"},
    ),
    f"inferenceobjectives.{LLM_D}": (
        lambda: objective(priority=2),
        CONDITIONS,
        {"POOL": "pool", "PRIORITY": "2", "ACCEPTED": "True"},
    ),
    f"inferencemodelrewrites.{LLM_D}": (rewrite, CONDITIONS, {"POOL": "pool", "ACCEPTED": "True"}),
    f"inferencepoolpolicies.{OWN}": (
        policy,
        CONDITIONS | {"pools": ["pool", "other"]},
        {"SCHEDULING": "prefix-cache", "POOLS": '["pool","other"]', "ACCEPTED": "True"},
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_kubectl_get_shows_what_a_person_wants_to_know(installed: Kubectl, namespace: str, kind: str) -> None:
    """In this order, and the age last."""
    build, status, expected = COLUMNS[kind]
    manifest = build()
    apply(installed, namespace, manifest)
    write_status(installed, namespace, kind, manifest["metadata"]["name"], status)
    header, row = installed("get", kind, "-n", namespace).splitlines()
    starts = [header.index(f"{name} ") for name in (*expected, "AGE ")[:-1]] + [header.index("AGE")]
    cells = [row[start:end].strip() for start, end in zip(starts, [*starts[1:], len(row)], strict=True)]
    assert starts == sorted(starts)
    assert dict(zip(expected, cells, strict=False)) == expected
    assert cells[-1]


def test_a_status_is_no_part_of_what_users_write(installed: Kubectl, namespace: str) -> None:
    """The main resource ignores it, and the subresource ignores the spec."""
    apply(installed, namespace, pool() | {"status": FACTS})
    assert "status" not in installed.get("infpool", "pool", namespace)
    write_status(installed, namespace, f"inferencepools.v1.{K8S}", "pool", FACTS | {"parents": parents()})
    apply(installed, namespace, pool(appProtocol="kubernetes.io/h2c"))
    stored = installed.get("infpool", "pool", namespace)
    assert stored["status"]["policy"] == "prefix-cache"
    assert stored["spec"]["appProtocol"] == "kubernetes.io/h2c"


def test_a_condition_without_a_reason_is_refused(installed: Kubectl, namespace: str) -> None:
    apply(installed, namespace, model())
    wrong = {"conditions": [condition() | {"reason": ""}]}
    with pytest.raises(KubectlFailed, match="reason"):
        write_status(installed, namespace, f"inferencemodels.v1alpha2.{X_K8S}", "model", wrong)
