"""Providers under Envoy Gateway: which objects lead there, and which standbys pickers are told of."""

import json
from typing import Any

import pytest

from igw_api.objects import Key
from igw_operator.controller.decisions import standby_conditions
from igw_operator.plan.build import build_plan
from igw_operator.plan.model import GatewayPlan
from igw_operator.render.envoy_gateway.standby import MOST_TAKEN_OFF
from igw_operator.render.envoy_gateway.values import Observed, Options, Rendered
from igw_testing.manifest_texts import manifest
from igw_testing.plans import PICKER, endpoints, gateway, objects_of, pool, rendered

NEAR = {"name": "near", "pool": {"name": "other"}}
CLOUD = {"name": "cloud", "provider": {"url": "https://api.example.com:8443/base/v1", "credentialSecret": "key"}}


def policy(*chain: dict[str, Any]) -> str:
    spec = {"targetRefs": [{"name": "llm"}], "standby": list(chain)}
    return manifest("InferencePoolPolicy", "inferencegateway.io/v1alpha1", spec, name="p")


class Case:
    """A pool with these standbys on a port, as the operator sees it: without any Secret."""

    def __init__(self, *chain: dict[str, Any], options: Options = PICKER) -> None:
        self.objects = objects_of(gateway(81), pool(port=81), endpoints("10.0.0.1"), policy(*chain))
        self.plan: GatewayPlan = build_plan(self.objects, sees_secrets=False)[0]
        self.options = options

    def rendered(self, observed: Observed | None = None) -> tuple[Rendered, ...]:
        return rendered(self.objects, self.plan, observed, self.options)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The specs of a kind that lead to providers."""
        return [one.manifest["spec"] for one in self.rendered() if one.identity[0] == kind and "-near" not in str(one)]

    def told(self, observed: Observed | None = None) -> list[str]:
        """The standbys that the picker is told of."""
        (found,) = [one.manifest for one in self.rendered(observed) if one.identity[0] == "ConfigMap"]
        (only,) = json.loads(found["data"]["objects.json"])["policies"]
        return [one["name"] for one in only["standbys"]]

    def said(self, observed: Observed | None = None) -> list[tuple[str, str]]:
        """Reasons and messages of the policy's conditions."""
        found = standby_conditions(self.plan, self.objects, observed or Observed(), self.options)
        return [(one.reason, one.message) for one in found]

    def observed(self, **conditions: tuple[str, str]) -> Observed:
        """The status of the provider's route."""
        route = next(one.identity[1] for one in self.rendered() if _is_providers(one))
        listed = [
            {"type": name, "status": status, "reason": reason, "message": f"because of {reason}"}
            for name, (status, reason) in conditions.items()
        ]
        addresses = {Key("default", "igw-gw-p81"): "10.96.0.1"}
        return Observed(addresses, statuses={("HTTPRoute", route): {"parents": [{"conditions": listed}]}})


def _is_providers(one: Rendered) -> bool:
    return one.identity[0] == "HTTPRoute" and "backend" in json.dumps(one.manifest).lower() and "URLRewrite" in str(one)


GOOD = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}


def test_a_provider_has_a_backend_a_key_a_treatment_and_a_route_of_its_own() -> None:
    case = Case(CLOUD)
    (backend,) = case.of("Backend")
    assert backend["endpoints"] == [{"fqdn": {"hostname": "api.example.com", "port": 8443}}]
    assert backend["tls"] == {"sni": "api.example.com", "wellKnownCACertificates": "System"}
    (key,) = case.of("HTTPRouteFilter")
    injected = {"overwrite": True, "credential": {"valueRef": {"group": "", "kind": "Secret", "name": "key"}}}
    assert key == {"credentialInjection": injected}
    (rule,) = next(one.manifest["spec"]["rules"] for one in case.rendered() if _is_providers(one))
    (match,) = rule["matches"]
    assert match["headers"][0]["value"] == "standby/default/p/cloud"
    (reference,) = rule["backendRefs"]
    assert reference["filters"][0]["extensionRef"]["kind"] == "HTTPRouteFilter"
    removed = next(one for one in rule["filters"] if one["type"] == "RequestHeaderModifier")
    names = removed["requestHeaderModifier"]["remove"]
    assert len(names) <= MOST_TAKEN_OFF and {"authorization", "cookie", "x-igw-pool"} <= set(names)


@pytest.mark.parametrize(
    ("provider", "trust"),
    [
        ({"url": "https://b/v1", "insecureSkipVerify": True}, {"sni": "b", "insecureSkipVerify": True}),
        (
            {"url": "https://b/v1", "caSecret": "ca"},
            {"sni": "b", "caCertificateRefs": [{"group": "", "kind": "Secret", "name": "ca"}]},
        ),
        ({"url": "http://10.1.1.1/v1"}, None),
    ],
)
def test_a_certificate_is_trusted_as_the_policy_says(provider: dict[str, Any], trust: dict[str, Any] | None) -> None:
    (backend,) = Case({"name": "cloud", "provider": provider}).of("Backend")
    assert backend.get("tls") == trust


def test_where_backends_are_not_enabled_nothing_leads_to_a_provider_and_the_status_tells() -> None:
    case = Case(CLOUD, options=Options(image="i"))
    assert case.of("Backend") == []
    assert case.told() == []
    assert [reason for reason, _ in case.said()] == ["NotEnabled"]


def test_the_picker_is_told_of_a_provider_once_its_route_is_accepted_and_its_secret_found() -> None:
    case = Case(CLOUD)
    assert (case.told(), case.said()[0][0]) == ([], "Pending")
    missing = case.observed(Accepted=("True", "Accepted"), ResolvedRefs=("False", "InvalidBackend"))
    assert case.told(missing) == []
    assert case.said(missing) == [("InvalidBackend", "standby cloud is not in use: because of InvalidBackend")]
    good = case.observed(**GOOD)
    assert (case.told(good), case.said(good)) == (["cloud"], [])


def test_another_pool_must_share_the_port() -> None:
    case = Case(NEAR)
    assert case.told() == []
    ((reason, message),) = case.said()
    assert reason == "PoolNotFound" and "is not on the same port" in message
