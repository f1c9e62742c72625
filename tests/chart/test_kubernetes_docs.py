"""docs/kubernetes.md and docs/operator.md against the code and the chart: what they name is what there is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from igw_operator.controller.health import Health
from igw_operator.operator_settings import OperatorSettings
from igw_testing.helm_chart import CHART

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
OPERATOR_PAGE = (ROOT / "docs" / "operator.md").read_text()
OPERATOR = ROOT / "operator" / "igw_operator"


def code(*folders: str) -> str:
    return "\n".join(path.read_text() for folder in folders for path in sorted((OPERATOR / folder).rglob("*.py")))


def reasons() -> set[str]:
    return set(re.findall(r"^\| [^|]+ \| \w+=\w+ \| (\w+) \|", PAGE, re.MULTILINE))


def test_every_reason_on_the_page_is_one_that_the_operator_gives() -> None:
    assert reasons()
    source = code("plan", "render")
    assert {reason for reason in reasons() if f'"{reason}"' not in source} == set()


def test_every_refusal_of_a_pool_is_on_the_page() -> None:
    """With what to do about it."""
    said = set(re.findall(r'Said\([^()]*FALSE, "(\w+)"', code("render/status")))
    assert said
    assert said <= reasons()


def test_the_values_on_the_page_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = [name for row in re.findall(r"^\| (`[a-zA-Z.`, ]+`) \|", PAGE, re.MULTILINE) for name in row.split(", ")]
    assert named
    for name in named:
        found = values
        for part in name.strip("`").split("."):
            assert part in found, name
            found = found[part]


def keys(section: type[BaseModel], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of the operator's configuration with its default."""
    for field in section.model_fields.values():
        name = f"{path}{field.alias}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{name}.")
        else:
            yield name, None if field.is_required() else field.get_default()


def test_every_key_of_the_operators_file_is_on_its_page_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-zA-Z.]+)` \| (\S+) \| ", OPERATOR_PAGE, re.MULTILINE)
    written = {"required": None, "none": None}
    told = {name: written[text] if text in written else yaml.safe_load(text.strip("`")) for name, text in rows}
    assert told == dict(keys(OperatorSettings))


def test_the_operators_metrics_are_on_its_page() -> None:
    """Each with its type and labels, and no other."""
    told = re.findall(r"^\| `(igw_operator_\w+)` \| (\w+) \| ([^|]*)\|", OPERATOR_PAGE, re.MULTILINE)
    health = Health()
    metrics = [health.reconciles, health.seconds, health.writes, health.objects, health.failing, health.active]
    exported = {
        f"{family.name}{'_total' if family.type == 'counter' else ''}": (family.type, metric._labelnames)
        for metric in (*metrics, health.last_success)
        for family in metric.describe()
    }
    assert len(exported) == len(list(health.registry.collect()))
    assert {name: (type_, tuple(re.findall(r"`(\w+)`", labels))) for name, type_, labels in told} == exported


def test_the_states_on_the_operators_page_are_those_that_it_tells() -> None:
    rows = re.findall(r"^\| (?:200|503) \| `([^`]+)` \|", OPERATOR_PAGE, re.MULTILINE)
    starts = [re.split(r" (?:NAME|KIND)|\.\.\.|: ", row)[0] for row in rows]
    source = code("controller")
    assert starts
    assert [start for start in starts if start not in source] == []
    said = re.findall(r'say\(\s*f?"([\w ]+)', source)
    assert [text for text in said if not any(text.strip() in start or start in text for start in starts)] == []


def test_the_chart_writes_every_key_of_the_operators_file() -> None:
    template = (CHART / "templates" / "configmap.yaml").read_text()
    for name, _ in keys(OperatorSettings):
        assert re.search(rf"^ +{name.rpartition('.')[2]}:", template, re.MULTILINE), name
