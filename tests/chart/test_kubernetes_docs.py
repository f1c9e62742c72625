"""docs/kubernetes.md against the code and the chart: reasons, values and commands that exist."""

import re
from pathlib import Path

import yaml

from igw_testing.helm_chart import CHART

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
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
