"""Where requests go: the plan's clusters and the picker's, with their resilience. Pure."""

from envoy_data_plane.envoy.config.cluster import v3 as cluster_v3
from envoy_data_plane.envoy.config.common.matcher import v3 as matcher_v3
from envoy_data_plane.envoy.config.core import v3 as core_v3
from envoy_data_plane.envoy.config.endpoint import v3 as endpoint_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.load_balancing_policies.override_host import v3 as override_host_v3
from envoy_data_plane.envoy.extensions.load_balancing_policies.round_robin import v3 as round_robin_v3
from envoy_data_plane.envoy.extensions.load_balancing_policies.subset import v3 as subset_v3
from envoy_data_plane.envoy.extensions.upstreams.http import v3 as upstream_http_v3
from envoy_data_plane.envoy.type import v3 as type_v3
from envoy_data_plane.envoy.type.matcher import v3 as type_matcher_v3
from envoy_data_plane.envoy.type.metadata import v3 as metadata_v3
from envoy_data_plane.google.protobuf import Any as PackedAny

from igw_api import wire
from igw_api.resilience import PassiveHealth, Retry
from igw_operator.plan.model import Cluster, Keepalive, PickerRules
from igw_operator.render.files import (
    PICKER_CLUSTER,
    Address,
    Surroundings,
    file_name,
    file_source,
    seconds,
    socket_address,
    typed,
)

DEFAULT_KEEPALIVE = Keepalive()
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def eds_file(cluster: str) -> str:
    """The file that holds a cluster's endpoints."""
    return file_name("eds", cluster)


def cluster(planned: Cluster, around: Surroundings) -> cluster_v3.Cluster:
    """A cluster whose endpoints come from a file of their own, so that a change of endpoints changes nothing else."""
    return cluster_v3.Cluster(
        name=planned.name,
        type=cluster_v3.ClusterDiscoveryType.EDS,
        eds_cluster_config=cluster_v3.ClusterEdsClusterConfig(
            eds_config=file_source(around.directory, eds_file(planned.name)), service_name=planned.name
        ),
        connect_timeout=seconds(planned.resilience.connect_timeout),
        load_balancing_policy=_balancing(planned),
        common_lb_config=cluster_v3.ClusterCommonLbConfig(
            healthy_panic_threshold=type_v3.Percent(value=planned.resilience.panic_percent)
        ),
        outlier_detection=_outliers(planned.resilience.passive_health),
        circuit_breakers=limits(planned.resilience.max_requests, _budget(planned.resilience.retry)),
        typed_extension_protocol_options=_protocol(
            core_v3.Http2ProtocolOptions() if planned.http2 else None,
            planned.resilience.upstream_idle,
            _errors(planned.resilience.passive_health),
        ),
        upstream_connection_options=_keepalive(),
    )


def static_cluster(planned: Cluster, around: Surroundings) -> cluster_v3.Cluster:
    """The same with its endpoints inside."""
    result = cluster(planned, around)
    result.type, result.eds_cluster_config = cluster_v3.ClusterDiscoveryType.STATIC, None
    result.load_assignment = endpoints(planned)
    return result


def endpoints(planned: Cluster) -> endpoint_v3.ClusterLoadAssignment:
    """The endpoints of one cluster."""
    return assignment(planned.name, [_parse(address) for address in planned.endpoints])


def picker_cluster(
    rules: PickerRules, address: Address, socket: core_v3.TransportSocket | None = None
) -> cluster_v3.Cluster:
    """The picker, checked actively: a frozen one costs the message timeout only until it is found out."""
    return cluster_v3.Cluster(
        name=PICKER_CLUSTER,
        type=cluster_v3.ClusterDiscoveryType.STATIC,
        connect_timeout=seconds(rules.connect_timeout),
        load_assignment=assignment(PICKER_CLUSTER, [address]),
        typed_extension_protocol_options=_protocol(core_v3.Http2ProtocolOptions(connection_keepalive=_pings(rules))),
        circuit_breakers=limits(rules.max_streams),
        # Below 0 % there is no panic: an unhealthy picker is not asked at all.
        common_lb_config=cluster_v3.ClusterCommonLbConfig(healthy_panic_threshold=type_v3.Percent(value=0)),
        health_checks=[_picker_check(rules)],
        transport_socket=socket,
    )


