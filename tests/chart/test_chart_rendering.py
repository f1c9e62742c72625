"""What the chart renders: compared as a whole with committed files, and by what must hold of it.

`pytest tests/chart --update-chart` writes the files anew; read the difference before committing it.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from igw_api.kinds import KINDS
from igw_api.meta import OWN_GROUP
from igw_cluster.helm import Helm
from igw_operator.controller.resources import DECLARED, EVENT, PEERING, RENDERED, WATCHED
from igw_operator.operator_settings import load
from igw_operator.render.envoy_gateway.manifests import API_VERSIONS
from igw_testing.chart_cases import CASES, values_of
from igw_testing.helm_chart import CHART, Rendering

ROOT = Path(__file__).parents[2]
CONTROLLER = ROOT / "operator" / "igw_operator" / "controller"
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
WITHOUT_CRDS = "--set=crds.install=false"  # they are compared with crds/ instead
READ, WRITE = {"get", "list", "watch"}, {"create", "patch", "delete"}


@cases
def test_the_rendered_output_is_the_committed_one(chart: Rendering, case: Path, request: pytest.FixtureRequest) -> None:
    golden = case / "rendered.yaml"
    rendered = chart.text(values_of(case), WITHOUT_CRDS)
    if request.config.getoption("--update-chart", default=False):
        golden.write_text(rendered)
    assert golden.read_text() == rendered


@cases
def test_lint_finds_nothing(helm: Helm, case: Path) -> None:
    helm("lint", "--strict", str(CHART), values=values_of(case))


def test_the_definitions_are_those_of_the_models(chart: Rendering) -> None:
    """Word for word, with Helm's marks added; and they stay when the release goes."""
    rendered = {
        one["metadata"]["name"]: one
        for one in yaml.safe_load_all(chart.text())
        if one and one["kind"] == "CustomResourceDefinition"
    }
    sources = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    expected = {one["metadata"]["name"]: one for one in sources if one["spec"]["names"]["kind"] != "EndpointList"}
    assert rendered.keys() == expected.keys()
    for name, crd in rendered.items():
        annotations = crd["metadata"].pop("annotations")
        assert annotations.pop("helm.sh/resource-policy") == "keep"
        assert annotations == expected[name]["metadata"].pop("annotations", {})
        del crd["metadata"]["labels"]
        assert crd == expected[name]


@cases
def test_the_operator_reads_its_configuration_as_it_is_rendered(chart: Rendering, case: Path, tmp_path: Path) -> None:
    """With its own reader, which refuses what it does not know."""
    objects = chart.objects(values_of(case), WITHOUT_CRDS)
    maps = [one for key, one in objects.items() if key.startswith("ConfigMap") and "operator.yaml" in one["data"]]
    (tmp_path / "operator.yaml").write_text(maps[0]["data"]["operator.yaml"])
    config = load(tmp_path / "operator.yaml")
    assert config.operator.peering == objects["ClusterKopfPeering"]["metadata"]["name"]
    port = objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"]
    assert config.operator.address == ("0.0.0.0", port)
    full = case.name == "everything"
    assert (config.gateway.patch_policies, config.gateway.providers) == (full, full)
    assert config.gateway.picker_wait_seconds == (7.5 if full else 30)
    assert config.options.image_pull_secrets == (({"name": "registry"},) if full else ())
    assert config.picker.image.startswith(("inference-gateway:", "registry.example/team/picker:"))


