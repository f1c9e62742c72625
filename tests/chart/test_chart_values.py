"""The chart's values: each one explained, each one in the schema, and mistakes told by their place."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from igw_cluster.helm import Helm, HelmFailed
from igw_testing.helm_chart import CHART, Rendering

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def sections(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the schema with fields of its own."""
    if "properties" in schema:
        yield path, schema
        for name, inner in schema["properties"].items():
            yield from sections(inner, f"{path}.{name}")


def names(values: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every value that the schema knows by name."""
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from names((values or {}).get(name), inner, f"{path}.{name}")


def test_every_value_is_explained_above_its_line() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        # Inside `resources` the names are Kubernetes' own.
        if re.match(r" *[A-Za-z]+:", line)
        and not before.lstrip().startswith("#")
        and not re.match(r" +(requests|limits):", line)
    ]
    assert bare == []


def test_schema_and_values_have_the_same_names() -> None:
    """`global` is Helm's; the parts of `resources` are Kubernetes'."""

    def leaves(values: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
        for name, inner in values.items():
            yield f"{path}.{name}"
            if isinstance(inner, dict) and "properties" in schema["properties"][name]:
                yield from leaves(inner, schema["properties"][name], f"{path}.{name}")

    documented = set(leaves(VALUES, SCHEMA))
    known = {name for name in names(VALUES, SCHEMA) if not name.endswith((".claims", ".requests", ".limits"))}
    assert {name for name in documented if not name.endswith((".requests", ".limits"))} == known - {".global"}


def test_the_schema_is_strict_and_explains_itself() -> None:
    for path, section in sections(SCHEMA):
        assert section["additionalProperties"] is False, path
        if not path.endswith("imagePullSecrets"):
            assert section["description"], path


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown name": ({"replicas": 2}, "additional properties 'replicas' not allowed"),
    "an unknown name in a section": ({"operator": {"replica": 3}}, "at '/operator'.*'replica' not allowed"),
    "text for a number": ({"operator": {"replicas": "2"}}, "at '/operator/replicas'.*want integer"),
    "a negative number": ({"operator": {"replicas": -1}}, "at '/operator/replicas'"),
    "an unknown level": ({"picker": {"logLevel": "loud"}}, "at '/picker/logLevel'.*'debug', 'info'"),
    "a digest that is none": ({"image": {"digest": "latest"}}, "at '/image/digest'"),
    "no image": ({"image": {"repository": ""}}, "at '/image/repository'"),
    "a port that a plain user may not bind": ({"operator": {"port": 80}}, "at '/operator/port'"),
    "a controller that is none": ({"gateway": {"controllerName": "envoy"}}, "at '/gateway/controllerName'"),
    "a switch that is text": ({"networkPolicy": {"enabled": "yes"}}, "at '/networkPolicy/enabled'.*want boolean"),
    "an interval without unit": ({"serviceMonitor": {"interval": "15"}}, "at '/serviceMonitor/interval'"),
    "a share that is none": ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "at '/podDisruptionBudget"),
    "a wait that is none": ({"gateway": {"pickerWaitSeconds": -1}}, "at '/gateway/pickerWaitSeconds'"),
    "a picker's secret that is only a name": (
        {"picker": {"imagePullSecrets": ["a"]}},
        "at '/picker/imagePullSecrets/0'",
    ),
    "a secret that is only a name": ({"imagePullSecrets": ["registry"]}, "at '/imagePullSecrets/0'"),
}


@pytest.mark.parametrize(("values", "said"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_told_by_its_place(chart: Rendering, values: dict[str, Any], said: str) -> None:
    """As `helm install` and `helm upgrade` do it too, before anything is sent."""
    with pytest.raises(HelmFailed, match=f"(?s){said}"):
        chart.text(values)


def test_values_of_a_parent_chart_are_no_mistake(helm: Helm) -> None:
    helm("lint", "--strict", str(CHART), values={"global": {"region": "here"}})
