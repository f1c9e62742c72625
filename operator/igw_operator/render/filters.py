"""How Envoy talks to the picker: filters on every listener, switched per route. Pure.

Placement: one message with the request's body and a few attributes, one answer that names the endpoint in dynamic
metadata; the stream then stays open until the response has ended, which is how the picker knows what is in flight.
Hold: keeps the request's headers until its body is complete, else the router would choose an endpoint from the headers
before the picker has been asked. First byte: the response headers and the first chunk, then the picker ends the stream
and Envoy goes on alone.

All are on every listener from the start, since a filter added later would drain it, and off where no route turns them
on. For a request without a route the picker would refuse what is not its business, and where the request is too broken
to have one, the connection would be closed before the picker has let the proxy's own answer pass.
"""

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog_v3
from envoy_data_plane.envoy.config.common.mutation_rules import v3 as mutation_v3
from envoy_data_plane.envoy.config.core import v3 as core_v3
from envoy_data_plane.envoy.extensions.access_loggers.grpc import v3 as grpc_log_v3
from envoy_data_plane.envoy.extensions.filters.http.buffer import v3 as buffer_v3
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as ext_proc_v3
from envoy_data_plane.envoy.type.matcher import v3 as matcher_v3
from envoy_data_plane.google.protobuf import Any as PackedAny

from igw_api import wire
from igw_api.objects import FailureMode
from igw_operator.plan.model import PickerRules, Placement
from igw_operator.render.files import PICKER_CLUSTER, seconds
from igw_operator.render.tries import BROKEN, FAILED_FROM, FULL, LOG, LOG_NAME, runtime_key

PLACEMENT_FILTER = wire.EXT_PROC_FILTER
FIRST_BYTE_FILTER = "first-byte"
HOLD_FILTER = "envoy.filters.http.buffer"

# All that the picker reads of a request besides its body: no message carries its headers.
REQUEST_ATTRIBUTES = [
    "xds.route_name",  # the pool
    "request.path",
    "request.id",
    *(
        f"request.headers['{name}']"
        for name in (
            "content-type",
            wire.OBJECTIVE_HEADER,
            wire.MODEL_HEADER,
            wire.MODEL_REWRITE_HEADER,
            wire.FAIRNESS_HEADER,
            wire.SESSION_HEADER,
            wire.EXPLAIN_HEADER,
            *wire.CREDENTIAL_HEADERS,
            wire.CLIENT_HEADER,
        )
    ),
]
# All that it reads of a response.
RESPONSE_HEADERS = (":status", "content-type", wire.PREFILL_OUTCOME_HEADER)

_HEADERS = ext_proc_v3.ProcessingModeHeaderSendMode
_BODY = ext_proc_v3.ProcessingModeBodySendMode


def placement_filter(rules: PickerRules) -> ext_proc_v3.ExternalProcessor:
    """Asks where the request goes. With the picker down, round robin."""
    return ext_proc_v3.ExternalProcessor(
        grpc_service=_picker(),
        failure_mode_allow=True,
        processing_mode=ext_proc_v3.ProcessingMode(
            request_header_mode=_HEADERS.SKIP,
            request_body_mode=_BODY.BUFFERED_PARTIAL,
            response_header_mode=_HEADERS.SKIP,
        ),
        request_attributes=REQUEST_ATTRIBUTES,
        # So that the picker may bound a try: see `wire.TRY_TIMEOUT_HEADER`.
        mutation_rules=mutation_v3.HeaderMutationRules(allow_envoy=True),
        message_timeout=seconds(rules.message_timeout),
        metadata_options=ext_proc_v3.MetadataOptions(receiving_namespaces=_lb_namespace()),
        stat_prefix="placement",
    )


def hold_filter(rules: PickerRules) -> buffer_v3.Buffer:
    """Holds the headers until the body is complete. A body above the limit gets 413."""
    return buffer_v3.Buffer(max_request_bytes=rules.max_body_bytes)


def first_byte_filter(rules: PickerRules) -> ext_proc_v3.ExternalProcessor:
    """Shows the picker when a response begins, and who gave it. Nothing depends on its answer."""
    return ext_proc_v3.ExternalProcessor(
        grpc_service=_picker(),
        failure_mode_allow=True,
        processing_mode=ext_proc_v3.ProcessingMode(
            request_header_mode=_HEADERS.SKIP,
            response_header_mode=_HEADERS.SEND,
            response_body_mode=_BODY.STREAMED,
        ),
        send_body_without_waiting_for_header_response=True,
        forward_rules=ext_proc_v3.HeaderForwardingRules(
            allowed_headers=matcher_v3.ListStringMatcher(
                patterns=[matcher_v3.StringMatcher(exact=name) for name in RESPONSE_HEADERS]
            )
        ),
        metadata_options=ext_proc_v3.MetadataOptions(forwarding_namespaces=_lb_namespace()),
        message_timeout=seconds(rules.first_byte_timeout),
        stat_prefix=FIRST_BYTE_FILTER,
    )


