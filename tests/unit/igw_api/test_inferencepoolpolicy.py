"""InferencePoolPolicy: how requests to pools are placed."""

from typing import Any

import pytest

from igw_api.limits import KeyLimits, Limits
from igw_api.objects import Key, Policy, Queue, Shadow
from igw_api.resilience import PassiveHealth, Retry
from igw_testing.manifest_texts import accepted, manifest, refusals


def policy(*pools: dict[str, Any], **spec: Any) -> str:
    return manifest("InferencePoolPolicy", "inferencegateway.io/v1alpha1", {"targetRefs": list(pools), **spec})


def test_a_policy_is_for_pools_of_its_own_namespace() -> None:
    older_group = {"name": "b", "group": "inference.networking.x-k8s.io"}
    pools = (Key("default", "a"), Key("default", "b"))
    text = policy({"name": "a"}, older_group, scheduling={"policy": "random"})
    assert accepted(text, Policy) == Policy(Key("default", "x"), pools, "random")


def test_a_queue_is_what_a_policy_asks_for_and_has_defaults() -> None:
    assert accepted(policy({"name": "a"}), Policy).queue is None
    assert accepted(policy({"name": "a"}, queue={}), Policy).queue == Queue(512, 10.0, 1.0)
    asked = {"maxSize": 10, "waitTimeout": "500ms", "retryPeriod": "2s", "retries": 0}
    assert accepted(policy({"name": "a"}, queue=asked), Policy).queue == Queue(10, 0.5, 2.0)


@pytest.mark.parametrize(
    ("spec", "attempts"),
    [
        ({}, 2),
        ({"queue": {}}, 2),
        ({"queue": {"retries": 0}}, 0),
        ({"queue": {"retries": 4}, "retry": {"lost": "Fail"}}, 4),
        ({"queue": {"retries": 4}, "retry": {"attempts": 1}}, 1),
    ],
)
def test_a_request_is_retried_as_often_as_the_queue_says_unless_the_retries_say_otherwise(
    spec: dict[str, Any], attempts: int
) -> None:
    assert accepted(policy({"name": "a"}, **spec), Policy).retry.attempts == attempts


def test_a_shadow_is_another_policy_for_all_requests_or_a_share_of_them() -> None:
    assert accepted(policy({"name": "a"}), Policy).shadow is None
    shadowed = policy({"name": "a"}, scheduling={"shadow": {"policy": "llm-metric"}})
    assert accepted(shadowed, Policy).shadow == Shadow("llm-metric", 1.0)
    sampled = policy({"name": "a"}, scheduling={"shadow": {"policy": "random", "sampling": 0.25}})
    assert accepted(sampled, Policy).shadow == Shadow("random", 0.25)


def test_who_says_nothing_of_failures_and_retries_gets_the_defaults() -> None:
    """Also one who says something of neither of their fields."""
    silent: list[dict[str, Any]] = [{}, {"passiveHealth": {}, "retry": {}}]
    for spec in silent:
        found = accepted(policy({"name": "a"}, **spec), Policy)
        assert (found.passive_health, found.retry) == (PassiveHealth(), Retry())


def test_failures_and_retries_are_what_a_policy_asks_for() -> None:
    health = {
        "failurePercent": 25,
        "interval": "500ms",
        "probes": 5,
        "slowStart": "0s",
        "fullStatuses": [503, 429, 503],
    }
    found = accepted(policy({"name": "a"}, passiveHealth=health, retry={"lost": "Fail", "statuses": []}), Policy)
    assert found.passive_health == PassiveHealth(threshold=0.25, interval=0.5, probes=5, slow_start=0.0)
    assert found.retry == Retry(statuses=(), lost=False)


def test_limits_are_of_the_pool_and_of_each_key_by_model() -> None:
    keys = {"requestsPerMinute": 60, "models": [{"name": "big", "tokensPerMinute": 5000}]}
    found = accepted(policy({"name": "a"}, limits={"concurrentRequests": 8, "perKey": keys}), Policy)
    assert found.limits == Limits(8, None, KeyLimits(60), {"big": KeyLimits(None, 5000)})
    assert found.limits.of_keys("small") == KeyLimits(60)
    assert found.limits.of_keys("big") == KeyLimits(None, 5000)


@pytest.mark.parametrize("limits", [{}, {"perKey": {}}], ids=str)
def test_limits_that_limit_nothing_are_none(limits: dict[str, Any]) -> None:
    assert accepted(policy({"name": "a"}, limits=limits), Policy).limits is None


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (policy(), "spec.targetRefs: must have at least 1 entry"),
        (policy({"name": "a"}, {"name": "b", "kind": "Service"}), "spec.targetRefs[1].kind: must be InferencePool"),
        (policy({"name": "a"}, queue={"maxSize": -1}), "spec.queue.maxSize: must be"),
        (policy({"name": "a"}, queue={"waitTimeout": "a while"}), "spec.queue.waitTimeout: must"),
        (policy({"name": "a"}, queue={"waitTimeout": "61s"}), "spec.queue.waitTimeout: must be from 100ms to 60s"),
        (policy({"name": "a"}, queue={"retryPeriod": "0s"}), "spec.queue.retryPeriod: must be 100ms or more"),
        (policy({"name": "a"}, passiveHealth={"interval": "0s"}), "spec.passiveHealth.interval: must be from 100ms"),
        (
            policy({"name": "a"}, passiveHealth={"maxEjectionTime": "20s"}),
            "spec.passiveHealth.maxEjectionTime: must be baseEjectionTime or more, not 20s",
        ),
        (policy({"name": "a"}, passiveHealth={"fullStatuses": [400]}), "spec.passiveHealth.fullStatuses[0]: must be"),
        (policy({"name": "a"}, retry={"attempts": 6}), "spec.retry.attempts: must be"),
        (policy({"name": "a"}, limits={"concurrentRequests": 0}), "spec.limits.concurrentRequests: must be"),
        (
            policy({"name": "a"}, limits={"perKey": {"models": [{"name": "m"}]}}),
            "spec.limits.perKey.models[0]: needs `requestsPerMinute` or `tokensPerMinute`",
        ),
        (
            policy({"name": "a"}, limits={"perKey": {"models": [{"name": "m", "tokensPerMinute": 1}] * 2}}),
            "spec.limits.perKey.models: model m occurs twice",
        ),
        (policy({"name": "a"}, retry={"statuses": [500]}), "spec.retry.statuses[0]: must be"),
        (policy({"name": "a"}, retry={"lost": "Maybe"}), "spec.retry.lost: must be one of 'Retry' or 'Fail'"),
        (policy({"name": "a"}, scheduling={"shadow": {}}), "spec.scheduling.shadow.policy: is required"),
        (
            policy({"name": "a"}, scheduling={"shadow": {"policy": "best"}}),
            "spec.scheduling.shadow.policy: must be one of",
        ),
        (
            policy({"name": "a"}, scheduling={"shadow": {"policy": "random", "sampling": 1.5}}),
            "spec.scheduling.shadow.sampling: must be",
        ),
        (policy({"name": "a"}, scheduling={"policy": "best"}), "spec.scheduling.policy: must be one of 'prefix-cache'"),
    ],
)
def test_each_mistake_in_a_policy_names_its_field(text: str, refusal: str) -> None:
    (found,) = refusals(text)
    assert found.startswith(refusal)
