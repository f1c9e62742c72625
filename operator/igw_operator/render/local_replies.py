"""What Envoy says by itself, in the shape that OpenAI clients parse: `{"error": {message, type, param, code}}`. Pure.

The picker's refusals are local replies to Envoy too. They carry no response flag, so nothing here matches them and
they pass as they are; the exception is 413, which the picker never sends in the modes that our Envoy uses.
"""

import json
from dataclasses import dataclass

from envoy_data_plane.envoy.config.accesslog import v3 as accesslog_v3
from envoy_data_plane.envoy.config.core import v3 as core_v3
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm_v3

from igw_operator.plan.model import PickerRules

JSON = "application/json"
MIB = 2**20
_REQUEST, _SERVICE, _TIME = "invalid_request_error", "service_unavailable_error", "timeout_error"


@dataclass(frozen=True, slots=True)
class _Reply:
    """One case: what it is known by (any of the response flags, or the status), and what to say. The first one wins."""

    message: str
    kind: str
    code: str
    flags: tuple[str, ...] = ()
    status: int | None = None


def _replies(rules: PickerRules) -> tuple[_Reply, ...]:
    limit = f"{rules.max_body_bytes // MIB} MiB"
    return (
        _Reply(f"The body is larger than {limit}, the most that is taken.", _REQUEST, "request_too_large", status=413),
        _Reply(
            "The headers are larger than 60 KiB, or more than 100. Send less.",
            _REQUEST,
            "headers_too_large",
            status=431,
        ),
        _Reply("The request is not valid HTTP.", _REQUEST, "invalid_http", ("DPE",)),
        _Reply("No route leads from this host and path to a model. Check the URL.", _REQUEST, "no_route", ("NR",)),
        _Reply("No endpoint is ready to serve this. Try again later.", _SERVICE, "no_endpoints", ("UH", "NC")),
        _Reply("Too many requests are in flight. Try again later.", _SERVICE, "overloaded", ("UO", "OM")),
        _Reply("The engine did not answer within the route's timeout.", _TIME, "timeout", ("UT", "DT", "SI")),
        _Reply(
            "The engine could not be reached, or broke off before it answered. Try again.",
            _SERVICE,
            "engine_failed",
            ("UF", "UC", "UR", "LR", "UPE", "URX"),
        ),
    )


def error_body(message: str, kind: str, code: str) -> str:
    """The error as JSON text."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def local_replies(rules: PickerRules) -> hcm_v3.LocalReplyConfig:
    """The mappers, for every listener."""
    return hcm_v3.LocalReplyConfig(mappers=[_mapper(reply) for reply in _replies(rules)])


def _mapper(reply: _Reply) -> hcm_v3.ResponseMapper:
    body = error_body(reply.message, reply.kind, reply.code)
    return hcm_v3.ResponseMapper(
        filter=_filter(reply),
        body_format_override=core_v3.SubstitutionFormatString(
            text_format_source=core_v3.DataSource(inline_string=body.replace("%", "%%")), content_type=JSON
        ),
    )


def _filter(reply: _Reply) -> accesslog_v3.AccessLogFilter:
    if reply.status is None:
        return accesslog_v3.AccessLogFilter(
            response_flag_filter=accesslog_v3.ResponseFlagFilter(flags=list(reply.flags))
        )
    # Envoy wants a key by which an operator could override the number; nobody does.
    value = core_v3.RuntimeUInt32(default_value=reply.status, runtime_key=f"igw.local_reply_{reply.status}")
    comparison = accesslog_v3.ComparisonFilter(op=accesslog_v3.ComparisonFilterOp.EQ, value=value)
    return accesslog_v3.AccessLogFilter(status_code_filter=accesslog_v3.StatusCodeFilter(comparison=comparison))
