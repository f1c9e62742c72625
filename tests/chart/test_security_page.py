"""docs/security.md against the chart and the renderer: the rights on the page are those that the parts hold."""

import re
from pathlib import Path
from typing import Any

import pytest

from igw_api.manifests import collect, parse
from igw_operator.plan.build import build_plan
from igw_operator.render.envoy_gateway.objects import render
from igw_operator.render.envoy_gateway.values import Observed, Options
from igw_testing.gateway_texts import gateway, pool
from igw_testing.helm_chart import Rendering

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
Rights = dict[tuple[str, str], set[str]]


def told(title: str) -> Rights:
    """Verbs by group and resource, in the table under a title."""
    table = PAGE.partition(title)[2].partition("\n\n")[2].partition("\n\n")[0]
    found: Rights = {}
    for row in table.splitlines()[2:]:
        group, resources, verbs, *rest = (cell.strip() for cell in row.strip("|").split("|"))
        assert all(rest), f"each right has its reason: {row}"
        for resource in resources.split(", "):
            key = ("" if group == "core" else group, resource)
            assert key not in found, key
            found[key] = set(verbs.split(", "))
    assert found, title
    return found


def held(rules: list[dict[str, Any]]) -> Rights:
    """The same of RBAC rules."""
    found: Rights = {}
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def test_the_operators_rights_are_those_on_the_page(chart: Rendering) -> None:
    """With the chart's defaults."""
    assert held(chart.objects(None, "--skip-crds")["ClusterRole"]["rules"]) == told("The operator's ClusterRole:")


def test_a_pickers_rights_are_those_on_the_page() -> None:
    """Read only, and its ConfigMap by name."""
    objects, problems = collect({"f": parse(f"{gateway(80)}---\n{pool(port=80)}", "f")})
    assert not problems
    made = render(build_plan(objects)[0], objects, Observed(), Options(image="igw"))
    roles = [one.manifest for one in made if one.manifest["kind"] in ("Role", "ClusterRole")]
    rules = [rule for role in roles for rule in role["rules"]]
    assert {role["kind"] for role in roles} == {"Role"}
    assert held(rules) == told("The picker's Roles,")
    assert all(rule.get("resourceNames") for rule in rules if rule["resources"] == ["configmaps"])


@pytest.mark.parametrize("word", ["secrets", "*"])
def test_nobody_may_read_secrets_or_do_anything_at_all(chart: Rendering, word: str) -> None:
    """Whatever else is switched on."""
    rules = chart.objects({"gateway": {"patchPolicies": True}}, "--skip-crds")["ClusterRole"]["rules"]
    assert not [rule for rule in rules if word in (*rule["resources"], *rule["verbs"], *rule["apiGroups"])]


def test_the_tests_and_pages_that_the_page_names_exist() -> None:
    root = Path(__file__).parents[2]
    named = re.findall(r"`((?:tests|docs)/[\w./-]+|requirements[\w-]*\.lock)`", PAGE)
    assert named
    assert [path for path in named if not (root / path).exists()] == []
