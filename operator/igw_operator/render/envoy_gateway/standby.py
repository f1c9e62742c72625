"""The way from a listener to a provider beyond the gateway: a Backend, its key, and a route of its own. Pure.

The key is put on by a filter of the backend, not of the route: a route's filter is a listener's, which Envoy switches
on or off by the route on which a request lands, and those for providers land on their pool's. Envoy Gateway reads the
Secret and sends it to Envoy; nothing of ours does.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any, Final

from igw_api import wire
from igw_api.meta import GATEWAY_GROUP
from igw_api.objects import Key
from igw_api.objectset import ObjectSet
from igw_api.resolution import winning_policy
from igw_api.standby import VERSION_PATH, Provider, Standby
from igw_operator.plan.model import GatewayPlan, ProviderCluster, Site
from igw_operator.render.envoy_gateway.listener import limits, tcp_keepalive
from igw_operator.render.envoy_gateway.manifests import ENVOY_GROUP, duration, manifest
from igw_operator.render.envoy_gateway.names import Names, bounded, site_labels
from igw_operator.render.envoy_gateway.values import Manifest, Observed, Options, Phase, Rendered

# The Gateway API lets a route take off sixteen headers, by name. Ours first, then what tells who asks.
_TAKEN_OFF: Final = (
    *wire.PRIVATE_HEADERS,
    wire.MODEL_HEADER,
    wire.FAIRNESS_HEADER,
    wire.SESSION_HEADER,
    "authorization",
    "cookie",
    "x-api-key",
    "x-forwarded-for",
    "forwarded",
    "origin",
    "referer",
)
MOST_TAKEN_OFF: Final = 16


def standby_objects(
    site: Site, objects: ObjectSet, plan: GatewayPlan, names: Names, options: Options, *, early: bool
) -> Iterator[Rendered]:
    """For each provider that a pool of the listener may need. `early`: routes must not be made yet."""
    if not options.providers:
        return
    clusters = {one.name: one for one in plan.providers}
    wanted = {one.key: one for _, one in _chains(site, objects)}
    for key in sorted(wanted):
        if key in clusters:
            yield from _provider_objects(site, wanted[key], clusters[key], plan, names, early)


def usable(site: Site, objects: ObjectSet, observed: Observed, options: Options) -> frozenset[str]:
    """The standbys that requests of the listener can be led to now: Envoy Gateway has said yes to their routes."""
    pools = {str(pool) for pool in site.pools}
    return frozenset(
        one.key
        for policy, one in _chains(site, objects)
        if one.pool in pools or (options.providers and _is_there(observed, route_key(site, policy, one)))
    )


def why_unusable(site: Site, policy: Key, one: Standby, observed: Observed, options: Options) -> tuple[str, str] | None:
    """Reason and message, for the policy's status. None: it can be used."""
    if one.provider is None:
        return None if one.pool in {str(pool) for pool in site.pools} else ("PoolNotFound", f"{one.pool} {_ELSEWHERE}")
    if not options.providers:
        return "NotEnabled", "providers need `gateway.providers` of the chart, and Envoy Gateway's Backend"
    for condition in _conditions(observed, route_key(site, policy, one)):
        if condition.get("status") != "True":
            return str(condition.get("reason")), str(condition.get("message"))
    return (
        None if _is_there(observed, route_key(site, policy, one)) else ("Pending", "Envoy Gateway has yet to say yes")
    )


_ELSEWHERE: Final = "is not on the same port; a standby must be, so that its models tell them apart"


def route_key(site: Site, policy: Key, one: Standby) -> Key:
    """The name of a provider's objects: it has them on each listener apart, as pools do."""
    return Key(policy.namespace, bounded(("igw", policy.name, one.name, *site.gateway, site.listener), hashed=True))


def _chains(site: Site, objects: ObjectSet) -> Iterator[tuple[Key, Standby]]:
    """Each policy with each of its standbys, of all pools of the listener."""
    for pool in site.pools:
        policy = winning_policy(pool, objects.policies.values())
        for one in policy.standbys if policy is not None else ():
            assert policy is not None, "it has standbys"
            yield policy.key, one


def _is_there(observed: Observed, key: Key) -> bool:
    conditions = _conditions(observed, key)
    kinds = {one.get("type") for one in conditions}
    return {"Accepted", "ResolvedRefs"} <= kinds and all(one.get("status") == "True" for one in conditions)


