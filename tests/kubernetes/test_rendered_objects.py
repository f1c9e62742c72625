"""Everything that is rendered is accepted by a real API server, with the kinds of Envoy Gateway 1.9 installed."""

import json
from pathlib import Path

import pytest

from igw_api.manifests import collect, parse
from igw_cluster.kubectl import Kubectl
from igw_operator.plan.build import build_plan
from igw_operator.render.envoy_gateway.names import names_of
from igw_operator.render.envoy_gateway.objects import render
from igw_operator.render.envoy_gateway.values import Observed, Options
from igw_testing.operator_process import install_gateway_kinds

CASES = sorted((Path(__file__).parents[1] / "golden" / "cases").iterdir())
OPTIONS = Options(
    image="registry.example/igw:test",
    resources={"requests": {"cpu": "100m"}},
    node_selector={"kubernetes.io/os": "linux"},
    tolerations=({"key": "gateway", "operator": "Exists"},),
    image_pull_secrets=({"name": "registry"},),
    patch_policies=True,
)


@pytest.fixture(scope="module")
def kinds(installed: Kubectl) -> Kubectl:
    """kubectl to a server with all kinds that are rendered."""
    install_gateway_kinds(installed)
    return installed


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_a_golden_case_is_accepted_field_by_field(kinds: Kubectl, case: Path) -> None:
    """Nothing is kept: the server validates as if it were. An unknown field is an error too."""
    objects, _ = collect({"in.yaml": parse((case / "in.yaml").read_text(), "in.yaml")})
    plan, _ = build_plan(objects)
    names = names_of(plan.sites)
    addresses = {names.site(site): f"10.96.7.{number}" for number, site in enumerate(plan.sites, 1)}
    rendered = render(plan, objects, Observed(cluster_ips=addresses), OPTIONS)
    for namespace in sorted({one.identity[1].namespace for one in rendered} - {"default"}):
        kinds.apply(json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))
    if rendered:
        listed = {"apiVersion": "v1", "kind": "List", "items": [one.manifest for one in rendered]}
        options = ("--server-side", "--dry-run=server", "--validate=strict", "--field-manager=test")
        kinds("apply", *options, "-f", "-", stdin=json.dumps(listed))
