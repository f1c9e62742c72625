"""The plan: which requests go where, and what is said of objects that cannot have what they ask for."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_api.objects import FailureMode, Key
from igw_api.objectset import ObjectSet
from igw_operator.plan.attach import common_hostnames
from igw_operator.plan.build import build_plan
from igw_operator.plan.model import Destination, Placement, Refusal
from igw_testing.gateway_texts import division
from igw_testing.manifest_texts import manifest
from igw_testing.plans import (
    endpoints,
    gateway,
    http_route,
    listener,
    names,
    plan_of,
    planned,
    pool,
    routes,
    said,
    service,
)

LLM = Key("default", "llm")
PLACED = Destination("pool/default/llm", 1, Placement(LLM, FailureMode.OPEN, first_byte=True))
OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


def test_an_attached_pool_gets_every_request_of_its_port_through_the_picker() -> None:
    """And of no other port."""
    plan = plan_of(gateway(80, 81), pool(port=81), endpoints("10.0.0.2", "10.0.0.1"))
    (route,) = routes(plan, 81)
    assert route.destinations == (PLACED,)
    assert routes(plan, 80) == ()
    (cluster,) = plan.clusters
    assert cluster.endpoints == ("10.0.0.1:8000", "10.0.0.2:8000")
    assert cluster.placed


def test_a_plain_route_goes_round_robin_to_the_endpoints_of_its_service() -> None:
    """By the Service's selector, on its target port."""
    plan = plan_of(gateway(80), service(), http_route(), endpoints("10.0.0.1", app="web"))
    (cluster,) = plan.clusters
    assert (cluster.endpoints, cluster.placed) == (("10.0.0.1:8080",), False)
    assert routes(plan, 80)[0].destinations == (Destination("service/default/web/80"),)


def test_a_service_without_a_manifest_is_the_pool_of_its_name_and_still_round_robin() -> None:
    """Without Kubernetes nobody writes Services; users' routes name them all the same."""
    plan = plan_of(gateway(80), pool(), http_route(backends=[{"name": "llm", "port": 9}]), endpoints("10.0.0.1"))
    assert [(one.name, one.endpoints, one.placed) for one in plan.clusters] == [
        ("service/default/llm/9", ("10.0.0.1:8000",), False)
    ]


def test_a_route_may_lead_to_a_pool_by_kind_and_is_placed() -> None:
    """By path, beside what else the listener does."""
    ref = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llm"}
    rule = {"matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}]}
    plan = plan_of(gateway(80), pool(), http_route(backends=[ref], rule=rule), endpoints("10.0.0.1"))
    assert routes(plan, 80)[0].destinations == (PLACED,)


def test_endpoints_that_are_not_ready_or_of_another_namespace_do_not_count() -> None:
    """A pool selects within its namespace."""
    meta = "{name: p, labels: {app: llm}}"
    pod = f"{{apiVersion: v1, kind: Pod, metadata: {meta}, status: {{podIP: 10.0.0.9, conditions: []}}}}"
    plan = plan_of(gateway(80), pool(port=80), endpoints("10.0.0.1", namespace="other"), pod)
    assert plan.clusters[0].endpoints == ()


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([pool(port=80)], ("llm", "Accepted", "NoMatchingParent")),
        ([gateway(81), pool(port=80)], ("llm", "Accepted", "NoMatchingParent")),
        ([gateway(80), http_route(parent={"sectionName": "other"})], ("route", "Accepted", "NoMatchingParent")),
        ([gateway(80), pool(port=80, namespace="far")], ("llm", "Accepted", "NotAllowedByListeners")),
        (
            [gateway(80, hostname="a.example"), http_route(hostnames=["b.example"])],
            ("route", "Accepted", "NoMatchingListenerHostname"),
        ),
        ([gateway(80), http_route()], ("route", "ResolvedRefs", "BackendNotFound")),
        ([gateway(80), service(port=81), http_route()], ("route", "ResolvedRefs", "BackendNotFound")),
        ([gateway(80), service(), http_route()], ("route", "BackendsAvailable", "EndpointsNotFound")),
        ([gateway(80), pool(port=80)], ("llm", "BackendsAvailable", "EndpointsNotFound")),
        ([gateway(80), pool(), endpoints("10.0.0.1")], ("llm", "Exposed", "NotExposed")),
    ],
)
def test_what_cannot_be_honoured_is_said_of_the_object(texts: list[str], expected: tuple[str, str, str]) -> None:
    """With the Gateway API's reasons."""
    assert expected in said(*texts)


