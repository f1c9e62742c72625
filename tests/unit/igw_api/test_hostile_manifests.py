"""Manifests that are made to cost: each is refused in one line, soon, and takes down nothing beside it."""

from itertools import pairwise

import pytest

from igw_api.manifests import parse
from igw_testing.manifest_texts import ALPHA, GATEWAY, V1, manifest, refusals

POOL = manifest("InferencePool", f"{ALPHA}/v1alpha2", {"selector": {"app": "a"}, "targetPortNumber": 8000})
ATTACH_TO = "inference.networking.x-k8s.io/attach-to"


def bomb(levels: int) -> str:
    """Ten to the power of `levels` nodes."""
    names = [f"n{level}" for level in range(levels)]
    lines = [f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in pairwise(names)]
    return f"n0: &n0 [{','.join('x' * 10)}]\n" + "".join(lines)


@pytest.mark.parametrize("blank", ["\n", " \n", "\r\n", "# x\n\n", " \n\n"])
def test_blank_lines_before_a_document_cost_nothing(blank: str) -> None:
    """Else sixty of them, in a file or in a tenant's annotation, would stop everything for years."""
    assert parse(blank * 5000 + POOL, "f").problems == ()
    assert parse(blank * 5000, "f").problems == ()


def test_bombs_of_one_text_share_one_bound() -> None:
    """A thousand documents may not expand to a thousand times as much. What follows is not known, so it is kept."""
    problems = parse(f"{POOL}---\n{bomb(9)}" + f"---\n{bomb(5)}" * 1000, "f").problems
    assert ["expands to too much" in one.message for one in problems] == [True]


@pytest.mark.parametrize("text", [bomb(4), "a: {" * 50 + "}" * 50, "\n" * 5000 + "- 1", "[" * 5000, "name: g\n" * 2])
def test_the_attach_to_annotation_may_not_be_a_bomb(text: str) -> None:
    """Whoever may create pools in a namespace writes it, and the operator reads it for all namespaces."""
    (problem,) = refusals(
        manifest(
            "InferencePool",
            V1,
            {"selector": {"matchLabels": {"app": "a"}}, "targetPorts": [{"number": 1}]},
            annotations={ATTACH_TO: text},
        )
    )
    assert ATTACH_TO in problem


@pytest.mark.parametrize(
    "value", ["(" * 5000 + ")" * 5000, "a{99999999999999999999}", "(?:" * 5000 + "a" + ")*" * 5000]
)
def test_a_regular_expression_may_not_be_a_bomb(value: str) -> None:
    rule = {"matches": [{"path": {"type": "RegularExpression", "value": value}}]}
    (problem,) = refusals(manifest("HTTPRoute", GATEWAY, {"parentRefs": [{"name": "g"}], "rules": [rule]}))
    assert problem.startswith("spec.rules[0].matches[0].path.value: ")


def test_a_long_key_that_comes_twice_is_told_in_short() -> None:
    key = "k" * 100_000
    (problem,) = parse(f"{key}: 1\n{key}: 2\n", "f").problems
    assert len(str(problem)) < 300


@pytest.mark.parametrize(
    "number", ["9" * 5000, "0x" + "f" * 5000, "1:" * 2000 + "1", "1e99999", ".inf", "-.inf", ".nan"]
)
def test_numbers_without_an_end_are_values_like_others(number: str) -> None:
    text = POOL.replace("8000", number)
    assert len(parse(text, "f").problems) == 1
