"""The policies of one listener: that its requests are asked about, and what clients may do. Pure.

One of each per listener, whatever its pools: a policy of a route's own would add a filter, which drains the listener
and cuts its long streams.
"""

from collections.abc import Iterator
from typing import Any

from igw_api import wire
from igw_api.meta import GATEWAY_GROUP
from igw_operator.plan.model import GatewayPlan, Keepalive, PickerRules, Site
from igw_operator.render.envoy_gateway.access import api_keys
from igw_operator.render.envoy_gateway.manifests import duration, manifest
from igw_operator.render.envoy_gateway.names import Names, site_labels
from igw_operator.render.envoy_gateway.picker import GRPC_PORT, cannot_be_asked
from igw_operator.render.envoy_gateway.values import Observed, Options, Phase, Rendered
from igw_operator.render.tries import BROKEN, FAILED_FROM, FULL, LOG, LOG_NAME, runtime_key

# What Envoy Gateway lets a message carry; it refuses attributes that name a header.
ATTRIBUTES = ["xds.route_name", "request.path"]
# All that the picker reads of a request besides its body.
FORWARDED = (
    ":method",
    ":path",
    "content-type",
    "connection",
    "upgrade",
    "x-request-id",
    wire.OBJECTIVE_HEADER,
    wire.MODEL_HEADER,
    wire.MODEL_REWRITE_HEADER,
    wire.FAIRNESS_HEADER,
    wire.SESSION_HEADER,
    wire.EXPLAIN_HEADER,
    *wire.CREDENTIAL_HEADERS,
    wire.CLIENT_HEADER,
)
LISTENER_TYPE = "type.googleapis.com/envoy.config.listener.v3.Listener"
LOG_TYPE = "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"
CLUSTER_TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"


def listener_objects(
    site: Site, plan: GatewayPlan, names: Names, observed: Observed, options: Options
) -> Iterator[Rendered]:
    """Both policies, and the patch where it is enabled."""
    key, labels = names.site(site), site_labels(site, names)
    target = {"group": GATEWAY_GROUP, "kind": "Gateway", "name": site.gateway.name}
    targets = [{**target, "sectionName": site.listener}]
    client = {"targetRefs": targets, **_client_rules(plan)}
    yield Rendered(Phase.LISTENER_POLICY, manifest("ClientTrafficPolicy", key, labels, spec=client))
    if guard := plan.guards.gateways.get(site.gateway):
        security = {"targetRefs": targets, **api_keys(guard)}
        yield Rendered(Phase.LISTENER_POLICY, manifest("SecurityPolicy", key, labels, spec=security))
    extension = {"targetRefs": targets, "extProc": [_ext_proc(names.front(site).name, plan.picker)]}
    # Without an endpoint behind it the filter would be left out now, and added later at the cost of a drain.
    waits = cannot_be_asked(site, names, observed)
    yield Rendered(Phase.LISTENER_POLICY, manifest("EnvoyExtensionPolicy", key, labels, spec=extension), waits)
    if options.patch_policies:
        patch = {
            "targetRef": target,
            "type": "JSONPatch",
            "jsonPatches": [
                _trim(site, names),
                _heed(site, names),
                _failed_tries(site, names),
                _look_again(site, plan, names),
            ],
        }
        yield Rendered(Phase.LISTENER_POLICY, manifest("EnvoyPatchPolicy", key, labels, spec=patch), waits)


def _client_rules(plan: GatewayPlan) -> dict[str, Any]:
    return {
        # A larger body is refused with 413: the picker must have all of it, see `_ext_proc`.
        "connection": {"bufferLimit": f"{plan.picker.max_body_bytes // 2**20}Mi"},
        "headers": {"earlyRequestHeaders": {"remove": list(wire.PRIVATE_HEADERS)}},
        "timeout": {
            "http": {
                "streamIdleTimeout": duration(plan.idle_timeout),
                "requestHeadersReceivedTimeout": duration(plan.clients.headers_timeout),
                "requestReceivedTimeout": duration(plan.clients.body_timeout),
                "idleTimeout": duration(plan.clients.idle),
            }
        },
        "http2": {"maxConcurrentStreams": plan.clients.streams},
        "tcpKeepalive": tcp_keepalive(plan.keepalive),
    }


def _ext_proc(front: str, rules: PickerRules) -> dict[str, Any]:
    return {
        "backendRefs": [{"group": "", "kind": "Service", "name": front, "port": GRPC_PORT}],
        "failOpen": True,  # pools that fail closed do so by their routes
        "messageTimeout": duration(rules.message_timeout),
        "processingMode": {
            "allowModeOverride": True,  # an upgrade's body never ends
            # Partly buffered, a body above the limit would be on its way to the default pool before the route is chosen
            # anew. The same for listeners of one pool: to change the mode for a second one would drain the listener.
            "request": {"body": "Buffered", "attributes": ATTRIBUTES},
        },
        "backendSettings": _picker_settings(rules),
    }


