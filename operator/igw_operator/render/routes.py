"""Which request goes to which cluster: the plan's routes as one route table per listener. Pure.

A rule that splits its requests becomes one route per share, each taking its fraction: the route's name tells the
picker the pool, so a share needs a route of its own.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta

from envoy_data_plane.envoy.config.core import v3 as core_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts import v3 as previous_hosts_v3
from envoy_data_plane.envoy.type import v3 as type_v3
from envoy_data_plane.envoy.type.matcher import v3 as matcher_v3
from envoy_data_plane.google.protobuf import Any as PackedAny

from igw_api import wire
from igw_api.objects import Lead, PathKind, RouteMatch, ValueMatch
from igw_operator.plan.model import (
    Cluster,
    Destination,
    GatewayPlan,
    Placement,
    PlannedListener,
    PlannedRoute,
    Refusal,
    Resilience,
    Site,
)
from igw_operator.render.access import guarded
from igw_operator.render.errors import SERVICE_ERROR
from igw_operator.render.files import file_name, seconds
from igw_operator.render.filters import placed, placed_by_headers, upgraded
from igw_operator.render.local_replies import error_format
from igw_operator.render.providers import provider_action, served_by
from igw_operator.render.tries import retry_on

MILLION = 1_000_000
# To get, cancel or delete a response of OpenAI's responses API.
KEPT_RESPONSE = r".*/responses/resp_[0-9a-f]{32}([/?].*)?"
# What the picker says that goes with the request: who computes the prompt; which one it is, for the log of tries.
TOLD = (wire.PREFILLER_HEADER, wire.PREFILL_FAILURE_HEADER, wire.LEASE_HEADER)


def rds_file(listener: PlannedListener) -> str:
    """The file that holds a listener's routes."""
    return file_name("rds", table_name(listener))


def table_name(listener: PlannedListener) -> str:
    """The name of a listener, and of its route table."""
    return f"{listener.gateway}/{listener.port}"


def lead_name(site: Site) -> str:
    """The name of the route on which requests of a shared listener land, before the picker has found their pool."""
    return f"shared/{site.gateway}/{site.listener}"


def leads(plan: GatewayPlan) -> dict[str, Lead]:
    """Where routes lead that several pools share, for the picker. The others have the name of their pool."""
    return {lead_name(site): Lead(site.pools, announce=True) for site in plan.sites if site.shared}


def route_table(listener: PlannedListener, plan: GatewayPlan) -> route_v3.RouteConfiguration:
    """All routes of a listener."""
    clusters = {cluster.name: cluster for cluster in plan.clusters}
    return route_v3.RouteConfiguration(
        name=table_name(listener),
        ignore_port_in_host_matching=True,
        request_headers_to_add=[_told(name) for name in TOLD],
        response_headers_to_add=[_told(wire.DECISION_HEADER)],
        virtual_hosts=[
            route_v3.VirtualHost(
                name=host.hostname,
                domains=[host.hostname],
                routes=[entry for route in host.routes for entry in _routes(route, listener, plan, clusters)],
                request_body_buffer_limit=plan.max_body_kept,
            )
            for host in listener.hosts
        ],
    )


def _told(name: str) -> core_v3.HeaderValueOption:
    """A header with what the picker told by metadata: in its one answer, headers come too late. None without it."""
    value = f"%DYNAMIC_METADATA({wire.LB_NAMESPACE}:{name})%"
    overwrite = core_v3.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    return core_v3.HeaderValueOption(header=core_v3.HeaderValue(key=name, value=value), append_action=overwrite)


def _routes(
    route: PlannedRoute, listener: PlannedListener, plan: GatewayPlan, clusters: Mapping[str, Cluster]
) -> Iterator[route_v3.Route]:
    total = sum(destination.weight for destination in route.destinations)
    taken = 0
    for destination in route.destinations:
        taken += destination.weight
        # Envoy draws once per request and compares with each route's bound in turn, so bounds are cumulative.
        share = round(taken / total * MILLION)
        pool = destination.placement.pool if destination.placement else None
        guard = guarded(plan.guards.of(listener.gateway, pool))
        for entry in _share(route, destination, None if share == MILLION else share, plan, clusters):
            # Also on what the proxy answers by itself: which routes there are is nobody's business.
            entry.typed_per_filter_config |= guard
            yield entry


def _share(
    route: PlannedRoute,
    destination: Destination,
    bound: int | None,
    plan: GatewayPlan,
    clusters: Mapping[str, Cluster],
) -> Iterator[route_v3.Route]:
    chosen = (_chosen(str(route.chosen)),) if route.chosen else ()
    match = _match(route.match, bound, metadata=chosen)
    if isinstance(destination.to, Refusal):
        yield _refusal(route, match, destination.to)
        return
    action = _action(route, clusters[destination.to], plan)
    placement = destination.placement
    if placement is None:
        name = f"httproute/{route.owner}"
        yield route_v3.Route(name=name, match=match, route=action)
        return
    name = lead_name(placement.site) if placement.site else str(placement.pool)
    left = [_told(header) for header in wire.LEFT_HEADERS] if placement.limited else []
    yield from _overflows(route, placement, bound, plan, clusters)
    # What is about a kept response belongs to the engine that its path names: the picker gets the headers of such a
    # request, as it does of an upgrade.
    for header, config in ((_upgrade(), upgraded(placement)), (_kept_response(), placed_by_headers())):
        match = _match(route.match, bound, (header,), chosen)
        yield route_v3.Route(
            name=name,
            match=match,
            route=action,
            typed_per_filter_config=config,
            response_headers_to_add=left,
        )
    yield route_v3.Route(
        name=name,
        match=_match(route.match, bound, metadata=chosen),
        route=action,
        typed_per_filter_config=placed(placement, plan.picker),
        # Where the picker must have the whole body, the host's limit would refuse what is allowed elsewhere.
        request_body_buffer_limit=plan.picker.max_body_bytes if placement.heeded else None,
        response_headers_to_add=left,
    )