@cases
def test_the_operators_pods_can_do_nothing_but_their_work(chart: Rendering, case: Path) -> None:
    """No root, no writing, no privileges, as restricted Pod security asks."""
    pod = chart.objects(values_of(case), WITHOUT_CRDS)["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()


def test_the_operators_know_each_other_by_their_pods_names(chart: Rendering) -> None:
    """The variable that the chart sets is the one that is read."""
    (container,) = chart.objects({}, WITHOUT_CRDS)["Deployment"]["spec"]["template"]["spec"]["containers"]
    read = re.findall(r'environ\.get\("(\w+)"', (CONTROLLER / "process.py").read_text())
    assert [one["name"] for one in container["env"]] == read
    assert container["env"][0]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


ALL_KINDS = {"gateway": {"patchPolicies": True, "providers": True}}


def rights(chart: Rendering, values: dict[str, Any] | None = None) -> dict[tuple[str, str], set[str]]:
    """Verbs by group and resource."""
    found: dict[tuple[str, str], set[str]] = {}
    for rule in chart.objects(values, WITHOUT_CRDS)["ClusterRole"]["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def resource_of(kind: str) -> str:
    return f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind.lower()}es" if kind.endswith("s") else f"{kind}s"


def test_the_operator_may_do_what_it_does_and_nothing_else(chart: Rendering) -> None:
    """It writes what the renderer has, reads what users write, and patches the status of that."""
    written = {
        (version.rpartition("/")[0], resource_of(kind).lower()): READ | WRITE for kind, version in API_VERSIONS.items()
    }
    users = {
        (version.rpartition("/")[0], resource_of(kind).lower())
        for kind, versions in KINDS.items()
        for version in versions
        if kind.startswith("Inference")
    }
    gateway_api = {("gateway.networking.k8s.io", name): READ for name in ("gateways", "gatewayclasses")}
    peering = {("kopf.dev", "clusterkopfpeerings"): READ | {"patch"}}
    other = {
        ("", "pods"): READ,
        ("", "events"): {"create"},
        ("apiextensions.k8s.io", "customresourcedefinitions"): {"list", "watch"},
    }
    expected = written | dict.fromkeys(users, READ) | {(group, f"{name}/status"): {"patch"} for group, name in users}
    assert rights(chart, ALL_KINDS) == expected | gateway_api | peering | other
    assert (OWN_GROUP, "endpointlists") not in expected


def test_all_that_the_operator_watches_and_writes_is_allowed(chart: Rendering) -> None:
    """By the operator's own table."""
    held = rights(chart, ALL_KINDS)
    for resource in WATCHED:
        assert held[resource.group, resource.plural] >= {"list", "watch"}, resource.name
    for resource in RENDERED:
        assert held[resource.group, resource.plural] >= WRITE, resource.name
    for resource in DECLARED:
        assert "patch" in held[resource.group, f"{resource.plural}/status"], resource.name
    assert "create" in held[EVENT.group, EVENT.plural]
    assert held[PEERING.group, PEERING.plural] >= {"get", "list", "watch", "patch"}


def test_patch_policies_and_backends_are_only_removed_where_they_are_off(chart: Rendering) -> None:
    """Whoever may write them owns the proxy, or leads out of the cluster; those left over must go all the same."""
    for resource in ("envoypatchpolicies", "backends"):
        assert rights(chart)["gateway.envoyproxy.io", resource] == READ | {"delete"}


def test_no_right_is_a_wildcard_and_none_is_about_secrets(chart: Rendering) -> None:
    for (group, resource), verbs in rights(chart).items():
        assert "*" not in {group, resource, *verbs}
        assert resource != "secrets"
        assert not verbs & {"escalate", "bind", "impersonate"}


def test_the_configuration_is_part_of_what_makes_pods_new(chart: Rendering) -> None:
    """The operator reads it once."""
    pods = [
        chart.objects(values, WITHOUT_CRDS)["Deployment"]["spec"]["template"]
        for values in ({}, {"picker": {"logLevel": "debug"}})
    ]
    assert pods[0]["metadata"]["annotations"] != pods[1]["metadata"]["annotations"]
    assert pods[0]["spec"] == pods[1]["spec"]


def test_options_that_are_off_leave_nothing(chart: Rendering) -> None:
    kinds = {key.partition("/")[0] for key in chart.objects({"podDisruptionBudget": {"enabled": False}}, WITHOUT_CRDS)}
    assert not kinds & {"NetworkPolicy", "ServiceMonitor", "PodMonitor", "PodDisruptionBudget"}


def test_a_budget_for_a_single_pod_is_left_out(chart: Rendering) -> None:
    """It would only keep nodes from being drained."""
    assert "PodDisruptionBudget" not in chart.objects({"operator": {"replicas": 1}}, WITHOUT_CRDS)


def test_the_dashboard_shows_only_series_that_are_exported() -> None:
    """docs/metrics.md lists them all; a histogram has three."""
    listed = dict(re.findall(r"^\| `(igw_\w+)` \| (\w+) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    exported = {
        f"{name}{suffix}"
        for name, kind in listed.items()
        for suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }
    boards = list((CHART / "files" / "dashboards").glob("*.json"))
    assert boards
    for board in boards:
        used = set(re.findall(r"\bigw_\w+", board.read_text())) - {"igw_picker"}
        assert used
        assert used <= exported
        panels = json.loads(board.read_text())["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
