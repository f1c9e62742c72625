"""The plan as files for one Envoy on this machine. Pure: file names and texts.

`bootstrap` is what Envoy starts with and never changes. All else comes from files that Envoy watches, cut so that a
change touches as little as possible: endpoints (EDS) and routes (RDS) never disturb a connection, and listeners (LDS)
change only with the ports.
"""

from collections.abc import Mapping

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog_v3
from envoy_data_plane.envoy.config.bootstrap import v3 as bootstrap_v3
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_v3
from envoy_data_plane.envoy.config.core import v3 as core_v3
from envoy_data_plane.envoy.config.listener import v3 as listener_v3
from envoy_data_plane.envoy.extensions.access_loggers.file import v3 as file_log_v3
from envoy_data_plane.envoy.extensions.filters.http.router import v3 as router_v3
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm_v3
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import v3 as early_v3
from envoy_data_plane.google.protobuf import Any as PackedAny

from igw_api import wire
from igw_operator.plan.model import GatewayPlan, PlannedListener
from igw_operator.render.access import ACCESS_FILTER, access_filter
from igw_operator.render.clusters import cluster, eds_file, endpoints, picker_cluster, static_cluster, tcp_keepalive
from igw_operator.render.files import Surroundings, file_source, resources, seconds, socket_address, text, typed
from igw_operator.render.filters import (
    FIRST_BYTE_FILTER,
    HOLD_FILTER,
    PLACEMENT_FILTER,
    failed_tries,
    first_byte_filter,
    hold_filter,
    placement_filter,
)
from igw_operator.render.floods import bounds
from igw_operator.render.local_replies import local_replies
from igw_operator.render.providers import provider_cluster
from igw_operator.render.routes import rds_file, route_table, table_name
from igw_operator.render.tls import certificate_resources, filter_chains, inspectors, picker_resources, picker_socket

BOOTSTRAP_FILE = "bootstrap.json"
LDS_FILE = "lds.json"
CDS_FILE = "cds.json"
# How much of a body Envoy holds at once; about this much of a larger one reaches the picker.
BUFFER_LIMIT = 2**20
# An address that no packet comes from. An empty list would mean private networks and this machine.
NOBODY = core_v3.CidrRange(address_prefix="0.0.0.0", prefix_len=32)
# What the streams of one HTTP/2 connection may have on their way to us together, whatever they send.
CONNECTION_WINDOW = 4 * BUFFER_LIMIT


def bootstrap(around: Surroundings) -> str:
    """What Envoy starts with: its admin port on this machine only, and where the rest is."""
    return text(
        bootstrap_v3.Bootstrap(
            node=core_v3.Node(id="igw", cluster="igw"),
            admin=_admin(around),
            overload_manager=bounds(around),
            dynamic_resources=bootstrap_v3.BootstrapDynamicResources(
                lds_config=file_source(around.directory, LDS_FILE), cds_config=file_source(around.directory, CDS_FILE)
            ),
        )
    )


def _admin(around: Surroundings) -> bootstrap_v3.Admin:
    """Also for whoever wants to know what floods it."""
    return bootstrap_v3.Admin(address=socket_address(around.admin), ignore_global_conn_limit=True)


def everything(plan: GatewayPlan, around: Surroundings) -> str:
    """All of it in one static file: what Envoy is asked to validate, since it looks at no watched file then."""
    return text(
        bootstrap_v3.Bootstrap(
            node=core_v3.Node(id="igw", cluster="igw"),
            admin=_admin(around),
            overload_manager=bounds(around),
            static_resources=bootstrap_v3.BootstrapStaticResources(
                clusters=[
                    picker_cluster(plan.picker, around.picker, picker_socket(around, inline=True)),
                    *(static_cluster(planned, around) for planned in plan.clusters),
                    *(provider_cluster(planned, around) for planned in plan.providers),
                ],
                listeners=[_listener(one, plan, around, inline=True) for one in plan.listeners],
            ),
        )
    )


def resource_files(plan: GatewayPlan, around: Surroundings) -> Mapping[str, str]:
    """Every watched file, by name, in the order to write them: what is referred to comes first."""
    files = {eds_file(planned.name): resources(endpoints(planned)) for planned in plan.clusters}
    files |= picker_resources(around)
    files[CDS_FILE] = resources(
        picker_cluster(plan.picker, around.picker, picker_socket(around)),
        *(cluster(planned, around) for planned in plan.clusters),
        *(provider_cluster(planned, around) for planned in plan.providers),
    )
    files |= {rds_file(listener): resources(route_table(listener, plan)) for listener in plan.listeners}
    files |= certificate_resources(plan, around)
    files[LDS_FILE] = resources(*(_listener(listener, plan, around) for listener in plan.listeners))
    return files