def failed_tries() -> accesslog_v3.AccessLog:
    """Tells the picker of each try that failed, and of no other: retries would hide from it who did."""
    return accesslog_v3.AccessLog(
        name=LOG,
        filter=accesslog_v3.AccessLogFilter(or_filter=accesslog_v3.OrFilter(filters=[_broken(), *_bad_answers()])),
        typed_config=PackedAny.pack(
            grpc_log_v3.HttpGrpcAccessLogConfig(
                common_config=grpc_log_v3.CommonGrpcAccessLogConfig(
                    log_name=LOG_NAME,
                    grpc_service=_picker(),
                    transport_api_version=core_v3.ApiVersion.V3,
                    buffer_size_bytes=0,  # at once: before the request itself has ended
                ),
                additional_request_headers_to_log=[wire.LEASE_HEADER],
            )
        ),
    )


def _broken() -> accesslog_v3.AccessLogFilter:
    return accesslog_v3.AccessLogFilter(response_flag_filter=accesslog_v3.ResponseFlagFilter(flags=list(BROKEN)))


def _bad_answers() -> list[accesslog_v3.AccessLogFilter]:
    operators = accesslog_v3.ComparisonFilterOp
    return [_status(operators.GE, FAILED_FROM), _status(operators.EQ, FULL)]


def _status(operator: accesslog_v3.ComparisonFilterOp, status: int) -> accesslog_v3.AccessLogFilter:
    value = core_v3.RuntimeUInt32(default_value=status, runtime_key=runtime_key(status))
    comparison = accesslog_v3.ComparisonFilter(op=operator, value=value)
    return accesslog_v3.AccessLogFilter(status_code_filter=accesslog_v3.StatusCodeFilter(comparison=comparison))


def placed(placement: Placement, rules: PickerRules) -> dict[str, PackedAny]:
    """The filters as the pool wants them."""
    config = {PLACEMENT_FILTER: _enabled(), HOLD_FILTER: _held(rules)}
    if placement.heeded:
        # Envoy routes anew only for an answer that changes headers; and partly buffered, the body would be on its way
        # to the router by then.
        config[PLACEMENT_FILTER] = _request_modes(_HEADERS.SEND, _BODY.BUFFERED)
    elif placement.failure_mode is FailureMode.CLOSE:
        # Its cluster serves placed requests only, so those without a body must be placed too: by their headers.
        config[PLACEMENT_FILTER] = _request_modes(_HEADERS.SEND, _BODY.BUFFERED_PARTIAL)
    return config | _observed(placement)


def placed_by_headers() -> dict[str, PackedAny]:
    """Where all that matters is in the headers: nothing is held."""
    return {PLACEMENT_FILTER: _request_modes(_HEADERS.SEND, _BODY.NONE)}


def upgraded(placement: Placement) -> dict[str, PackedAny]:
    """An upgrade has no body to wait for. Who agreed to it is shown: it may be there for hours."""
    return placed_by_headers() | _observed(placement)


def _observed(placement: Placement) -> dict[str, PackedAny]:
    return {FIRST_BYTE_FILTER: _enabled()} if placement.first_byte else {}


def _request_modes(
    headers: ext_proc_v3.ProcessingModeHeaderSendMode, body: ext_proc_v3.ProcessingModeBodySendMode
) -> PackedAny:
    modes = ext_proc_v3.ProcessingMode(
        request_header_mode=headers,
        request_body_mode=body,
        response_header_mode=_HEADERS.SKIP,
        # Else the stream, and with it the request in flight, would end with the answer to the last message.
        response_trailer_mode=_HEADERS.SEND,
    )
    return PackedAny.pack(ext_proc_v3.ExtProcPerRoute(overrides=ext_proc_v3.ExtProcOverrides(processing_mode=modes)))


def _picker() -> core_v3.GrpcService:
    return core_v3.GrpcService(envoy_grpc=core_v3.GrpcServiceEnvoyGrpc(cluster_name=PICKER_CLUSTER))


def _lb_namespace() -> ext_proc_v3.MetadataOptionsMetadataNamespaces:
    return ext_proc_v3.MetadataOptionsMetadataNamespaces(untyped=[wire.LB_NAMESPACE])


def _held(rules: PickerRules) -> PackedAny:
    return PackedAny.pack(buffer_v3.BufferPerRoute(buffer=hold_filter(rules)))


def _enabled() -> PackedAny:
    return PackedAny.pack(ext_proc_v3.ExtProcPerRoute(overrides=ext_proc_v3.ExtProcOverrides()))
