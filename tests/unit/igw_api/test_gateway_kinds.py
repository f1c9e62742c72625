"""The subset of the Gateway API that standalone mode serves."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_api.gateway import duration
from igw_api.objects import (
    BackendKind,
    BackendRef,
    Gateway,
    GatewayClass,
    Key,
    Listener,
    PathKind,
    Route,
    RouteMatch,
    RouteParent,
    RouteRule,
    ValueMatch,
)
from igw_testing.manifest_texts import ALPHA, GATEWAY, accepted, manifest, refusals

HTTP = {"name": "http", "protocol": "HTTP", "port": 8080}
TLS = {"certificateRefs": [{"name": "web"}]}
HTTPS = {"protocol": "HTTPS", "tls": TLS}


def gateway(*listeners: dict[str, Any], **spec: Any) -> str:
    return manifest("Gateway", GATEWAY, {"gatewayClassName": "igw", "listeners": list(listeners or (HTTP,)), **spec})


def route(*rules: dict[str, Any], **spec: Any) -> str:
    return manifest(
        "HTTPRoute", GATEWAY, {"parentRefs": [{"name": "gw"}], "rules": list(rules), **spec}, namespace="team"
    )


def rule_of(**rule: Any) -> RouteRule:
    (found,) = accepted(route(rule), Route).rules
    return found


def test_a_gateway_class_is_cluster_scoped() -> None:
    text = manifest("GatewayClass", GATEWAY, {"controllerName": "example.com/any"})
    assert accepted(text, GatewayClass) == GatewayClass(Key("", "x"), "example.com/any")


def test_a_gateways_listeners_keep_name_port_host_and_who_may_attach() -> None:
    text = gateway(
        HTTP,
        {
            **HTTP,
            "name": "llm",
            "port": 8081,
            "hostname": "*.example.com",
            "allowedRoutes": {"namespaces": {"from": "All"}},
        },
    )
    assert accepted(text, Gateway) == Gateway(
        Key("default", "x"), "igw", (Listener("http", 8080), Listener("llm", 8081, "*.example.com", any_namespace=True))
    )


@pytest.mark.parametrize(
    ("listener", "refusal"),
    [
        ({"protocol": "TLS"}, "spec.listeners[0].protocol: must be one of 'HTTP' or 'HTTPS', not 'TLS'"),
        (
            {"protocol": "HTTPS"},
            "spec.listeners[0].tls: is required for HTTPS: name a Secret in certificateRefs",
        ),
        ({"tls": TLS}, "spec.listeners[0].tls: goes with protocol HTTPS; with HTTP, remove it"),
        (
            {**HTTPS, "tls": {**TLS, "mode": "Passthrough"}},
            "spec.listeners[0].tls.mode: must be one of 'Terminate', not 'Passthrough'",
        ),
        ({**HTTPS, "tls": {}}, "spec.listeners[0].tls.certificateRefs: is required"),
        (
            {**HTTPS, "tls": {"certificateRefs": [{"name": "web", "namespace": "other"}]}},
            "spec.listeners[0].tls.certificateRefs[0].namespace: must be the Gateway's own, default",
        ),
        (
            {**HTTPS, "tls": {**TLS, "frontendValidation": {"caCertificateRefs": [{"name": "ca"}]}}},
            "spec.listeners[0].tls.frontendValidation: not supported in standalone mode; remove it",
        ),
        ({"port": 0}, "spec.listeners[0].port: must be at least 1, not 0"),
    ],
)
def test_a_listener_that_standalone_mode_cannot_serve_is_refused(listener: dict[str, Any], refusal: str) -> None:
    assert refusals(gateway({**HTTP, **listener})) == [refusal]


def test_a_listener_with_tls_names_the_secrets_of_its_certificates() -> None:
    """In the Gateway's namespace."""
    text = gateway({**HTTP, **HTTPS, "tls": {"certificateRefs": [{"name": "ec"}, {"kind": "Secret", "name": "rsa"}]}})
    (found,) = accepted(text, Gateway).listeners
    assert found.certificates == (Key("default", "ec"), Key("default", "rsa"))


def test_a_port_has_one_protocol() -> None:
    """Whether there is TLS is known before the host name is."""
    text = gateway(HTTP, {**HTTP, **HTTPS, "name": "tls", "hostname": "a.example.com"})
    assert refusals(text) == [
        "spec.listeners[1].protocol: port 8080 is HTTP for listener http; give this one another port"
    ]


