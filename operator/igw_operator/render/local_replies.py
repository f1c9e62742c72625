"""What Envoy says by itself, in the shape that OpenAI clients parse: `{"error": {message, type, param, code}}`. Pure.

To Envoy, the picker's refusals are replies of its own too. They carry no response flag, and their requests have a
path, so that nothing here matches them and they pass as they are. The statuses that are matched alone are those that
the picker never gives in the modes that our Envoy uses.
"""

from dataclasses import dataclass

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog_v3
from envoy_data_plane.envoy.config.core import v3 as core_v3
from envoy_data_plane.envoy.config.route import v3 as route_v3
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm_v3

from igw_operator.plan.model import GatewayPlan
from igw_operator.render.errors import REQUEST_ERROR, SERVICE_ERROR, TIMEOUT_ERROR, error_body

MIB = 2**20

_Filter = accesslog_v3.AccessLogFilter


@dataclass(frozen=True, slots=True)
class _Case:
    """What a reply is known by, and what it says. The first case that fits wins."""

    known_by: _Filter
    message: str
    kind: str
    code: str


def local_replies(plan: GatewayPlan) -> hcm_v3.LocalReplyConfig:
    """The mappers, for every listener. They change bodies, never statuses."""
    return hcm_v3.LocalReplyConfig(
        mappers=[
            hcm_v3.ResponseMapper(
                filter=case.known_by, body_format_override=error_format(case.message, case.kind, case.code)
            )
            for case in _cases(plan)
        ]
    )


def error_format(message: str, kind: str, code: str) -> core_v3.SubstitutionFormatString:
    """A reply that says this, as JSON."""
    body = error_body(message, kind, code)
    return core_v3.SubstitutionFormatString(
        text_format_source=core_v3.DataSource(inline_string=body.replace("%", "%%")), content_type="application/json"
    )


def _cases(plan: GatewayPlan) -> tuple[_Case, ...]:
    largest = f"{plan.picker.max_body_bytes // MIB} MiB"
    slowest = f"its headers within {plan.clients.headers_timeout:g} s, all of it within {plan.clients.body_timeout:g} s"
    return (
        _Case(_status(413), f"The body is larger than {largest}; send less.", REQUEST_ERROR, "request_too_large"),
        # Envoy's defaults for the sum and the number of headers.
        _Case(
            _status(431),
            "The headers are larger than 60 KiB or more than 100; send less.",
            REQUEST_ERROR,
            "headers_too_large",
        ),
        _Case(_status(426), "Use HTTP/1.1 or HTTP/2.", REQUEST_ERROR, "http_version_not_supported"),
        _Case(_all(_status(400), _no_path()), "The request is not valid HTTP.", REQUEST_ERROR, "invalid_http"),
        _Case(
            _flags("NR"), "No route of this gateway leads on from this host and path.", REQUEST_ERROR, "route_not_found"
        ),
        _Case(_flags("UH", "NC"), "No endpoint can serve this now; try again later.", SERVICE_ERROR, "no_endpoints"),
        _Case(_flags("UO", "OM"), "Too many requests are running; try again later.", SERVICE_ERROR, "overloaded"),
        _Case(_flags("UT", "DT", "SI"), "No answer within the time that is allowed.", TIMEOUT_ERROR, "timeout"),
        _Case(_status(408), f"The request has not come in time: {slowest}.", TIMEOUT_ERROR, "request_timeout"),
        _Case(
            _flags("UF", "UC", "UR", "LR", "UPE", "URX"),
            "No endpoint could be reached, or the one that was broke off before it answered; try again.",
            SERVICE_ERROR,
            "endpoint_failed",
        ),
    )


def _flags(*flags: str) -> _Filter:
    return _Filter(response_flag_filter=accesslog_v3.ResponseFlagFilter(flags=list(flags)))


def _status(status: int) -> _Filter:
    # Envoy wants a name under which the number could be overridden at run time; nobody does.
    value = core_v3.RuntimeUInt32(default_value=status, runtime_key=f"igw.local_reply_{status}")
    comparison = accesslog_v3.ComparisonFilter(op=accesslog_v3.ComparisonFilterOp.EQ, value=value)
    return _Filter(status_code_filter=accesslog_v3.StatusCodeFilter(comparison=comparison))


def _no_path() -> _Filter:
    """What could not be parsed has no headers at all."""
    header = route_v3.HeaderMatcher(name=":path", present_match=True, invert_match=True)
    return _Filter(header_filter=accesslog_v3.HeaderFilter(header=header))


def _all(*filters: _Filter) -> _Filter:
    return _Filter(and_filter=accesslog_v3.AndFilter(filters=list(filters)))
