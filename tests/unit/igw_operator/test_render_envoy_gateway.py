"""The objects for Envoy Gateway: what waits for what, whose names are left alone, and what a picker may see."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_api import wire
from igw_api.objects import Key, Lead
from igw_api.objectset import load
from igw_operator.plan.model import Site
from igw_operator.render.envoy_gateway.manifests import duration
from igw_operator.render.envoy_gateway.names import LONGEST, names_of
from igw_operator.render.envoy_gateway.values import Identity, Observed, Options, Phase, Rendered
from igw_testing.gateway_texts import division, gateway, model, pool
from igw_testing.plans import PICKER, objects_of, plan_of, rendered

SITE = Key("default", "igw-gw-p80")


def objects_for(
    *texts: str, observed: Observed | None = None, options: Options = PICKER, patched: bool = False
) -> dict[Identity, Rendered]:
    """What is rendered, by kind and key."""
    found = rendered(objects_of(*texts), plan_of(*texts), observed, replace(options, patch_policies=patched))
    by_identity = {one.identity: one for one in found}
    assert len(by_identity) == len(found), "each object once"
    assert [one.phase for one in found] == sorted(one.phase for one in found)
    return by_identity


def test_without_a_pool_there_is_nothing() -> None:
    """Gateways alone imply no object."""
    assert objects_for(gateway(80)) == {}


def test_every_object_has_our_label_and_says_what_it_is_for() -> None:
    """So that orphans are found after a restart."""
    for one in objects_for(gateway(80), pool(port=80), patched=True).values():
        labels = one.manifest["metadata"]["labels"]
        assert labels[wire.MANAGED_BY_LABEL] == wire.MANAGED_BY
        assert (labels[wire.GATEWAY_LABEL], labels[wire.LISTENER_LABEL]) == ("gw", "p80")


@pytest.mark.parametrize(
    ("observed", "waiting"),
    [
        (Observed(), {"EndpointSlice", "EnvoyExtensionPolicy", "HTTPRoute"}),
        (Observed(cluster_ips={SITE: "10.96.0.1"}), set()),
        (
            Observed(cluster_ips={SITE: "10.96.0.1"}, awaited=frozenset({SITE})),
            {"EnvoyExtensionPolicy", "HTTPRoute"},
        ),
    ],
)
def test_nothing_leads_past_a_picker_that_cannot_be_asked_yet(observed: Observed, waiting: set[str]) -> None:
    """What waits is neither applied nor pruned."""
    found = objects_for(gateway(80), pool(port=80), observed=observed)
    assert {kind for (kind, _), one in found.items() if one.waits} == waiting


def test_the_slice_behind_the_front_has_the_address_family_of_the_service() -> None:
    """IPv6 clusters have IPv6 Services."""
    observed = Observed(cluster_ips={SITE: "fd00::1"})
    found = objects_for(gateway(80), pool(port=80), observed=observed)
    manifest = found["EndpointSlice", Key("default", "igw-gw-p80-front")].manifest
    assert (manifest["addressType"], manifest["endpoints"][0]["addresses"]) == ("IPv6", ["fd00::1"])


def test_names_that_are_somebody_elses_are_not_rendered() -> None:
    """Theirs is left alone; the rest is made all the same."""
    texts = (gateway(80), pool(port=80, fail_close=True))
    service = ("Service", Key("default", "picker"))
    everything = objects_for(*texts)
    addresses = {SITE: "10.96.0.1"}
    rest = objects_for(*texts, observed=Observed(cluster_ips=addresses, foreign=frozenset({service})))
    assert set(everything) - set(rest) == {service}


def test_the_route_comes_after_all_that_it_builds_on() -> None:
    """A policy that arrives after its route changes a running cluster."""
    found = objects_for(gateway(80), pool(port=80))
    assert found["HTTPRoute", Key("default", "igw-llm")].phase is Phase.ROUTE
    assert found["BackendTrafficPolicy", Key("default", "igw-llm")].phase is Phase.BACKEND_POLICY


def test_no_request_is_without_a_route_while_another_pool_becomes_the_one_where_they_land() -> None:
    """Who gets that is applied before who gives it up, and both are reached by the picker's header all the time."""
    found = objects_for(gateway(80), pool("a", 80), pool("b", 80), model("m", "b"))
    routes = {name: found["HTTPRoute", Key("default", f"igw-{name}")] for name in "ab"}
    assert routes["a"].phase < routes["b"].phase
    matches = {name: one.manifest["spec"]["rules"][0]["matches"] for name, one in routes.items()}
    for name, found_matches in matches.items():
        assert found_matches[0]["headers"] == [{"type": "Exact", "name": wire.POOL_HEADER, "value": f"default/{name}"}]
    assert [len(matches[name]) for name in "ab"] == [2, 1] and "headers" not in matches["a"][1]


def test_a_picker_sees_its_config_map_and_pods_of_its_pools_namespaces_and_nothing_else() -> None:
    """In whichever namespaces those are."""
    open_to_all: dict[str, Any] = {"allowedRoutes": {"namespaces": {"from": "All"}}}
    found = objects_for(gateway(80, **open_to_all), pool(port=80, namespace="far"))
    roles = {key: one.manifest["rules"] for (kind, key), one in found.items() if kind == "Role"}
    assert {key.namespace: rules[0]["resources"] for key, rules in roles.items()} == {
        "default": ["configmaps"],
        "far": ["pods"],
    }
    assert roles[SITE][0]["resourceNames"] == [SITE.name]
    for rules in roles.values():
        assert rules[0]["verbs"] == ["get", "list", "watch"]


