"""The CustomResourceDefinitions: fresh, structural, and of one mind with the models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.client import V1CustomResourceDefinitionSpec, V1CustomResourceDefinitionVersion, V1JSONSchemaProps
from pydantic import BaseModel

from igw_api.crdgen import DEFINITIONS, crd, definitions, main
from igw_api.kinds import KINDS
from igw_api.meta import Strict
from igw_api.structural import structural

CRDS = Path(__file__).parents[3] / "crds"
CHART = CRDS.parent / "charts" / "inference-gateway" / "files" / "crds"
# What the API server refuses in a structural schema, though JSON schema has it.
FORBIDDEN = {"$ref", "definitions", "dependencies", "id", "patternProperties", "uniqueItems", "additionalItems"}
MODES = {"anyOf", "allOf", "oneOf", "not"}


def schemas() -> list[Any]:
    return [
        pytest.param(version["schema"]["openAPIV3Schema"], id=f"{definition.name}/{version['name']}")
        for definition in DEFINITIONS
        for version in crd(definition)["spec"]["versions"]
    ]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of a schema, with its path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield from nodes(schema[keyword], f"{path}[]")


def violations(schema: dict[str, Any], value: Any, path: str) -> list[str]:
    """What the API server would say of `value`, as far as types, names and required fields go."""
    kind = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}[schema["type"]]
    if not isinstance(value, kind):
        return [f"{path}: not {schema['type']}"]
    if isinstance(value, list):
        return [found for item in value for found in violations(schema["items"], item, f"{path}[]")]
    if not isinstance(value, dict) or not schema.keys() & {"properties", "additionalProperties"}:
        return [] if value in schema.get("enum", [value]) else [f"{path}: not in enum"]
    fields = {name: schema.get("properties", {}).get(name, schema.get("additionalProperties")) for name in value}
    missing = [f"{path}.{name}: missing" for name in schema.get("required", []) if name not in value]
    unknown = [f"{path}.{name}: unknown" for name, inner in fields.items() if inner is None]
    nested = [(inner, value[name], f"{path}.{name}") for name, inner in fields.items() if inner is not None]
    return missing + unknown + [found for each in nested for found in violations(*each)]


def test_the_files_in_the_repository_are_fresh() -> None:
    """`python -m igw_api.crdgen` was run after the last change of the models."""
    expected = dict(definitions())
    assert {path.name: path.read_text() for path in CRDS.glob("*.yaml")} == expected


def test_the_charts_copies_are_the_same_files() -> None:
    """All but the kinds that nothing in a cluster reads."""
    expected = dict(definitions(in_cluster=True))
    assert {path.name: path.read_text() for path in CHART.iterdir()} == expected
    assert {path.name for path in CRDS.glob("*.yaml")} - expected.keys() == {"inferencegateway.io_endpointlists.yaml"}


def test_generating_writes_every_file(tmp_path: Path) -> None:
    main(tmp_path / "all", tmp_path / "chart")
    assert {path.name: path.read_text() for path in (tmp_path / "all").iterdir()} == dict(definitions())
    assert {path.name for path in (tmp_path / "chart").iterdir()} == {name for name, _ in definitions(in_cluster=True)}


def test_every_kind_of_ours_or_the_extension_has_a_definition_for_each_version() -> None:
    defined = {(one.kind, f"{one.group}/{version}") for one in DEFINITIONS for version in one.versions}
    ours = [kind for kind in KINDS if kind.startswith("Inference") or kind == "EndpointList"]
    assert defined == {(kind, version) for kind in ours for version in KINDS[kind]}


@pytest.mark.parametrize("schema", schemas())
def test_every_node_has_a_type_and_only_keywords_that_the_api_server_knows(schema: dict[str, Any]) -> None:
    known = set(V1JSONSchemaProps.attribute_map.values()) - FORBIDDEN - MODES
    for path, node in nodes(schema):
        assert node["type"] in {"object", "array", "string", "integer", "number", "boolean"}, path
        assert set(node) <= known, path
        assert node["type"] != "array" or "items" in node, path
        assert not ("properties" in node and "additionalProperties" in node), path


@pytest.mark.parametrize("schema", schemas())
def test_every_field_is_described(schema: dict[str, Any]) -> None:
    for path, node in nodes(schema["properties"]["spec"], "spec"):
        assert path.endswith("[]") or node.get("description"), path


@pytest.mark.parametrize("schema", schemas())
def test_defaults_fit_and_required_fields_exist(schema: dict[str, Any]) -> None:
    for path, node in nodes(schema):
        assert set(node.get("required", [])) <= set(node.get("properties", {})), path
        if "default" in node:
            kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": float, "boolean": bool}
            kind = kinds[node["type"]]
            assert isinstance(node["default"], kind), path
            assert node["default"] in node.get("enum", [node["default"]]), path
        if node.get("x-kubernetes-list-type") == "map":
            assert set(node["x-kubernetes-list-map-keys"]) <= set(node["items"]["required"]), path


@pytest.mark.parametrize("schema", schemas())
def test_lists_and_maps_with_rules_are_bounded(schema: dict[str, Any]) -> None:
    """The API server estimates a rule's cost by the size of what it looks at, and refuses unbounded ones."""
    for path, node in nodes(schema):
        if "x-kubernetes-validations" in node and node["type"] == "array":
            assert "maxItems" in node, path


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda one: one.name)
def test_each_definition_stores_one_version_and_has_a_status_subresource(definition: Any) -> None:
    data = crd(definition)
    assert set(data["spec"]) <= set(V1CustomResourceDefinitionSpec.attribute_map.values())
    versions = data["spec"]["versions"]
    assert [version["storage"] for version in versions].count(True) == 1
    for version in versions:
        assert set(version) <= set(V1CustomResourceDefinitionVersion.attribute_map.values())
        assert version["subresources"] == {"status": {}}
        assert version["additionalPrinterColumns"][-1]["name"] == "Age"


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda one: one.name)
def test_versions_of_one_definition_share_their_schema(definition: Any) -> None:
    """Without a conversion webhook the API server renames the version and prunes what the stored one does not know."""
    first, *others = (version["schema"] for version in crd(definition)["spec"]["versions"])
    assert all(other == first for other in others)


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda one: one.name)
def test_protected_groups_carry_the_annotation_that_the_api_server_demands(definition: Any) -> None:
    annotations = crd(definition)["metadata"].get("annotations", {})
    assert ("api-approved.kubernetes.io" in annotations) == definition.group.endswith(".k8s.io")