def _picker_check(rules: PickerRules) -> core_v3.HealthCheck:
    interval = seconds(rules.check_interval)
    return core_v3.HealthCheck(
        timeout=seconds(rules.check_timeout),
        interval=interval,
        initial_jitter=seconds(0.05),
        unhealthy_threshold=rules.unhealthy_checks,
        healthy_threshold=rules.healthy_checks,
        no_traffic_interval=interval,  # the default of 60 s would delay the first check
        no_traffic_healthy_interval=interval,
        grpc_health_check=core_v3.HealthCheckGrpcHealthCheck(service_name=wire.EXT_PROC_SERVICE),
    )


def _balancing(planned: Cluster) -> cluster_v3.LoadBalancingPolicy:
    if not planned.placed:
        return _policy(*_round_robin())
    # Metadata only: the header of that name could come from a client, metadata comes from the picker alone.
    sources = [override_host_v3.OverrideHostOverrideHostSource(metadata=_lb_key(wire.DESTINATION_HEADER))]
    return _policy(
        "envoy.load_balancing_policies.override_host",
        override_host_v3.OverrideHost(
            override_host_sources=sources,
            selected_host_key=_lb_key(wire.DESTINATION_SERVED_KEY),
            fallback_policy=_policy(*(_nobody() if planned.only_placed else _round_robin())),
        ),
    )


def _nobody() -> tuple[str, subset_v3.Subset]:
    """Chooses no endpoint: requests never carry the metadata that this subset asks for.

    The filter's own way to fail closed would also cut responses that are running when the picker dies.
    """
    return "envoy.load_balancing_policies.subset", subset_v3.Subset(
        fallback_policy=subset_v3.SubsetLbSubsetFallbackPolicy.NO_FALLBACK,
        subset_selectors=[subset_v3.SubsetLbSubsetSelector(keys=["never"])],
        subset_lb_policy=_policy(*_round_robin()),
    )


def _lb_key(key: str) -> metadata_v3.MetadataKey:
    return metadata_v3.MetadataKey(key=wire.LB_NAMESPACE, path=[metadata_v3.MetadataKeyPathSegment(key=key)])


def _round_robin() -> tuple[str, round_robin_v3.RoundRobin]:
    return "envoy.load_balancing_policies.round_robin", round_robin_v3.RoundRobin()


def _policy(
    name: str, config: override_host_v3.OverrideHost | round_robin_v3.RoundRobin | subset_v3.Subset
) -> cluster_v3.LoadBalancingPolicy:
    return cluster_v3.LoadBalancingPolicy(
        policies=[cluster_v3.LoadBalancingPolicyPolicy(typed_extension_config=typed(name, config))]
    )


def _outliers(rules: PassiveHealth) -> cluster_v3.OutlierDetection | None:
    """The picker's rule, for what the picker does not place. None: nobody is ejected."""
    if not rules.enabled:
        return None
    return cluster_v3.OutlierDetection(
        consecutive_gateway_failure=rules.failures or None,
        enforcing_consecutive_gateway_failure=100 if rules.failures else 0,  # Envoy's default counts but does not act
        enforcing_consecutive_5xx=0,  # 500 may be the request's own fault: only their share counts
        enforcing_success_rate=0,  # a rate against the other endpoints' says little at LLM request rates
        failure_percentage_threshold=round(rules.threshold * 100),
        enforcing_failure_percentage=100 if rules.threshold else 0,
        failure_percentage_minimum_hosts=1,
        failure_percentage_request_volume=rules.min_requests,
        interval=seconds(rules.interval),
        base_ejection_time=seconds(rules.base_ejection),
        max_ejection_time=seconds(rules.max_ejection),
        max_ejection_percent=round(rules.max_ejected * 100),
        always_eject_one_host=True,
    )


