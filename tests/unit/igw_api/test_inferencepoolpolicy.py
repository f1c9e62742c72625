"""InferencePoolPolicy: how requests to pools are placed."""

from typing import Any

import pytest

from igw_api.objects import Key, Policy
from igw_testing.manifest_texts import accepted, manifest, refusals


def policy(*pools: dict[str, Any], **spec: Any) -> str:
    return manifest("InferencePoolPolicy", "inferencegateway.io/v1alpha1", {"targetRefs": list(pools), **spec})


def test_a_policy_is_for_pools_of_its_own_namespace() -> None:
    older_group = {"name": "b", "group": "inference.networking.x-k8s.io"}
    pools = (Key("default", "a"), Key("default", "b"))
    text = policy({"name": "a"}, older_group, scheduling={"policy": "random"})
    assert accepted(text, Policy) == Policy(Key("default", "x"), pools, "random")


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (policy(), "spec.targetRefs: must have at least 1 entry"),
        (policy({"name": "a"}, {"name": "b", "kind": "Service"}), "spec.targetRefs[1].kind: must be InferencePool"),
        (policy({"name": "a"}, scheduling={"policy": "best"}), "spec.scheduling.policy: must be one of 'prefix-cache'"),
    ],
)
def test_each_mistake_in_a_policy_names_its_field(text: str, refusal: str) -> None:
    (found,) = refusals(text)
    assert found.startswith(refusal)