def _overflows(
    route: PlannedRoute, placement: Placement, bound: int | None, plan: GatewayPlan, clusters: Mapping[str, Cluster]
) -> Iterator[route_v3.Route]:
    """Where a request goes that its pool could not take. Pools that share the listener have routes of their own."""
    known = placement.site.pools if placement.site else ()
    for one in placement.overflows:
        if one.pool in known:
            continue
        match = _match(route.match, bound, metadata=(_chosen(one.key),))
        if one.provider is None:
            action = _action(route, clusters[one.cluster], plan)
            yield route_v3.Route(name=one.key, match=match, route=action, response_headers_to_add=served_by(one.name))
            continue
        action = provider_action(one.provider, plan.idle_timeout)
        yield route_v3.Route(name=one.key, match=match, route=action, response_headers_to_add=served_by(one.name))


def _action(route: PlannedRoute, cluster: Cluster, plan: GatewayPlan) -> route_v3.RouteAction:
    return route_v3.RouteAction(
        cluster=cluster.name,
        timeout=timedelta(seconds=route.request_timeout or 0),  # Envoy's default of 15 s would cut completions
        idle_timeout=seconds(max(plan.idle_timeout, route.request_timeout or 0)),
        retry_policy=_retry(cluster.resilience, route.try_timeout),
    )


def _retry(resilience: Resilience, try_timeout: float | None) -> route_v3.RetryPolicy:
    retry, (base, longest) = resilience.retry, resilience.retry_pause
    return route_v3.RetryPolicy(
        retry_on=",".join(retry_on(retry)),
        num_retries=retry.attempts,
        retriable_status_codes=list(retry.statuses),
        per_try_timeout=seconds(try_timeout),
        retry_back_off=route_v3.RetryPolicyRetryBackOff(base_interval=seconds(base), max_interval=seconds(longest)),
        retry_host_predicate=[
            route_v3.RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=PackedAny.pack(previous_hosts_v3.PreviousHostsPredicate()),
            )
        ],
        host_selection_retry_max_attempts=5,
    )


def _refusal(route: PlannedRoute, match: route_v3.RouteMatch, refusal: Refusal) -> route_v3.Route:
    return route_v3.Route(
        name=f"httproute/{route.owner}",
        match=match,
        direct_response=route_v3.DirectResponseAction(
            status=refusal.status, body_format=error_format(refusal.message, SERVICE_ERROR, refusal.code)
        ),
    )


def _match(
    match: RouteMatch,
    bound: int | None,
    more: tuple[route_v3.HeaderMatcher, ...] = (),
    metadata: tuple[matcher_v3.MetadataMatcher, ...] = (),
) -> route_v3.RouteMatch:
    headers = [_header(header) for header in match.headers]
    if match.method:
        headers.append(_header(ValueMatch(":method", match.method)))
    result = route_v3.RouteMatch(
        headers=[*headers, *more],
        query_parameters=[
            route_v3.QueryParameterMatcher(name=query.name, string_match=_string(query)) for query in match.query
        ],
        runtime_fraction=None if bound is None else _fraction(bound),
        dynamic_metadata=list(metadata),
    )
    _set_path(result, match)
    return result


def _set_path(result: route_v3.RouteMatch, match: RouteMatch) -> None:
    path = match.path if match.path == "/" else match.path.rstrip("/")
    if match.path_kind is PathKind.EXACT:
        result.path = match.path
    elif match.path_kind is PathKind.REGEX:
        result.safe_regex = matcher_v3.RegexMatcher(regex=match.path)
    elif path == "/":
        result.prefix = "/"
    else:
        result.path_separated_prefix = path  # `/v1` covers `/v1/x`, not `/v10`


def _header(match: ValueMatch) -> route_v3.HeaderMatcher:
    return route_v3.HeaderMatcher(name=match.name, string_match=_string(match))


def _upgrade() -> route_v3.HeaderMatcher:
    return route_v3.HeaderMatcher(
        name="upgrade", string_match=matcher_v3.StringMatcher(exact="websocket", ignore_case=True)
    )


def _kept_response() -> route_v3.HeaderMatcher:
    path = matcher_v3.StringMatcher(safe_regex=matcher_v3.RegexMatcher(regex=KEPT_RESPONSE))
    return route_v3.HeaderMatcher(name=":path", string_match=path)


def _chosen(key: str) -> matcher_v3.MetadataMatcher:
    """What the picker said. No header: in its one answer they come too late."""
    return matcher_v3.MetadataMatcher(
        filter=wire.LB_NAMESPACE,
        path=[matcher_v3.MetadataMatcherPathSegment(key=wire.POOL_HEADER)],
        value=matcher_v3.ValueMatcher(string_match=matcher_v3.StringMatcher(exact=key)),
    )


def _string(match: ValueMatch) -> matcher_v3.StringMatcher:
    if match.regex:
        return matcher_v3.StringMatcher(safe_regex=matcher_v3.RegexMatcher(regex=match.value))
    return matcher_v3.StringMatcher(exact=match.value)


def _fraction(bound: int) -> core_v3.RuntimeFractionalPercent:
    return core_v3.RuntimeFractionalPercent(
        default_value=type_v3.FractionalPercent(
            numerator=bound, denominator=type_v3.FractionalPercentDenominatorType.MILLION
        )
    )
