"""Tokens in policies: which requests need one, and that a mistake never opens a gate."""

import hashlib
import json
from typing import Any

import pytest
import yaml

from igw_api.manifests import collect, dump, keep_last_good, parse
from igw_api.objects import Key, Policy
from igw_api.objectset import ObjectSet
from igw_operator.plan.guards import find_guards
from igw_testing.gateway_texts import pool

ACCESS = {"tokens": [{"name": "team"}]}
GATEWAY = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"}


def policy(*targets: dict[str, Any], name: str = "p", access: Any = ACCESS, **spec: Any) -> str:
    """An InferencePoolPolicy with tokens."""
    body = {"apiVersion": "inferencegateway.io/v1alpha1", "kind": "InferencePoolPolicy", "metadata": {"name": name}}
    targets = targets or ({"name": "llm"},)
    return yaml.safe_dump({**body, "spec": {"targetRefs": list(targets), "access": access, **spec}})


def secret(**tokens: str) -> str:
    """The Secret `team`."""
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "team"}, "stringData": tokens})


def objects(*texts: str) -> ObjectSet:
    """All of them, bad ones too."""
    return collect({"f": parse("---\n".join(texts), "f")})[0]


def test_a_guard_has_digests_and_no_token() -> None:
    """Of those tokens that can be sent: nobody is let in by an empty one."""
    found = find_guards(objects(pool(), policy(), secret(ci="sk-1", empty="", blank="a b", long="x" * 1025)))
    assert found.pools[Key("default", "llm")].digests == (("ci", hashlib.sha256(b"sk-1").hexdigest()),)
    assert "sk-1" not in repr(found)


def test_a_pools_own_tokens_replace_its_gateways() -> None:
    """And what leads to no pool needs the Gateway's."""
    guards = find_guards(objects(pool(), policy(), policy(GATEWAY, name="g", access={"tokens": [{"name": "staff"}]})))
    gateway = Key("default", "gw")
    assert [guards.of(gateway, one) for one in (Key("default", "llm"), Key("default", "other"), None)] == [
        guards.pools[Key("default", "llm")],
        guards.gateways[gateway],
        guards.gateways[gateway],
    ]
    assert guards.of(Key("default", "else"), None) is None


def test_a_policy_for_a_gateway_may_have_the_defaults_that_the_api_server_fills_in() -> None:
    """But nothing that it cannot mean."""
    assert not parse(policy(GATEWAY, scheduling={"policy": "prefix-cache"}, standby=[]), "f").problems
    for bad in ({"queue": {"maxSize": 1}}, {"scheduling": {"policy": "random"}}):
        assert parse(policy(GATEWAY, **bad), "f").problems


@pytest.mark.parametrize(
    "bad",
    [
        {"queue": {"waitTimeout": "61s"}},
        {"nonsense": 1},
        {"access": {"tokens": []}},
        {"access": None},
        {"access": "everybody"},
        {"access": {"tokens": [{"name": "No Name"}, 7]}},
    ],
)
def test_a_policy_that_is_not_valid_closes_what_it_shall_guard(bad: dict[str, Any]) -> None:
    """Nobody knows what else it was meant to say; open it was not meant to be."""
    text = policy({"name": "llm"}, GATEWAY, **bad)
    result = parse(text, "f")
    assert result.problems
    guards = find_guards(objects(pool(), text))
    if bad.get("access", ACCESS) is None:
        return  # YAML's null is an absent field to Kubernetes: this policy asks for nothing
    assert guards.pools[Key("default", "llm")].digests == ()
    assert guards.gateways[Key("default", "gw")].digests == ()


def test_the_last_good_version_goes_before_what_a_bad_one_closes() -> None:
    """As for every object."""
    good = keep_last_good({}, {"f": parse(policy() + "---\n" + secret(ci="sk-1"), "f")})
    bad = keep_last_good(good, {"f": parse(policy(nonsense=1) + "---\n" + secret(ci="sk-1"), "f")})
    found, problems = collect(bad)
    assert problems
    assert found.policies[Key("default", "p")] == Policy(
        Key("default", "p"), (Key("default", "llm"),), "prefix-cache", access=(Key("default", "team"),)
    )


def test_what_the_picker_is_told_names_secrets_and_has_none() -> None:
    """The file that it reads."""
    written = dump(objects(pool(), policy(), secret(ci="sk-1"))).decode()
    assert "sk-1" not in written
    assert json.loads(written)["policies"][0]["access"] == [["default", "team"]]
