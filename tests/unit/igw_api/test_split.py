"""What a pool's endpoints are for, and how manifests say it."""

from typing import Any

import pytest

from igw_api.objects import Policy, Queue
from igw_api.objectset import ObjectSet, dump, load
from igw_api.split import PrefillFailure, Role, Split
from igw_testing.manifest_texts import accepted, manifest, refusals


def policy(scheduling: dict[str, Any], **spec: Any) -> str:
    spec = {"targetRefs": [{"name": "a"}], "scheduling": scheduling, **spec}
    return manifest("InferencePoolPolicy", "inferencegateway.io/v1alpha1", spec)


@pytest.mark.parametrize(
    ("labels", "role"),
    [
        ({"inferencegateway.io/role": "prefill"}, Role.PREFILL),
        ({"inferencegateway.io/role": "decode"}, Role.DECODE),
        ({"inferencegateway.io/role": "both"}, Role.BOTH),
        ({"llm-d.ai/role": "prefill"}, Role.PREFILL),
        ({"llm-d.ai/role": "prefill-decode"}, Role.BOTH),
        ({"inferencegateway.io/role": "decode", "llm-d.ai/role": "prefill"}, Role.DECODE),
        ({}, Role.DECODE),
        ({"inferencegateway.io/role": "encode"}, None),
    ],
)
def test_a_label_says_what_an_endpoint_is_for(labels: dict[str, str], role: Role | None) -> None:
    """Without one it answers, as everything did before the pool was divided; with an unknown one it does nothing."""
    assert Split().role(labels) is role


@pytest.mark.parametrize(
    ("split", "roles"),
    [
        (Split(prefill_labels={"gpu": "h100"}, decode_labels={"gpu": "l40"}), [Role.PREFILL, Role.DECODE, None]),
        (Split(prefill_labels={"gpu": "h100"}), [Role.PREFILL, Role.DECODE, Role.DECODE]),
        (Split(decode_labels={"gpu": "l40"}), [Role.PREFILL, Role.DECODE, Role.PREFILL]),
        (Split(prefill_labels={"gpu": "h100"}, decode_labels={"gpu": "h100"}), [Role.BOTH, None, None]),
    ],
)
def test_other_labels_may_say_it_instead(split: Split, roles: list[Role | None]) -> None:
    """The role label then says nothing."""
    seen = [{"gpu": "h100"}, {"gpu": "l40"}, {"gpu": "t4", "inferencegateway.io/role": "prefill"}]
    assert [split.role(labels) for labels in seen] == roles


def test_a_divided_pool_needs_no_more_than_its_policy() -> None:
    assert accepted(policy({"policy": "pd-split"}), Policy).split == Split()
    assert accepted(policy({"policy": "dynamic-pd-split"}), Policy).split == Split(dynamic=True)
    assert accepted(policy({"policy": "random"}), Policy).split is None


def test_every_part_of_a_division_can_be_said() -> None:
    asked = {
        "prefillPolicy": "llm-metric",
        "decodePolicy": "least-request",
        "prefillLabels": {"a": "1"},
        "decodeLabels": {"b": "2"},
        "onPrefillFailure": "strict",
        "minUncachedTokens": 1000,
        "transferPercent": 25,
        "roleDwell": "5s",
        "nearby": [{"label": "kubernetes.io/hostname", "transferPercent": 0}, {"label": "zone", "transferPercent": 25}],
    }
    found = accepted(policy({"policy": "dynamic-pd-split", "prefillDecode": asked}), Policy)
    strict, near = PrefillFailure.STRICT, (("kubernetes.io/hostname", 0.0), ("zone", 0.25))
    expected = Split(True, "llm-metric", "least-request", {"a": "1"}, {"b": "2"}, strict, 1000, 0.25, 5.0, near)
    assert found.split == expected
    assert load(dump(ObjectSet.of([found]))).policies[found.key] == found, "and it reaches the picker"


def test_waiting_for_a_prefill_endpoint_is_in_the_queue_that_every_pool_has() -> None:
    division = {"policy": "pd-split", "prefillDecode": {"onPrefillFailure": "queue"}}
    assert accepted(policy(division), Policy).queue is None, "which means the defaults"
    assert accepted(policy(division, queue={"maxSize": 5}), Policy).queue == Queue(max_size=5)
    assert accepted(policy({"policy": "pd-split"}), Policy).queue is None


@pytest.mark.parametrize(
    ("scheduling", "refusal"),
    [
        ({"prefillDecode": {}}, "spec.scheduling.prefillDecode: is for the policies pd-split"),
        (
            {"policy": "pd-split", "prefillDecode": {"prefillPolicy": "pd-split"}},
            "spec.scheduling.prefillDecode.prefillPolicy: must be one of",
        ),
        (
            {"policy": "pd-split", "prefillDecode": {"roleDwell": "500ms"}},
            "spec.scheduling.prefillDecode.roleDwell: must be 1s or more",
        ),
        (
            {"policy": "pd-split", "prefillDecode": {"transferPercent": -1}},
            "spec.scheduling.prefillDecode.transferPercent: must be",
        ),
        (
            {"policy": "pd-split", "prefillDecode": {"nearby": [{"label": "zone", "transferPercent": 11}]}},
            "spec.scheduling.prefillDecode.nearby: must take no more than the next",
        ),
        (
            {"policy": "pd-split", "prefillDecode": {"nearby": [{"label": "not a label", "transferPercent": 1}]}},
            "spec.scheduling.prefillDecode.nearby[0].label: must be a label name",
        ),
        ({"policy": "pd-split", "shadow": {"policy": "random"}}, "spec.scheduling.shadow: is not for pd-split"),
    ],
)
def test_each_mistake_in_a_division_names_its_field(scheduling: dict[str, Any], refusal: str) -> None:
    (found,) = refusals(policy(scheduling))
    assert found.startswith(refusal)