def test_two_listeners_may_not_share_a_name_or_a_port_and_host() -> None:
    assert refusals(gateway(HTTP, {**HTTP, "port": 8081})) == ["spec.listeners: listener name http occurs twice"]
    assert refusals(gateway(HTTP, {**HTTP, "name": "b"})) == ["spec.listeners: port and hostname 8080 * occurs twice"]


def test_a_route_names_gateways_by_listener_or_port_in_its_own_namespace_by_default() -> None:
    parents = [{"name": "gw", "sectionName": "http"}, {"name": "gw", "namespace": "infra", "port": 80}]
    found = accepted(route({}, parentRefs=parents, hostnames=["a.example.com"]), Route)
    assert found.parents == (RouteParent(Key("team", "gw"), section="http"), RouteParent(Key("infra", "gw"), port=80))
    assert found.hostnames == ("a.example.com",)


def test_a_rule_without_matches_takes_every_request() -> None:
    assert rule_of().matches == (RouteMatch("/", PathKind.PREFIX),)


def test_matches_keep_path_method_headers_and_query() -> None:
    found = rule_of(
        matches=[
            {
                "path": {"type": "Exact", "value": "/v1"},
                "method": "POST",
                "headers": [{"name": "X-Team", "value": "a"}],
                "queryParams": [{"type": "RegularExpression", "name": "Q", "value": "[0-9]+"}],
            }
        ]
    )
    expected = RouteMatch(
        "/v1", PathKind.EXACT, "POST", (ValueMatch("x-team", "a"),), (ValueMatch("Q", "[0-9]+", True),)
    )
    assert found.matches == (expected,)


@pytest.mark.parametrize("group", [ALPHA, "inference.networking.k8s.io"])
def test_backends_are_services_or_pools_of_either_group(group: str) -> None:
    found = rule_of(
        backendRefs=[
            {"name": "web", "port": 80},
            {"group": group, "kind": "InferencePool", "name": "pool", "weight": 0},
        ]
    )
    assert found.backends == (
        BackendRef(BackendKind.SERVICE, Key("team", "web"), 80),
        BackendRef(BackendKind.POOL, Key("team", "pool"), weight=0),
    )


def test_timeouts_are_in_seconds_and_zero_means_none_at_all() -> None:
    found = rule_of(timeouts={"request": "24h", "backendRequest": "500ms"})
    assert (found.request_timeout, found.backend_timeout) == (86400.0, 0.5)
    assert rule_of(timeouts={"request": "0s", "backendRequest": "1h"}).request_timeout == 0.0
    assert rule_of().request_timeout is None


@pytest.mark.parametrize(
    ("rule", "refusal"),
    [
        ({"filters": [{"type": "URLRewrite"}]}, "filters: not supported in standalone mode; remove it"),
        ({"retry": {"attempts": 1}}, "retry: not supported in standalone mode; remove it"),
        ({"backendRefs": [{"name": "web"}]}, "backendRefs[0].port: is required for a Service"),
        (
            {"backendRefs": [{"kind": "Backend", "group": "example.com", "name": "b"}]},
            "backendRefs[0]: kind Backend of group 'example.com' is not supported in standalone mode; "
            "use Service or InferencePool",
        ),
        (
            {"backendRefs": [{"name": "web", "port": 1, "filters": [{"type": "URLRewrite"}]}]},
            "backendRefs[0].filters: not supported in standalone mode; remove it",
        ),
        ({"matches": [{"path": {"value": "v1"}}]}, "matches[0].path.value: must start with /, not 'v1'"),
        (
            {"matches": [{"path": {"type": "RegularExpression", "value": "("}}]},
            "matches[0].path.value: is not a regular expression: missing ), unterminated subpattern at position 0",
        ),
        ({"timeouts": {"request": "1d"}}, "timeouts.request: must be a duration such as 30s, 1h30m or 500ms"),
        (
            {"timeouts": {"request": "1s", "backendRequest": "2s"}},
            "timeouts.backendRequest: must not be longer than timeouts.request",
        ),
    ],
)
def test_what_standalone_mode_cannot_do_is_refused_by_field(rule: dict[str, Any], refusal: str) -> None:
    assert refusals(route(rule)) == [f"spec.rules[0].{refusal}"]


def test_an_empty_list_of_unsupported_things_asks_for_nothing() -> None:
    assert rule_of(filters=[]) == RouteRule()


@given(st.integers(0, 99999), st.integers(0, 99999), st.integers(0, 99999))
def test_duration_parts_add_up(hours: int, seconds: int, milliseconds: int) -> None:
    assert duration(f"{hours}h{seconds}s{milliseconds}ms") == pytest.approx(
        hours * 3600 + seconds + milliseconds / 1000
    )