def test_what_can_be_honoured_leaves_nothing_to_say() -> None:
    """And is accepted."""
    texts = (gateway(80), pool(port=80), endpoints("10.0.0.1"))
    assert said(*texts) == set()
    assert [str(one) for one in planned(*texts)[1]] == ["InferencePool default/llm: Accepted: attached"]


def test_a_listener_for_all_namespaces_lets_a_pool_of_another_one_in() -> None:
    """As `allowedRoutes` says."""
    open_to_all: dict[str, Any] = {"allowedRoutes": {"namespaces": {"from": "All"}}}
    plan = plan_of(gateway(80, **open_to_all), pool(port=80, namespace="far"))
    assert names(routes(plan, 80)) == ["llm"]


@pytest.mark.parametrize(
    ("first", "second", "winner"), [(OLD, NEW, "b"), (NEW, OLD, "a"), (None, None, "a")], ids=["older", "newer", "same"]
)
def test_of_two_pools_on_one_port_the_oldest_has_it(first: str | None, second: str | None, winner: str) -> None:
    """By name where no times are known, as in files."""
    times: list[dict[str, Any]] = [{"creationTimestamp": time} if time else {} for time in (second, first)]
    texts = (gateway(80), pool("a", 80, **times[0]), pool("b", 80, **times[1]))
    assert names(routes(plan_of(*texts), 80)) == [winner]
    loser = {"a": "b", "b": "a"}[winner]
    assert (loser, "Accepted", "Conflicted") in said(*texts)
    (message,) = [one.message for one in planned(*texts)[1] if one.reason == "Conflicted"]
    assert f"leads to InferencePool default/{winner} already" in message


def test_an_unresolved_backend_is_answered_503_for_its_share() -> None:
    """The other shares are served."""
    backends = [{"name": "web", "port": 80, "weight": 3}, {"name": "gone", "port": 80}]
    plan = plan_of(gateway(80), service(), http_route(backends=backends))
    good, bad = routes(plan, 80)[0].destinations
    assert (good.to, good.weight) == ("service/default/web/80", 3)
    assert isinstance(bad.to, Refusal) and (bad.to.status, bad.weight) == (503, 1)


@pytest.mark.parametrize("backends", [[], [{"name": "web", "port": 80, "weight": 0}]])
def test_a_rule_that_leads_nowhere_is_answered_500(backends: list[dict[str, Any]]) -> None:
    """As the Gateway API has it."""
    (destination,) = routes(plan_of(gateway(80), service(), http_route(backends=backends)), 80)[0].destinations
    assert isinstance(destination.to, Refusal) and destination.to.status == 500


