"""The objects of one pool on one listener: its endpoints, how they are treated, and the way there. Pure.

A pool's endpoints are always behind the first rule of its HTTPRoute, so that their cluster keeps its name whatever else
happens on the listener. What leads there is a header that only the picker sets; for the listener's default pool
anything else does too, unless it fails closed: then a second rule refuses what the picker has not placed.
"""

from collections.abc import Iterator
from typing import Any

from igw_api import wire
from igw_api.meta import GATEWAY_GROUP
from igw_api.objects import FailureMode, Key, Lead, Pool
from igw_api.resilience import PassiveHealth, Retry
from igw_api.split import Split
from igw_operator.plan.backends import H2C
from igw_operator.plan.model import GatewayPlan, Resilience, Site
from igw_operator.render.envoy_gateway.access import api_keys, refusal
from igw_operator.render.envoy_gateway.listener import limits, tcp_keepalive
from igw_operator.render.envoy_gateway.manifests import ENVOY_GROUP, duration, endpoint_slice, manifest
from igw_operator.render.envoy_gateway.names import Names, pool_labels, site_labels
from igw_operator.render.envoy_gateway.picker import GRPC_PORT, GRPC_PORT_NAME, leads_to_pods
from igw_operator.render.envoy_gateway.values import Manifest, Observed, Phase, Rendered
from igw_operator.render.errors import SERVICE_ERROR, error_body
from igw_operator.render.tries import retry_on

NEVER = 1_000_000  # Envoy would eject after five answers from 500 in a row; here only their share counts
ANY_PATH = {"type": "PathPrefix", "value": "/"}


def pool_objects(
    site: Site,
    pool: Pool,
    plan: GatewayPlan,
    names: Names,
    *,
    resilience: Resilience,
    split: Split | None,
    early: bool,
) -> Iterator[Rendered]:
    """All but the Service that the pool names. `early`: the route must not be made yet."""
    labels = {**site_labels(site, names), **pool_labels(pool.key)}
    yield Rendered(Phase.FOUNDATION, manifest("Service", names.service(pool.key), labels, spec=_endpoints(pool, split)))
    key = names.route(site, pool.key)
    target = {"group": GATEWAY_GROUP, "kind": "HTTPRoute", "name": key.name}
    guarded = refusal() if plan.guards.of(site.gateway, pool.key) else {}
    policy = {"targetRefs": [target], **_treatment(resilience, plan), **guarded}
    yield Rendered(Phase.BACKEND_POLICY, manifest("BackendTrafficPolicy", key, labels, spec=policy))
    if guard := plan.guards.pools.get(pool.key):
        security = {"targetRefs": [target], **api_keys(guard)}
        yield Rendered(Phase.BACKEND_POLICY, manifest("SecurityPolicy", key, labels, spec=security))
    if refuses(site, pool):
        yield Rendered(Phase.BACKEND_POLICY, manifest("HTTPRouteFilter", key, labels, spec=_refusal()))
    route = manifest("HTTPRoute", key, labels, spec=_route(site, pool, names))
    phase = Phase.ROUTE if site.pools[0] == pool.key else Phase.FURTHER_ROUTE
    yield Rendered(phase, route, waits=early)


def extension_objects(site: Site, pool: Pool, names: Names, observed: Observed) -> Iterator[Rendered]:
    """The Service that the pool names as its picker. In another namespace it cannot select the picker's Pods."""
    if pool.picker is None:
        return
    picker = names.site(site)
    key, labels = Key(pool.key.namespace, pool.picker), {**site_labels(site, names), **pool_labels(pool.key)}
    if key.namespace == picker.namespace:
        spec = leads_to_pods(picker.name, pool.picker_port)
        yield Rendered(Phase.FOUNDATION, manifest("Service", key, labels, spec=spec))
        return
    port = {"name": GRPC_PORT_NAME, "port": pool.picker_port, "targetPort": GRPC_PORT, "protocol": "TCP"}
    yield Rendered(Phase.FOUNDATION, manifest("Service", key, labels, spec={"clusterIP": "None", "ports": [port]}))
    address = observed.cluster_ips.get(picker)
    found = endpoint_slice(key, labels, address, GRPC_PORT_NAME, GRPC_PORT)
    yield Rendered(Phase.FOUNDATION, found, waits=not address)


def refuses(site: Site, pool: Pool) -> bool:
    """Whether requests of the listener that the picker has not placed are refused."""
    return site.pools[0] == pool.key and pool.failure_mode is FailureMode.CLOSE