def test_what_the_configuration_says_of_pickers_is_in_their_pods() -> None:
    """As it is. What is not said is left out."""
    chosen = replace(
        PICKER, image_pull_secrets=({"name": "registry"},), node_selector={"a": "b"}, tolerations=({"key": "c"},)
    )
    both = [objects_for(gateway(80), pool(port=80), options=options) for options in (PICKER, chosen)]
    pods = [found["Deployment", SITE].manifest["spec"]["template"]["spec"] for found in both]
    assert pods[1] == {
        **pods[0],
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "c"}],
    }


def test_the_config_map_has_what_the_picker_serves_and_where_its_route_leads() -> None:
    """No other pool's objects, and no endpoints: those it watches itself."""
    texts = (gateway(80, 81), pool("a", 80), pool("b", 80), pool("c", 81), *(model(f"m-{one}", one) for one in "abc"))
    manifest = objects_for(*texts)["ConfigMap", SITE].manifest
    served = load(manifest["data"][wire.OBJECTS_KEY].encode())
    assert {key.name for key in served.pools} == {"a", "b"}
    assert {key.name for key in served.models} == {"m-a", "m-b"}
    assert served.leads == {
        "httproute/default/igw-a/rule/0": Lead((Key("default", "a"), Key("default", "b")), announce=True)
    }


def test_a_pools_endpoints_keep_their_cluster_when_another_pool_comes_or_the_mode_changes() -> None:
    """Envoy's name of a cluster is its rule's; a new name would be a new cluster without its connections."""
    alone = objects_for(gateway(80), pool("b", 80))
    joined = objects_for(gateway(80), pool("a", 80), pool("b", 80), model("m-a", "a"), model("m-b", "b"))
    closed = objects_for(gateway(80), pool("b", 80, fail_close=True))
    for found in (alone, joined, closed):
        first = found["HTTPRoute", Key("default", "igw-b")].manifest["spec"]["rules"][0]
        assert [ref["name"] for ref in first["backendRefs"]] == ["igw-b"]
    policy = ("EnvoyExtensionPolicy", SITE)
    assert alone[policy] == joined[policy] == closed[policy], "a change of it would drain the listener"


def test_the_patch_sends_only_headers_that_the_picker_reads() -> None:
    """And exists only where patches are enabled."""
    assert ("EnvoyPatchPolicy", SITE) not in objects_for(gateway(80), pool(port=80))
    patch = objects_for(gateway(80), pool(port=80), patched=True)["EnvoyPatchPolicy", SITE].manifest
    written = json.dumps(patch["spec"])
    assert "envoyextensionpolicy/default/igw-gw-p80/extproc/0" in written
    assert wire.OBJECTIVE_HEADER in written


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0s"), (0.025, "25ms"), (1.0, "1s"), (1.5, "1500ms"), (3600, "3600s")]
)
def test_durations_are_written_as_the_gateway_api_reads_them(seconds: float, text: str) -> None:
    """No fractions, at most five digits a part."""
    assert duration(seconds) == text


LABELS = st.from_regex(r"[a-z]([-a-z0-9]{0,60}[a-z0-9])?", fullmatch=True)
DOTTED = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
SITES = st.builds(
    lambda namespace, name, listener, pools: Site(
        Key(namespace, name), listener, 80, tuple(Key(namespace, one) for one in pools)
    ),
    st.sampled_from(["n", "m"]),
    DOTTED | st.sampled_from(["a", "a-b"]),
    DOTTED | st.sampled_from(["b-c", "c"]),
    st.lists(DOTTED | st.sampled_from(["a-b-c", "a-b-c-front"]), min_size=1, max_size=3, unique=True),
)


@given(sites=st.lists(SITES, max_size=4, unique_by=lambda site: (site.gateway, site.listener)))
def test_no_two_services_share_a_name_and_each_is_a_valid_one(sites: list[Site]) -> None:
    """Pickers', their fronts' and pools', whatever their objects are called."""
    names = names_of(sites)
    pools = {pool for site in sites for pool in site.pools}
    services = [key for site in sites for key in (names.site(site), names.front(site))]
    services += [names.service(pool) for pool in pools]
    assert len(set(services)) == len(services)
    routes = [names.route(site, pool) for site in sites for pool in site.pools]
    assert len(set(routes)) == len(routes)
    for key in (*services, *routes):
        assert len(key.name) <= LONGEST + len("-front")
        assert "." not in key.name and key.name[-1] != "-" and key.name.startswith("igw-")


def test_the_patch_makes_envoy_look_again_soon_at_a_picker_that_it_never_reached() -> None:
    """In protobuf's form of a duration, which knows no milliseconds."""
    patch = objects_for(gateway(80), pool(port=80), patched=True)["EnvoyPatchPolicy", SITE].manifest
    (operation,) = [one["operation"] for one in patch["spec"]["jsonPatches"] if "Cluster" in one["type"]]
    assert operation["path"].endswith("/no_traffic_interval")
    assert operation["value"] == "0.5s"


@pytest.mark.parametrize(
    ("rules", "selector"),
    [
        ((), {"app": "llm"}),
        ((division(),), {"app": "llm"}),
        ((division(decodeLabels={"half": "decode"}),), {"app": "llm", "half": "decode"}),
    ],
)
def test_a_divided_pools_service_has_the_pods_that_answer_where_labels_tell(
    rules: tuple[str, ...], selector: dict[str, str]
) -> None:
    """The proxy chooses among them while the picker is down."""
    found = objects_for(gateway(80), pool(port=80), *rules)
    selectors = [
        one.manifest["spec"].get("selector")
        for (kind, _), one in found.items()
        if kind == "Service" and wire.POOL_LABEL in one.manifest["metadata"]["labels"]
    ]
    assert selectors == [selector]