@pytest.mark.parametrize(
    ("timeouts", "expected"),
    [
        ({"request": "24h", "backendRequest": "24h"}, (86400.0, 86400.0)),
        ({"request": "0s"}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_timeouts_are_those_of_the_route_and_otherwise_none(
    timeouts: dict[str, str], expected: tuple[Any, Any]
) -> None:
    """A default of seconds would cut completions."""
    (route,) = routes(plan_of(gateway(80), service(), http_route(rule={"timeouts": timeouts})), 80)
    assert (route.request_timeout, route.try_timeout) == expected


def test_a_pool_that_fails_closed_is_never_served_round_robin() -> None:
    """Its cluster obeys the picker and nothing else."""
    plan = plan_of(gateway(80), pool(port=80, fail_close=True), endpoints("10.0.0.1"))
    assert plan.clusters[0].only_placed
    assert not plan_of(gateway(80), pool(port=80)).clusters[0].only_placed


MATCHES: list[dict[str, Any]] = [
    {"path": {"type": "Exact", "value": "/v1/x"}},
    {"path": {"type": "RegularExpression", "value": "/v1/.*"}},
    {"path": {"type": "PathPrefix", "value": "/v1/models"}},
    {"path": {"type": "PathPrefix", "value": "/v1"}, "method": "GET"},
    {"path": {"type": "PathPrefix", "value": "/v1"}, "headers": [{"name": "a", "value": "1"}]},
    {"path": {"type": "PathPrefix", "value": "/v1"}, "queryParams": [{"name": "a", "value": "1"}]},
    {"path": {"type": "PathPrefix", "value": "/v1"}},
    {"path": {"type": "PathPrefix", "value": "/"}},
]


def test_the_more_specific_match_goes_first_whoever_asks_for_it() -> None:
    """Exact, regular expression, longest prefix; then method, headers, query."""
    shuffled = list(enumerate(MATCHES))
    random.Random(1).shuffle(shuffled)
    texts = [http_route(f"r{place}", rule={"matches": [match]}) for place, match in shuffled]
    plan = plan_of(gateway(80), service(), *texts)
    assert names(routes(plan, 80)) == [f"r{place}" for place in range(len(MATCHES))]


def test_who_names_the_listener_goes_before_who_names_the_gateway_only() -> None:
    """A pool attached to a port keeps it, though some older route wants every port of the Gateway."""
    plan = plan_of(gateway(80), service(), http_route("a", creationTimestamp=OLD), pool("z", 80, creationTimestamp=NEW))
    assert names(routes(plan, 80)) == ["z", "a"]


@pytest.mark.parametrize(
    ("listener_host", "route_hosts", "expected"),
    [
        (None, (), ("*",)),
        (None, ("a.example",), ("a.example",)),
        ("a.example", (), ("a.example",)),
        ("*.example", ("a.example", "b.test"), ("a.example",)),
        ("a.example", ("*.example",), ("a.example",)),
        ("*.a.example", ("*.example",), ("*.a.example",)),
        ("*.example", ("example",), ()),
        ("a.example", ("b.example",), ()),
    ],
)
def test_a_route_has_the_host_names_that_it_shares_with_the_listener(
    listener_host: str | None, route_hosts: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    """The narrower of each two."""
    assert common_hostnames(listener_host, route_hosts) == expected


def test_a_narrow_host_name_has_the_routes_of_wider_ones_after_its_own() -> None:
    """Else one route for one host would hide the pool from that host."""
    plan = plan_of(gateway(80), service(), pool(port=80), http_route("narrow", hostnames=["a.example"]))
    assert names(routes(plan, 80, "a.example")) == ["narrow", "llm"]
    assert names(routes(plan, 80)) == ["llm"]


SHARED_PORT = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  gatewayClassName: igw
  listeners:
  - {name: p80, port: 80, protocol: HTTP, hostname: a.example}
  - {name: other, port: 80, protocol: HTTP, hostname: b.example}
"""


def test_listeners_of_one_gateway_share_a_port_by_host_name() -> None:
    """They are one port to the proxy."""
    plan = plan_of(SHARED_PORT, service(), http_route(parent={"sectionName": "other"}))
    (one,) = plan.listeners
    assert one.names == ("p80", "other")
    assert [host.hostname for host in one.hosts] == ["b.example"]


ALL = [
    gateway(80, 81),
    gateway(90, name="second"),
    pool("a", 80),
    pool("b", 80),
    pool("c", 81),
    pool("d", 90, to="second"),
    service(),
    http_route("x"),
    http_route("y", rule={"matches": MATCHES[:4]}),
    http_route("z", backends=[{"name": "c", "port": 80}, {"name": "nowhere", "port": 1}]),
    endpoints("10.0.0.1", "10.0.0.2", app="a", name="la"),
    endpoints("10.0.0.3", app="web", name="lw"),
]


@given(st.permutations(ALL), st.integers(min_value=1, max_value=len(ALL)))
def test_the_plan_does_not_depend_on_the_order_of_manifests(texts: list[str], count: int) -> None:
    """Nor does it ever name a cluster that it does not have."""
    chosen = texts[:count]
    plan, conditions = planned(*chosen)
    assert (plan, conditions) == planned(*sorted(chosen))
    named = {
        destination.to
        for one in plan.listeners
        for host in one.hosts
        for route in host.routes
        for destination in route.destinations
        if isinstance(destination.to, str)
    }
    assert named == {cluster.name for cluster in plan.clusters}


def test_no_objects_are_an_empty_plan() -> None:
    """Nothing to say, nothing to do."""
    plan, conditions = build_plan(ObjectSet())
    assert (plan.listeners, plan.clusters, conditions) == ((), (), ())


def test_the_label_of_a_listener_is_for_people() -> None:
    """Gateway and listener."""
    assert listener(plan_of(gateway(80)), 80).label == "gw/p80"


@pytest.mark.parametrize(
    ("rules", "chosen"),
    [
        ((), ["10.0.0.1:8000", "10.0.0.2:8000"]),
        ((division(policy="least-token"),), ["10.0.0.1:8000", "10.0.0.2:8000"]),
        ((division(),), ["10.0.0.2:8000"]),
        ((division(policy="dynamic-pd-split"),), ["10.0.0.2:8000"]),
        ((division(prefillLabels={"app": "llm"}),), []),
    ],
)
def test_endpoints_that_only_compute_prompts_are_nothing_that_the_proxy_may_choose(
    rules: tuple[str, ...], chosen: list[str]
) -> None:
    """Neither for the pool's own requests nor for a plain route that names it."""
    prompts = endpoints("10.0.0.1", name="p").replace("app: llm", "app: llm\n    inferencegateway.io/role: prefill")
    route = http_route(backends=[{"name": "llm", "port": 9}])
    plan = plan_of(gateway(80, 81), pool(port=81), route, endpoints("10.0.0.2"), prompts, *rules)
    assert {one.name: list(one.endpoints) for one in plan.clusters} == {
        "pool/default/llm": chosen,
        "service/default/llm/9": chosen,
    }


def test_a_pool_may_be_led_to_its_standbys_and_what_is_missing_of_them_is_said() -> None:
    """The rest of the chain serves."""
    chain = [
        {"name": "near", "pool": {"name": "other"}},
        {"name": "cloud", "provider": {"url": "https://api.example.com/v1", "credentialSecret": "key"}},
        {"name": "plain", "provider": {"url": "http://10.9.9.9/v1"}},
    ]
    spec = {"targetRefs": [{"name": "llm"}], "standby": chain}
    policy = manifest("InferencePoolPolicy", "inferencegateway.io/v1alpha1", spec)
    texts = (gateway(81), pool(port=81), endpoints("10.0.0.1"), policy)
    plan, conditions = planned(*texts)
    (destination,) = routes(plan, 81)[0].destinations
    assert destination.placement is not None
    assert [one.key for one in destination.placement.overflows] == ["standby/default/x/plain"]
    told = [one.message for one in conditions if one.type == "ResolvedRefs"]
    assert told == [
        "standby near is not in use: no InferencePool default/other",
        "standby cloud is not in use: no Secret default/key",
    ]


def test_a_pool_that_limits_the_time_to_the_first_byte_has_the_picker_heeded() -> None:
    """Its answers set headers, which the one-message mode does not carry."""
    spec = {"targetRefs": [{"name": "llm"}], "firstByteTimeout": "200ms"}
    limit = manifest("InferencePoolPolicy", "inferencegateway.io/v1alpha1", spec)
    for texts, heeded in (((limit,), True), ((), False)):
        (destination,) = routes(plan_of(gateway(81), pool(port=81), endpoints("10.0.0.1"), *texts), 81)[0].destinations
        assert destination.placement is not None
        assert destination.placement.heeded is heeded
