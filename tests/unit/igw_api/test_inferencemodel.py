"""InferenceModel, InferenceObjective and InferenceModelRewrite."""

from typing import Any

import pytest

from igw_api.objects import Key, Model, Objective, Rewrite, RewriteRule, Target
from igw_testing.manifest_texts import ALPHA, accepted, manifest, refusals

POOL = {"name": "pool"}


def model(version: str = "v1alpha2", **spec: Any) -> str:
    return manifest("InferenceModel", f"{ALPHA}/{version}", {"modelName": "llama", "poolRef": POOL, **spec})


def objective(group: str = ALPHA, **spec: Any) -> str:
    return manifest("InferenceObjective", f"{group}/v1alpha2", {"poolRef": POOL, **spec})


def rewrite(*rules: dict[str, Any], group: str = ALPHA) -> str:
    return manifest("InferenceModelRewrite", f"{group}/v1alpha2", {"poolRef": POOL, "rules": list(rules)})


@pytest.mark.parametrize("version", ["v1alpha1", "v1alpha2"])
def test_a_model_belongs_to_a_pool_of_its_own_namespace(version: str) -> None:
    found = accepted(model(version), Model)
    assert found == Model(Key("default", "x"), pool=Key("default", "pool"), name="llama")


@pytest.mark.parametrize(("criticality", "priority"), [(None, 0), ("Standard", 0), ("Critical", 2), ("Sheddable", -1)])
def test_criticality_becomes_a_priority_below_zero_when_sheddable(criticality: str | None, priority: int) -> None:
    assert accepted(model(criticality=criticality), Model).priority == priority


def test_targets_keep_their_weights() -> None:
    found = accepted(model(targetModels=[{"name": "a", "weight": 90}, {"name": "b", "weight": 10}]), Model)
    assert found.targets == (Target("a", 90), Target("b", 10))


def test_targets_without_weights_share_equally() -> None:
    found = accepted(model(targetModels=[{"name": "a"}, {"name": "b"}]), Model)
    assert found.targets == (Target("a", 1), Target("b", 1))


def test_zero_weights_reserve_the_name() -> None:
    assert accepted(model(targetModels=[{"name": "a", "weight": 0}]), Model).targets == (Target("a", 0),)


@pytest.mark.parametrize(
    ("spec", "refusal"),
    [
        (
            {"targetModels": [{"name": "a", "weight": 1}, {"name": "b"}]},
            "spec.targetModels: weights must be set for all targetModels or for none",
        ),
        ({"criticality": "High"}, "spec.criticality: must be one of 'Critical', 'Standard' or 'Sheddable', not 'High'"),
        ({"targetModels": [{"name": "a", "weight": -1}]}, "spec.targetModels[0].weight: must be at least 0, not -1"),
        ({"modelName": None}, "spec.modelName: is required"),
        ({"poolRef": {"name": "p", "kind": "Service"}}, "spec.poolRef.kind: must be InferencePool, not Service"),
    ],
)
def test_each_mistake_in_a_model_names_its_field(spec: dict[str, Any], refusal: str) -> None:
    assert refusals(model(**spec)) == [refusal]


@pytest.mark.parametrize("group", [ALPHA, "llm-d.ai"])
def test_an_objective_of_either_group_gives_its_priority(group: str) -> None:
    assert accepted(objective(group, priority=-3), Objective) == Objective(
        Key("default", "x"), Key("default", "pool"), -3
    )
    assert accepted(objective(group), Objective).priority == 0


def test_a_pool_reference_to_another_group_is_refused() -> None:
    (refusal,) = refusals(objective(poolRef={"name": "p", "group": "example.com"}))
    assert refusal.startswith("spec.poolRef.group: must be inference.networking.k8s.io or ")


@pytest.mark.parametrize("group", [ALPHA, "llm-d.ai"])
def test_rewrite_rules_keep_their_order_and_names(group: str) -> None:
    text = rewrite(
        {
            "matches": [{"model": {"value": "a"}}, {"model": {"type": "Exact", "value": "b"}}],
            "targets": [{"modelRewrite": "c"}],
        },
        {"targets": [{"modelRewrite": "d", "weight": 3}, {"modelRewrite": "e"}]},
        group=group,
    )
    assert accepted(text, Rewrite).rules == (
        RewriteRule(frozenset({"a", "b"}), (Target("c", 1),)),
        RewriteRule(frozenset(), (Target("d", 3), Target("e", 1))),
    )


def test_a_rewrite_rule_needs_a_target() -> None:
    assert refusals(rewrite({"targets": []})) == ["spec.rules[0].targets: must have at least 1 entry, not 0"]
