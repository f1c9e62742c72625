"""Golden cases: manifests in, and what is rendered and said of them, as files to read.

Each folder of `cases` is one rule, in its name. `in.yaml` holds the manifests; `routes.yaml` the route tables by
listener and the endpoints by cluster, `conditions.yaml` what the plan says of the objects, `status.yaml` what users
read in them, and `eg.yaml` what differs between cases of the objects for Envoy Gateway. `bootstrap.yaml` and
`eg-whole.yaml`, where they exist, hold all that Envoy and Envoy Gateway get. `pytest tests/golden --update-golden`
writes them anew. Real Envoy must accept every case.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from igw_api.manifests import Problem, collect, parse
from igw_api.objectset import ObjectSet
from igw_operator.envoy import find_binary, validate
from igw_operator.plan.build import build_plan
from igw_operator.plan.model import Condition, GatewayPlan
from igw_operator.render.bootstrap import everything, resource_files
from igw_operator.render.envoy_gateway.values import Rendered
from igw_operator.render.providers import credential_files
from igw_operator.render.status.patches import statuses
from igw_testing.plans import rendered, surroundings
from igw_testing.status_facts import NOW, declared_of, facts_of

CASES = sorted((Path(__file__).parent / "cases").iterdir())
CASE = pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)


class Planned(NamedTuple):
    """A case, and what became of it."""

    text: str
    objects: ObjectSet
    plan: GatewayPlan
    conditions: tuple[Condition, ...]
    problems: tuple[Problem, ...]


def routes(found: Planned) -> dict[str, Any]:
    """Route tables and endpoints, without the settings that all have in common."""
    plan = found.plan
    files = {name: json.loads(text) for name, text in resource_files(plan, surroundings(plan)).items()}
    tables = {table["name"]: table for name, file in files.items() if name[:4] == "rds_" for table in file["resources"]}
    return {
        "routes": {
            name: {host["name"]: [_brief(route) for route in host["routes"]] for host in table.get("virtual_hosts", [])}
            for name, table in tables.items()
        },
        "endpoints": {cluster.name: list(cluster.endpoints) for cluster in plan.clusters},
        **({"providers": _providers(files)} if plan.providers else {}),
    }


def _providers(files: Mapping[str, Any]) -> list[Any]:
    """The clusters beyond this gateway, in full: what is taken off their requests, and put on."""
    return [one for one in files["cds.json"]["resources"] if one["name"].startswith("standby/")]


def _brief(route: dict[str, Any]) -> dict[str, Any]:
    """What a route decides; retries and type names are the same in all."""
    filters = {
        name: {key: value for key, value in config.items() if key != "@type"}
        for name, config in route.get("typed_per_filter_config", {}).items()
    }
    action = {key: value for key, value in route.get("route", {}).items() if key != "retry_policy"}
    told = [one["header"]["key"] for one in route.get("response_headers_to_add", [])]
    answer = route.get("direct_response")
    parts = {"match": route["match"], "to": action, "answer": answer, "filters": filters, "client is told": told}
    return {"name": route["name"], **{key: value for key, value in parts.items() if value}}


def conditions(found: Planned) -> list[str]:
    """One line per condition, after what could not be read."""
    told = [f"{one.kind} {one.key} {one.type}={one.status} {one.reason}: {one.message}" for one in found.conditions]
    return [*map(str, found.problems), *told]


def bootstrap(found: Planned) -> dict[str, Any]:
    """All that Envoy gets."""
    plan = found.plan
    content: dict[str, Any] = json.loads(everything(plan, surroundings(plan)))
    return content


def status(found: Planned) -> dict[str, Any]:
    """What users read in each object, as when Envoy Gateway and the cluster have said yes to all."""
    patches = statuses(declared_of(found.text), facts_of(found.text), NOW)
    return {f"{one.declared.kind} {one.declared.key}": _timeless(one.status) for one in patches}


def _timeless(value: Any) -> Any:
    """Conditions in one line each."""
    if isinstance(value, list):
        return [_timeless(one) for one in value]
    if isinstance(value, dict) and "lastTransitionTime" in value:
        return f"{value['type']}={value['status']} {value['reason']}: {value['message']}"
    if isinstance(value, Mapping):
        return {name: _timeless(one) for name, one in value.items()}
    return value


def envoy_gateway(found: Planned) -> dict[str, Any]:
    """What a case decides of the objects for Envoy Gateway; `eg-whole.yaml` has one case's in full."""
    return {f"{one.manifest['kind']} {one.identity[1]}": _gist(one) for one in rendered(found.objects, found.plan)}


def _gist(one: Rendered) -> Any:
    kind, spec = one.manifest["kind"], one.manifest.get("spec", {})
    if kind == "ConfigMap":
        objects = json.loads(one.manifest["data"]["objects.json"])
        return {"leads": objects["leads"], "pools": [".".join(pool["key"]) for pool in objects["pools"]]}
    if kind in ("HTTPRoute", "Service", "HTTPRouteFilter", "SecurityPolicy"):
        return spec
    if kind == "EndpointSlice":
        return one.manifest["endpoints"]
    if kind in ("Role", "RoleBinding"):
        return one.manifest.get("rules") or one.manifest["subjects"]
    return spec.get("targetRefs", "")


def envoy_gateway_whole(found: Planned) -> list[Any]:
    """The objects in full, in the order to apply them."""
    return [{"phase": one.phase.name, **one.manifest} for one in rendered(found.objects, found.plan)]


OUTPUTS: dict[str, Callable[[Planned], Any]] = {
    "routes.yaml": routes,
    "conditions.yaml": conditions,
    "status.yaml": status,
    "eg.yaml": envoy_gateway,
    "bootstrap.yaml": bootstrap,
    "eg-whole.yaml": envoy_gateway_whole,
}


OPTIONAL = frozenset({"bootstrap.yaml", "eg-whole.yaml"})


@CASE
def test_a_case_is_rendered_as_written_down(case: Path, request: pytest.FixtureRequest) -> None:
    """A difference is either a mistake or a decision: then update the files and read their diff."""
    found = read(case)
    for name, output in OUTPUTS.items():
        path = case / name
        if request.config.getoption("--update-golden", default=False) and (path.exists() or name not in OPTIONAL):
            path.write_text(yaml.safe_dump(_plain(output(found)), sort_keys=False, width=110))
        assert path.exists() or name in OPTIONAL, f"{name} is missing; run pytest with --update-golden"
        if path.exists():
            assert _plain(output(found)) == yaml.safe_load(path.read_text()), f"{path.name} of {case.name} differs"


def _plain(value: Any) -> Any:
    """Without the references to the same list that YAML would show."""
    return json.loads(json.dumps(value))


def read(case: Path) -> Planned:
    """The objects of a case and their plan."""
    text = (case / "in.yaml").read_text()
    objects, problems = collect({"in.yaml": parse(text, "in.yaml")})
    return Planned(text, objects, *build_plan(objects), problems)


@CASE
async def test_envoy_accepts_a_case(case: Path, tmp_path: Path) -> None:
    """What is written down is not only stable but right."""
    found = read(case)
    path = tmp_path / "check.json"
    path.write_text(everything(found.plan, surroundings(found.plan, str(tmp_path))))
    for name, text in credential_files(found.plan, found.objects.secrets).items():
        (tmp_path / name).write_text(text)
    await validate(find_binary(), path)