def _conditions(observed: Observed, key: Key) -> list[Mapping[str, Any]]:
    parents = observed.statuses.get(("HTTPRoute", key), {}).get("parents") or ()
    found = (one for parent in parents for one in parent.get("conditions") or ())
    return [one for one in found if one.get("type") in ("Accepted", "ResolvedRefs")]


def _provider_objects(
    site: Site, one: Standby, cluster: ProviderCluster, plan: GatewayPlan, names: Names, early: bool
) -> Iterator[Rendered]:
    assert one.provider is not None, "a provider's"
    policy = _policy_of(one)
    key, labels = route_key(site, policy, one), site_labels(site, names)
    yield Rendered(Phase.FOUNDATION, manifest("Backend", key, labels, spec=_backend(one.provider)))
    if one.provider.credential is not None:
        value = {"valueRef": {"group": "", "kind": "Secret", "name": one.provider.credential}}
        injected = {"credentialInjection": {"overwrite": True, "credential": value}}
        yield Rendered(Phase.FOUNDATION, manifest("HTTPRouteFilter", key, labels, spec=injected))
    target = {"group": GATEWAY_GROUP, "kind": "HTTPRoute", "name": key.name}
    treatment = {"targetRefs": [target], **_treatment(cluster, plan)}
    yield Rendered(Phase.BACKEND_POLICY, manifest("BackendTrafficPolicy", key, labels, spec=treatment))
    route = manifest("HTTPRoute", key, labels, spec=_route(site, one, one.provider, key))
    yield Rendered(Phase.FURTHER_ROUTE, route, waits=early)


def _policy_of(one: Standby) -> Key:
    """A provider's key says whose it is: `standby/NAMESPACE/POLICY/NAME`."""
    _, namespace, name, _ = one.key.split("/")
    return Key(namespace, name)


def _backend(provider: Provider) -> Manifest:
    try:
        ipaddress.ip_address(provider.host)
        endpoint = {"ip": {"address": provider.host, "port": provider.port}}
    except ValueError:
        endpoint = {"fqdn": {"hostname": provider.host, "port": provider.port}}
    spec: Manifest = {"type": "Endpoints", "endpoints": [endpoint]}
    if provider.tls:
        spec["tls"] = {"sni": provider.host, **_trust(provider)}
    return spec


def _trust(provider: Provider) -> dict[str, Any]:
    if not provider.verify:
        return {"insecureSkipVerify": True}
    if provider.authorities is None:
        return {"wellKnownCACertificates": "System"}
    return {"caCertificateRefs": [{"group": "", "kind": "Secret", "name": provider.authorities}]}


def _treatment(cluster: ProviderCluster, plan: GatewayPlan) -> dict[str, Any]:
    return {
        # Before anything of the request is sent, so that nothing is billed twice.
        "retry": {"numRetries": 1, "retryOn": {"triggers": ["connect-failure", "refused-stream"]}},
        "circuitBreaker": limits(cluster.max_requests),
        "timeout": {
            "tcp": {"connectTimeout": duration(cluster.connect_timeout)},
            "http": {
                "requestTimeout": "0s",
                "streamIdleTimeout": duration(plan.idle_timeout),
                "connectionIdleTimeout": duration(cluster.idle),
            },
        },
        "tcpKeepalive": tcp_keepalive(plan.keepalive),
    }


def _route(site: Site, one: Standby, provider: Provider, key: Key) -> Manifest:
    chosen = {"type": "Exact", "name": wire.POOL_HEADER, "value": one.key}
    backend: Manifest = {"group": ENVOY_GROUP, "kind": "Backend", "name": key.name, "port": provider.port}
    if provider.credential is not None:
        put_on = {"group": ENVOY_GROUP, "kind": "HTTPRouteFilter", "name": key.name}
        backend["filters"] = [{"type": "ExtensionRef", "extensionRef": put_on}]
    rewrite = {
        "hostname": provider.host,
        "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": provider.path or "/"},
    }
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": VERSION_PATH}, "headers": [chosen]}],
        "filters": [
            {"type": "URLRewrite", "urlRewrite": rewrite},
            {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": list(_TAKEN_OFF[:MOST_TAKEN_OFF])}},
            {
                "type": "ResponseHeaderModifier",
                "responseHeaderModifier": {"set": [{"name": wire.SERVED_BY_HEADER, "value": one.name}]},
            },
        ],
        "backendRefs": [backend],
    }
    parent = {
        "group": GATEWAY_GROUP,
        "kind": "Gateway",
        "namespace": site.gateway.namespace,
        "name": site.gateway.name,
        "sectionName": site.listener,
    }
    return {"parentRefs": [parent], "rules": [rule]}