def _picker_settings(rules: PickerRules) -> dict[str, Any]:
    # Here the timeout must be the shorter one. A frozen picker is found within their sum either way.
    pings = sorted((rules.ping_interval, rules.ping_timeout))
    return {
        "timeout": {"tcp": {"connectTimeout": duration(rules.connect_timeout)}},
        "circuitBreaker": limits(rules.max_streams),
        "http2": {"connectionKeepalive": {"interval": duration(pings[1]), "timeout": duration(pings[0])}},
        "healthCheck": {
            "panicThreshold": 0,
            "active": {
                "type": "GRPC",
                "grpc": {"service": wire.EXT_PROC_SERVICE},
                "interval": duration(rules.check_interval),
                "timeout": duration(rules.check_timeout),
                "unhealthyThreshold": rules.unhealthy_checks,
                "healthyThreshold": rules.healthy_checks,
            },
        },
    }


def _asking(site: Site, names: Names) -> str:
    """What Envoy Gateway calls the picker's cluster, and its filter after the kind."""
    return f"envoyextensionpolicy/{names.site(site)}/extproc/0"


def _trim(site: Site, names: Names) -> dict[str, Any]:
    """Send the picker only the headers that it reads: most of a message is headers that it would only throw away."""
    patterns = [{"exact": header} for header in FORWARDED]
    return _filter_patch(site, names, "/forward_rules", {"allowed_headers": {"patterns": patterns}})


def _heed(site: Site, names: Names) -> dict[str, Any]:
    """Let the picker bound a try: see `wire.TRY_TIMEOUT_HEADER`. Else Envoy takes no `x-envoy-` header from it."""
    return _filter_patch(site, names, "/mutation_rules", {"allow_envoy": True})


def _filter_patch(site: Site, names: Names, path: str, value: dict[str, Any]) -> dict[str, Any]:
    name = f"{wire.EXT_PROC_FILTER}/{_asking(site, names)}"
    return {
        "type": LISTENER_TYPE,
        "name": f"{site.gateway}/{site.listener}",
        "operation": {
            "op": "add",
            "jsonPath": f"..http_filters[?(@.name=='{name}')].typed_config",
            "path": path,
            "value": value,
        },
    }


def _failed_tries(site: Site, names: Names) -> dict[str, Any]:
    """Tell the picker of each try that failed."""
    return {
        "type": LISTENER_TYPE,
        "name": f"{site.gateway}/{site.listener}",
        "operation": {
            "op": "add",
            "jsonPath": "..http_filters[?(@.name=='envoy.filters.http.router')].typed_config",
            "path": "/upstream_log",
            "value": [tries_log(_asking(site, names))],
        },
    }


def tries_log(picker: str) -> dict[str, Any]:
    """The same as `filters.failed_tries`, for that cluster; a test compares."""
    common = {
        "log_name": LOG_NAME,
        "grpc_service": {"envoy_grpc": {"cluster_name": picker}},
        "transport_api_version": "V3",
        "buffer_size_bytes": 0,
    }
    broken = {"response_flag_filter": {"flags": list(BROKEN)}}
    config = {"@type": LOG_TYPE, "common_config": common, "additional_request_headers_to_log": [wire.LEASE_HEADER]}
    return {
        "name": LOG,
        "filter": {"or_filter": {"filters": [broken, _status("GE", FAILED_FROM), _status("EQ", FULL)]}},
        "typed_config": config,
    }


def _status(operator: str, status: int) -> dict[str, Any]:
    value = {"default_value": status, "runtime_key": runtime_key(status)}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}


def _look_again(site: Site, plan: GatewayPlan, names: Names) -> dict[str, Any]:
    """Check a picker that was never reached as often as any: Envoy's own interval for it is a minute."""
    return {
        "type": CLUSTER_TYPE,
        "name": _asking(site, names),
        "operation": {
            "op": "add",
            "path": "/health_checks/0/no_traffic_interval",
            "value": f"{plan.picker.check_interval:g}s",  # as protobuf writes it, not the Gateway API
        },
    }


def limits(most: int) -> dict[str, int]:
    """Circuit breakers that never open below `most`."""
    return {
        "maxConnections": most,
        "maxPendingRequests": most,
        "maxParallelRequests": most,
        "maxParallelRetries": most,
    }


def tcp_keepalive(rules: Keepalive) -> dict[str, Any]:
    """The plan's rule in Envoy Gateway's words."""
    return {"probes": rules.probes, "idleTime": duration(rules.idle), "interval": duration(rules.interval)}
