"""The chart on a real API server: installed, upgraded, removed; whose definitions it touches; what its rights allow.

There are no controllers here, so no Pod starts: that is for the whole cluster to show.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from igw_cluster.apiserver import ApiServer
from igw_cluster.helm import Helm
from igw_cluster.kubectl import Kubectl, KubectlFailed
from igw_testing.chart_cases import CASES, values_of
from igw_testing.helm_chart import CHART, Rendering

NAMESPACE = "igw-system"
OPERATOR = f"--as=system:serviceaccount:{NAMESPACE}:igw-inference-gateway"
UPSTREAM = "inferencepools.inference.networking.k8s.io"
OURS = "inferencepoolpolicies.inferencegateway.io"
BUNDLE = "inference.networking.k8s.io/bundle-version"
# Prometheus' own kinds are not there.
FOREIGN = {"ServiceMonitor", "PodMonitor"}


@pytest.fixture(scope="module")
def kubectl(api_server: ApiServer) -> Kubectl:
    api_server.kubectl("create", "namespace", NAMESPACE)
    return api_server.kubectl


@pytest.fixture
def helm_there(helm: Helm, api_server: ApiServer, kubectl: Kubectl) -> Helm:
    return Helm(helm.program, api_server.kubeconfig, helm.home)


@pytest.fixture
def bare(kubectl: Kubectl, helm_there: Helm) -> Iterator[Kubectl]:
    """A server without a release or a definition; the test leaves none behind."""
    yield kubectl
    helm_there("uninstall", "igw", f"--namespace={NAMESPACE}", "--ignore-not-found")
    kubectl("delete", "crd", "--all", "--wait=true", "--timeout=30s")


def install(helm: Helm, **values: Any) -> str:
    return helm("install", "igw", str(CHART), f"--namespace={NAMESPACE}", values=values)


def upgrade(helm: Helm, **values: Any) -> str:
    return helm("upgrade", "igw", str(CHART), f"--namespace={NAMESPACE}", values=values)


@pytest.fixture
def installed(helm_there: Helm, bare: Kubectl) -> str:
    """What Helm said when it installed the release `igw`."""
    return install(helm_there)


def with_description(kubectl: Kubectl, name: str, text: str) -> None:
    """Change a definition in a way that can be seen."""
    path = "/spec/versions/0/schema/openAPIV3Schema/description"
    kubectl("patch", "crd", name, "--type=json", "-p", yaml.safe_dump([{"op": "replace", "path": path, "value": text}]))


def description(kubectl: Kubectl, name: str) -> str:
    return str(kubectl.get("crd", name)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"])


# ------------------------------------------------------------------------------------------------ objects


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_server_takes_everything_that_is_rendered(
    installed: str, kubectl: Kubectl, chart: Rendering, case: Any
) -> None:
    """Strictly: an unknown field is an error. Nothing is stored."""
    rendered = [one for one in chart.objects(values_of(case)).values() if one["kind"] not in FOREIGN]
    assert rendered
    kubectl.apply(yaml.safe_dump_all(rendered), "--dry-run=server", "--validate=strict")


def test_the_next_step_is_said(installed: str) -> None:
    assert "Envoy Gateway is missing" in installed
    assert "attach-to" in installed
    assert "was left as it is" not in installed


def test_the_next_step_works_as_it_is_written(installed: str, kubectl: Kubectl) -> None:
    """The manifest in the notes is one that the server takes."""
    text = installed[installed.index("  apiVersion:") : installed.index("Then `kubectl")]
    kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{UPSTREAM}")
    kubectl.apply(text, "-n", NAMESPACE, "--dry-run=server", "--validate=strict")


def test_installing_again_changes_nothing(installed: str, helm_there: Helm, kubectl: Kubectl) -> None:
    def state() -> dict[str, int]:
        kinds = "crd,clusterrole,deployment.apps,configmap,clusterkopfpeering"
        found = kubectl.list(kinds)
        return {f"{one['kind']}/{one['metadata']['name']}": one["metadata"].get("generation", 0) for one in found}

    before = state()
    upgrade(helm_there)
    assert state() == before


# ------------------------------------------------------------------------------------------------ definitions


def test_an_upgrade_updates_the_definitions_of_the_release(helm_there: Helm, bare: Kubectl, tmp_path: Path) -> None:
    """From an older chart, whose definition says something else."""
    older = tmp_path / "older"
    shutil.copytree(CHART, older)
    file = older / "files" / "crds" / "inferencegateway.io_inferencepoolpolicies.yaml"
    old = yaml.safe_load(file.read_text())
    old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "An older one."
    file.write_text(yaml.safe_dump(old))
    helm_there("install", "igw", str(older), f"--namespace={NAMESPACE}")
    assert description(bare, OURS) == "An older one."
    upgrade(helm_there)
    assert description(bare, OURS) == "How the requests of some pools are placed."


def test_definitions_that_came_from_elsewhere_are_never_touched(helm_there: Helm, bare: Kubectl) -> None:
    """Upstream's InferencePool stays as it is when the release comes, changes and goes; the notes say so."""
    upstream = yaml.safe_load(
        (CHART / "files" / "crds" / "inference.networking.k8s.io_inferencepools.yaml").read_text()
    )
    upstream["metadata"]["annotations"] = {"api-approved.kubernetes.io": "unapproved, upstream", BUNDLE: "v1.2.0"}
    upstream["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "Upstream's."
    bare.apply(yaml.safe_dump(upstream))
    said = install(helm_there)
    assert f"{UPSTREAM} came from elsewhere and was left as it is." in said
    upgrade(helm_there, operator={"replicas": 1})
    helm_there("uninstall", "igw", f"--namespace={NAMESPACE}")
    assert description(bare, UPSTREAM) == "Upstream's."
    shown = json.loads(bare("get", "crd", UPSTREAM, "-o", "json", "--show-managed-fields"))
    assert not any("helm" in one["manager"] for one in shown["metadata"]["managedFields"])


def test_a_definition_that_upstream_took_over_stays_upstreams(
    installed: str, helm_there: Helm, kubectl: Kubectl
) -> None:
    """Helm's marks are still on it, and the extension's bundle version is too."""
    kubectl("annotate", "crd", UPSTREAM, f"{BUNDLE}=v1.2.0")
    with_description(kubectl, UPSTREAM, "Upstream's.")
    upgrade(helm_there, operator={"replicas": 1})
    upgrade(helm_there, operator={"replicas": 2})
    assert description(kubectl, UPSTREAM) == "Upstream's."


def test_objects_of_users_outlive_the_release(installed: str, helm_there: Helm, kubectl: Kubectl) -> None:
    """Deleting a definition would delete every pool: Helm leaves them, and a new release of the name goes on."""
    pool = {"selector": {"matchLabels": {"app": "x"}}, "targetPorts": [{"number": 8000}]}
    kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{UPSTREAM}")
    kind = {"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool"}
    kubectl.apply(yaml.safe_dump(kind | {"metadata": {"name": "pool", "namespace": NAMESPACE}, "spec": pool}))
    helm_there("uninstall", "igw", f"--namespace={NAMESPACE}")
    assert kubectl.get("infpool", "pool", NAMESPACE)
    assert "came from elsewhere" not in install(helm_there)
    assert kubectl.get("infpool", "pool", NAMESPACE)


# ------------------------------------------------------------------------------------------------ rights


def allowed(kubectl: Kubectl, verb: str, group: str, resource: str, **more: str) -> bool:
    """The server's word on what the operator may do. (kubectl's `can-i` says no to kinds that it has not heard of.)"""
    asked = {"verb": verb, "group": group, "resource": resource, **more}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    text = yaml.safe_dump(review | {"spec": {"resourceAttributes": asked}})
    answer = json.loads(kubectl("create", "-f", "-", "-o", "json", OPERATOR, stdin=text))
    return bool(answer["status"]["allowed"])


def role(resource: str, *verbs: str) -> str:
    meta = {"name": "picker", "namespace": "default"}
    rule = {"apiGroups": [""], "resources": [resource], "verbs": list(verbs)}
    head = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role"}
    return yaml.safe_dump(head | {"metadata": meta, "rules": [rule]})


def test_the_operator_may_give_pickers_what_they_need_and_no_more(installed: str, kubectl: Kubectl) -> None:
    """The API server lets nobody grant what he has not."""
    for resource in ("pods", "configmaps"):
        kubectl.apply(role(resource, "get", "list", "watch"), OPERATOR, "--dry-run=server")
    for text in (role("secrets", "get"), role("pods", "delete"), role("pods/exec", "create")):
        with pytest.raises(KubectlFailed, match="attempting to grant RBAC permissions not currently held"):
            kubectl.apply(text, OPERATOR, "--dry-run=server")


def test_the_operator_may_not_touch_what_is_not_its_business(installed: str, kubectl: Kubectl) -> None:
    """Users' objects, other operators' peerings, secrets, and the proxies."""
    pools, peerings = ("inference.networking.k8s.io", "inferencepools"), ("kopf.dev", "clusterkopfpeerings")
    assert allowed(kubectl, "patch", *pools, subresource="status")
    assert allowed(kubectl, "patch", *peerings, name="igw-inference-gateway")
    assert not allowed(kubectl, "patch", *peerings, name="other")
    for verb, group, resource in [
        ("patch", *pools),
        ("delete", *pools),
        ("get", "", "secrets"),
        ("delete", "", "pods"),
        ("create", "gateway.envoyproxy.io", "envoypatchpolicies"),
        ("patch", "gateway.networking.k8s.io", "gateways"),
        ("create", "rbac.authorization.k8s.io", "clusterroles"),
    ]:
        assert not allowed(kubectl, verb, group, resource), f"{verb} {resource}"