def lead(site: Site, default: Pool, names: Names) -> tuple[str, Lead]:
    """The name of the route on which requests of the listener land, up to the match; and where it may lead."""
    closed = refuses(site, default)
    route = f"httproute/{names.route(site, default.key)}/rule/{1 if closed else 0}"
    return route, Lead(site.pools, announce=site.shared or closed)


def _endpoints(pool: Pool, split: Split | None) -> dict[str, Any]:
    """Without the Pods that only compute prompts, where labels tell: a Service cannot select those without a label."""
    protocol = {"appProtocol": H2C} if pool.app_protocol == H2C else {}
    return {
        "clusterIP": "None",
        "selector": {**pool.selector, **(split.decode_labels if split is not None else {})},
        "ports": [
            {"name": f"port-{number}", "port": number, "targetPort": number, "protocol": "TCP", **protocol}
            for number in pool.target_ports
        ],
    }


def _route(site: Site, pool: Pool, names: Names) -> dict[str, Any]:
    service = names.service(pool.key).name
    backends = {
        "backendRefs": [
            {"group": "", "kind": "Service", "name": service, "port": port, "weight": 1} for port in pool.target_ports
        ]
    }
    chosen = {"path": ANY_PATH, "headers": [{"type": "Exact", "name": wire.POOL_HEADER, "value": str(pool.key)}]}
    anything = {"path": ANY_PATH}
    if site.pools[0] != pool.key:
        rules = [{"matches": [chosen], **backends}]
    elif refuses(site, pool):
        answer = {"group": ENVOY_GROUP, "kind": "HTTPRouteFilter", "name": names.route(site, pool.key).name}
        refused = {"matches": [anything], "filters": [{"type": "ExtensionRef", "extensionRef": answer}]}
        rules = [{"matches": [chosen], **backends}, refused]
    else:
        # The header too: while routes change, another pool's route may be first to match anything.
        rules = [{"matches": [chosen, anything], **backends}]
    parent = {
        "group": GATEWAY_GROUP,
        "kind": "Gateway",
        "namespace": site.gateway.namespace,
        "name": site.gateway.name,
        "sectionName": site.listener,
    }
    return {"parentRefs": [parent], "rules": rules}


def _treatment(resilience: Resilience, plan: GatewayPlan) -> dict[str, Any]:
    return {
        "loadBalancer": {
            "type": "RoundRobin",
            "endpointOverride": {"extractFrom": [{"header": wire.DESTINATION_HEADER}]},
        },
        "retry": _retry(resilience),
        "healthCheck": {"panicThreshold": round(resilience.panic_percent), **_passive(resilience.passive_health)},
        "circuitBreaker": {**limits(resilience.max_requests), **_budget(resilience.retry)},
        "timeout": {
            "tcp": {"connectTimeout": duration(resilience.connect_timeout)},
            # Without a request timeout Envoy's own of 15 s would cut completions.
            "http": {
                "requestTimeout": "0s",
                "streamIdleTimeout": duration(plan.idle_timeout),
                "connectionIdleTimeout": duration(resilience.upstream_idle),
            },
        },
        "tcpKeepalive": tcp_keepalive(plan.keepalive),
    }


def _retry(resilience: Resilience) -> dict[str, Any]:
    base, longest = (duration(pause) for pause in resilience.retry_pause)
    retry = resilience.retry
    statuses = {"httpStatusCodes": list(retry.statuses)} if retry.statuses else {}
    return {
        "numRetries": retry.attempts,
        "retryOn": {"triggers": retry_on(retry), **statuses},
        "perRetry": {"backOff": {"baseInterval": base, "maxInterval": longest}},
    }


def _passive(health: PassiveHealth) -> dict[str, Any]:
    if not health.enabled:
        return {}
    rules = {
        "consecutiveGatewayErrors": health.failures or NEVER,
        "consecutive5XxErrors": NEVER,
        "failurePercentageThreshold": round(health.threshold * 100) or None,
        "interval": duration(health.interval),
        "baseEjectionTime": duration(health.base_ejection),
        "maxEjectionPercent": round(health.max_ejected * 100),
        "alwaysEjectOneEndpoint": True,
    }
    return {"passive": {name: value for name, value in rules.items() if value is not None}}


def _budget(retry: Retry) -> dict[str, Any]:
    share = {"numerator": round(retry.budget * 100), "denominator": 100}
    return {"retryBudget": {"percent": share, "minRetryConcurrency": retry.budget_min}}


def _refusal() -> Manifest:
    message = "Requests of this pool are placed only, and the picker does not answer; try again later."
    body = error_body(message, SERVICE_ERROR, "picker_unavailable")
    return {
        "directResponse": {
            "statusCode": 503,
            "contentType": "application/json",
            "body": {"type": "Inline", "inline": body},
        }
    }