def _listener(
    listener: PlannedListener, plan: GatewayPlan, around: Surroundings, *, inline: bool = False
) -> listener_v3.Listener:
    config = _connection_manager(listener, plan, around)
    if inline:
        config.rds, config.route_config = None, route_table(listener, plan)
    manager = listener_v3.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=PackedAny.pack(config)
    )
    return listener_v3.Listener(
        name=table_name(listener),
        address=socket_address(around.binds[listener.gateway, listener.port]),
        listener_filters=inspectors(listener),
        filter_chains=filter_chains(listener, manager, around, inline=inline),
        per_connection_buffer_limit_bytes=BUFFER_LIMIT,
        enable_reuse_port=False,  # another program on the port must be an error, not a half of the requests
        connection_balance_config=listener_v3.ListenerConnectionBalanceConfig(
            exact_balance=listener_v3.ListenerConnectionBalanceConfigExactBalance()
        ),
        tcp_keepalive=tcp_keepalive(),
    )


def _connection_manager(
    listener: PlannedListener, plan: GatewayPlan, around: Surroundings
) -> hcm_v3.HttpConnectionManager:
    return hcm_v3.HttpConnectionManager(
        stat_prefix=f"{listener.gateway.name}-{listener.port}",
        rds=hcm_v3.Rds(
            config_source=file_source(around.directory, rds_file(listener)), route_config_name=table_name(listener)
        ),
        http_filters=_filters(plan),
        early_header_mutation_extensions=[_strip_private_headers()],
        upgrade_configs=[hcm_v3.HttpConnectionManagerUpgradeConfig(upgrade_type="websocket")],
        use_remote_address=True,
        # No client is trusted for x-envoy-* headers, not even from this machine.
        internal_address_config=hcm_v3.HttpConnectionManagerInternalAddressConfig(cidr_ranges=[NOBODY]),
        normalize_path=True,
        always_set_request_id_in_response=True,  # `igw explain` finds requests by it
        server_header_transformation=hcm_v3.HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        stream_idle_timeout=seconds(plan.idle_timeout),
        request_headers_timeout=seconds(plan.clients.headers_timeout),
        request_timeout=seconds(plan.clients.body_timeout),
        common_http_protocol_options=core_v3.HttpProtocolOptions(idle_timeout=seconds(plan.clients.idle)),
        http2_protocol_options=core_v3.Http2ProtocolOptions(
            max_concurrent_streams=plan.clients.streams,
            initial_stream_window_size=BUFFER_LIMIT,
            initial_connection_window_size=CONNECTION_WINDOW,
        ),
        local_reply_config=local_replies(plan),
        access_log=_access_log(around.access_log),
    )


def _filters(plan: GatewayPlan) -> list[hcm_v3.HttpFilter]:
    by_route = {
        ACCESS_FILTER: access_filter(),
        PLACEMENT_FILTER: placement_filter(plan.picker),
        HOLD_FILTER: hold_filter(plan.picker),
        FIRST_BYTE_FILTER: first_byte_filter(plan.picker),
    }
    router = router_v3.Router(suppress_envoy_headers=True, upstream_log=[failed_tries()])
    return [
        *(
            hcm_v3.HttpFilter(name=name, typed_config=PackedAny.pack(config), disabled=True)
            for name, config in by_route.items()
        ),
        hcm_v3.HttpFilter(name="envoy.filters.http.router", typed_config=PackedAny.pack(router)),
    ]


def _strip_private_headers() -> core_v3.TypedExtensionConfig:
    removals = [mutation_v3.HeaderMutation(remove=name) for name in wire.PRIVATE_HEADERS]
    return typed("envoy.http.early_header_mutation.header_mutation", early_v3.HeaderMutation(mutations=removals))


def _access_log(path: str | None) -> list[accesslog_v3.AccessLog]:
    if path is None:
        return []
    log = file_log_v3.FileAccessLog(path=path)
    return [accesslog_v3.AccessLog(name="envoy.access_loggers.file", typed_config=PackedAny.pack(log))]