def test_the_manifests_of_users_fit_the_definitions() -> None:
    schemas_by_version = {
        (one.kind, f"{one.group}/{version['name']}"): version["schema"]["openAPIV3Schema"]
        for one in DEFINITIONS
        for version in crd(one)["spec"]["versions"]
    }
    text = (Path(__file__).parents[2] / "data" / "manifests" / "inference-gateway-llm.yaml").read_text()
    for document in yaml.safe_load_all(text):
        schema = schemas_by_version[document["kind"], document["apiVersion"]]
        assert violations(schema["properties"]["spec"], document["spec"], "spec") == []
        assert violations(schema["properties"]["spec"], {**document["spec"], "extra": 1}, "spec") == [
            "spec.extra: unknown"
        ]


def test_an_unset_failure_mode_stays_unset_in_the_cluster() -> None:
    """A default in the schema would turn it into an explicit FailClose, which is honoured."""
    for path in CRDS.glob("*inferencepools.yaml"):
        for version in yaml.safe_load(path.read_text())["spec"]["versions"]:
            modes = [
                node for where, node in nodes(version["schema"]["openAPIV3Schema"]) if where.endswith("failureMode")
            ]
            assert modes
            assert all("default" not in mode for mode in modes)


def test_a_model_without_a_structural_form_is_refused() -> None:
    class Ambiguous(Strict):
        value: int | str

    class Keyed(BaseModel):
        pair: tuple[int, str]

    for model in (Ambiguous, Keyed):
        with pytest.raises(ValueError, match="no structural form"):
            structural(model)