def _errors(rules: PassiveHealth) -> matcher_v3.MatchPredicate:
    """Which answers count as failures: 500 to 599, but for what a full endpoint says."""
    failed = _status("5[0-9][0-9]")
    if not rules.full_statuses:
        return failed
    full = _status("|".join(str(status) for status in rules.full_statuses))
    both = matcher_v3.MatchPredicateMatchSet(rules=[failed, matcher_v3.MatchPredicate(not_match=full)])
    return matcher_v3.MatchPredicate(and_match=both)


def _status(pattern: str) -> matcher_v3.MatchPredicate:
    matches = type_matcher_v3.StringMatcher(safe_regex=type_matcher_v3.RegexMatcher(regex=pattern))
    header = route_v3.HeaderMatcher(name=":status", string_match=matches)
    return matcher_v3.MatchPredicate(http_response_headers_match=matcher_v3.HttpHeadersMatch(headers=[header]))


def _budget(retry: Retry) -> cluster_v3.CircuitBreakersThresholdsRetryBudget:
    return cluster_v3.CircuitBreakersThresholdsRetryBudget(
        budget_percent=type_v3.Percent(value=retry.budget * 100), min_retry_concurrency=retry.budget_min
    )


def limits(
    most: int, budget: cluster_v3.CircuitBreakersThresholdsRetryBudget | None = None
) -> cluster_v3.CircuitBreakers:
    """At most so many at once, of everything; retries by a budget of their own."""
    return cluster_v3.CircuitBreakers(
        thresholds=[
            cluster_v3.CircuitBreakersThresholds(
                max_connections=most,
                max_pending_requests=most,
                max_requests=most,
                max_retries=most if budget is None else None,
                retry_budget=budget,
            )
        ]
    )


def _protocol(
    http2: core_v3.Http2ProtocolOptions | None,
    idle: float | None = None,
    errors: matcher_v3.MatchPredicate | None = None,
) -> dict[str, PackedAny]:
    # An empty message counts as false.
    http1 = core_v3.Http1ProtocolOptions() if http2 is None else None
    options = upstream_http_v3.HttpProtocolOptions(
        explicit_http_config=upstream_http_v3.HttpProtocolOptionsExplicitHttpConfig(
            http_protocol_options=http1, http2_protocol_options=http2
        ),
        common_http_protocol_options=core_v3.HttpProtocolOptions(idle_timeout=seconds(idle)) if idle else None,
        outlier_detection=upstream_http_v3.HttpProtocolOptionsOutlierDetection(error_matcher=errors)
        if errors
        else None,
    )
    return {HTTP_OPTIONS: PackedAny.pack(options)}


def _pings(rules: PickerRules) -> core_v3.KeepaliveSettings:
    return core_v3.KeepaliveSettings(interval=seconds(rules.ping_interval), timeout=seconds(rules.ping_timeout))


def _keepalive() -> cluster_v3.UpstreamConnectionOptions:
    return cluster_v3.UpstreamConnectionOptions(tcp_keepalive=tcp_keepalive())


def tcp_keepalive(rules: Keepalive = DEFAULT_KEEPALIVE) -> core_v3.TcpKeepalive:
    """The plan's rule in Envoy's words."""
    return core_v3.TcpKeepalive(
        keepalive_probes=rules.probes, keepalive_time=rules.idle, keepalive_interval=rules.interval
    )


def assignment(name: str, addresses: list[Address]) -> endpoint_v3.ClusterLoadAssignment:
    """Endpoints that are all alike."""
    hosts = [
        endpoint_v3.LbEndpoint(endpoint=endpoint_v3.Endpoint(address=socket_address(address))) for address in addresses
    ]
    localities = [endpoint_v3.LocalityLbEndpoints(lb_endpoints=hosts)] if hosts else []
    return endpoint_v3.ClusterLoadAssignment(cluster_name=name, endpoints=localities)


def _parse(address: str) -> Address:
    host, _, port = address.rpartition(":")
    return Address(host.strip("[]"), int(port))
