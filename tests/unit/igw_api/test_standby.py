"""The standbys that a policy names, and the Secrets that they need in manifest files."""

import base64
import json
from typing import Any

import pytest

from igw_api.manifests import parse
from igw_api.objects import Policy, Secret
from igw_api.objectset import ObjectSet, dump, load
from igw_api.standby import Provider, Standby
from igw_testing.manifest_texts import accepted, manifest, refusals


def policy(*chain: dict[str, Any]) -> str:
    spec = {"targetRefs": [{"name": "llm"}], "standby": list(chain)}
    return manifest("InferencePoolPolicy", "inferencegateway.io/v1alpha1", spec)


def chain(*links: dict[str, Any]) -> tuple[Standby, ...]:
    return accepted(policy(*links), Policy).standbys


def test_a_chain_has_pools_and_providers_in_its_order() -> None:
    cloud = {
        "name": "cloud",
        "provider": {
            "url": "https://api.example.com/v1/",
            "credentialSecret": "key",
            "budget": {"requestsPerMinute": 5, "sharePercent": 10},
        },
        "models": {"a": "b"},
    }
    found = chain({"name": "near", "pool": {"name": "other"}, "model": "small"}, cloud)
    provider = Provider("api.example.com", 443, True, "/v1", "key")
    assert found == (
        Standby("default/other", "near", pool="default/other", model="small"),
        Standby("standby/default/x/cloud", "cloud", provider=provider, models={"a": "b"}, per_minute=5, share=0.1),
    )
    assert [one.model_for("a") for one in found] == ["small", "b"]
    assert found[1].model_for("c") == "c"


def test_a_bill_is_bounded_without_being_asked() -> None:
    (link,) = chain({"name": "cloud", "provider": {"url": "http://10.0.0.1:9"}})
    assert (link.per_minute, link.share) == (60, 1.0)
    assert link.provider == Provider("10.0.0.1", 9, False, "")


@pytest.mark.parametrize(
    ("link", "refusal"),
    [
        ({"name": "a"}, "spec.standby[0]: needs a `pool` or a `provider`, and not both"),
        (
            {"name": "a", "pool": {"name": "b"}, "provider": {"url": "http://b/v1"}},
            "spec.standby[0]: needs a `pool` or a `provider`, and not both",
        ),
        ({"name": "a", "provider": {"url": "https://b:70000"}}, "spec.standby[0].provider.url: has a port above 65535"),
        (
            {"name": "a", "provider": {"url": "http://b", "insecureSkipVerify": True}},
            "spec.standby[0].provider.url: begins with http://, so no certificate is ever looked at; use https://",
        ),
    ],
)
def test_a_link_that_leads_nowhere_or_to_two_places_is_refused(link: dict[str, Any], refusal: str) -> None:
    assert refusals(policy(link)) == [refusal]


@pytest.mark.parametrize("url", ["ftp://b/v1", "https://user:pw@b/v1", "https://b/v1?key=1", "b/v1", "https:///v1"])
def test_a_url_is_a_scheme_a_host_and_a_path(url: str) -> None:
    (refusal,) = refusals(policy({"name": "a", "provider": {"url": url}}))
    assert "spec.standby[0].provider.url" in refusal


def _secret(fields: dict[str, Any]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, **fields})


def test_a_secret_is_decoded_and_never_written_or_shown() -> None:
    data = {"a": base64.b64encode(b"sk-1").decode(), "b": base64.b64encode(b"sk-2").decode()}
    found = accepted(_secret({"data": data, "stringData": {"b": "sk-3"}}), Secret)
    assert found.data == {"a": "sk-1", "b": "sk-3"}
    assert "sk-" not in repr(found)
    objects = ObjectSet.of([found])
    assert b"sk-" not in dump(objects)
    assert not load(dump(objects)).secrets


@pytest.mark.parametrize(
    "fields",
    [
        {"stringData": {"a": 4711}},
        {"stringData": {"a": {"sk-4711": 1}}},
        {"stringData": "sk-4711"},
        {"data": {"a": "sk-4711!"}},
        {"data": {"a": "/w=="}},
    ],
)
def test_what_is_wrong_with_a_secret_is_said_without_its_value(fields: dict[str, Any]) -> None:
    result = parse(_secret(fields), "t")
    (problem,) = result.problems
    assert "4711" not in str(problem) and "must be" in str(problem)


def test_the_time_to_the_first_byte_is_unlimited_unless_a_policy_says_otherwise() -> None:
    assert accepted(policy(), Policy).first_byte is None
    limited = manifest(
        "InferencePoolPolicy",
        "inferencegateway.io/v1alpha1",
        {"targetRefs": [{"name": "llm"}], "firstByteTimeout": "200ms"},
    )
    assert accepted(limited, Policy).first_byte == 0.2
    assert refusals(limited.replace("200ms", "10ms")) == ["spec.firstByteTimeout: must be from 50ms to 60s, not 10ms"]
