"""The Gateway API kinds that standalone mode serves: GatewayClass, Gateway, HTTPRoute.

A subset: HTTP and HTTPS listeners; routes by path, header, method and query parameter to Services and InferencePools.
What the API defines and standalone mode does not do is an error that names the field, never silently dropped. On
Kubernetes these objects belong to the gateway's own controller, and nothing here is used.
"""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from igw_api.meta import (
    GATEWAY_GROUP,
    K8S_GROUP,
    NAME_PATTERN,
    X_K8S_GROUP,
    ApiObject,
    GroupName,
    Invalid,
    KindName,
    Name,
    Namespace,
    ObjectMeta,
    PathPart,
    Port,
    Strict,
    Unsupported,
    unique,
)
from igw_api.objects import (
    BackendKind,
    BackendRef,
    Gateway,
    GatewayClass,
    Key,
    Listener,
    PathKind,
    Route,
    RouteMatch,
    RouteParent,
    RouteRule,
    ValueMatch,
)

_DURATION: Final = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")
_DURATION_PART: Final = re.compile(r"([0-9]{1,5})(h|ms|m|s)")
_MILLISECONDS: Final = {"h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}


def duration(value: object) -> float | None:
    """A Gateway API duration (GEP-2257: `1h30m`, `500ms`) in seconds. Raises PydanticCustomError."""
    if value is None:
        return None
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise PydanticCustomError("duration", "must be a duration such as 30s, 1h30m or 500ms")
    return sum(int(count) * _MILLISECONDS[unit] for count, unit in _DURATION_PART.findall(value)) / 1000


Duration = Annotated[float | None, BeforeValidator(duration)]
Hostname = Annotated[str, Field(min_length=1, max_length=253, pattern=rf"^(\*\.)?{NAME_PATTERN[1:]}")]
HeaderName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$")]
Method = Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]


class GatewayClassSpec(Strict):
    controller_name: str
    description: str | None = None
    parameters_ref: Unsupported = None


class GatewayClassObject(ApiObject):
    """`gateway.networking.k8s.io` GatewayClass. Any controller is accepted: in standalone mode there is only one."""

    spec: GatewayClassSpec

    def convert(self) -> tuple[GatewayClass]:
        """The class."""
        return (GatewayClass(Key("", self.metadata.name), self.spec.controller_name, self.metadata.created),)


class RouteNamespaces(Strict):
    from_: Annotated[Literal["Same", "All"], Field(alias="from")] = "Same"
    selector: Unsupported = None


class AllowedRoutes(Strict):
    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: Any = None  # only HTTPRoute exists here, so there is nothing to restrict


class CertificateRef(Strict):
    group: Literal[""] = ""
    kind: Literal["Secret"] = "Secret"
    namespace: Namespace | None = None
    name: Name


class ListenerTls(Strict):
    mode: Literal["Terminate"] = "Terminate"
    certificate_refs: Annotated[
        list[CertificateRef], Field(min_length=1, max_length=8), unique("Secret", lambda ref: ref.name)
    ]
    options: Unsupported = None
    frontend_validation: Unsupported = None


class ListenerSpec(Strict):
    name: Name
    protocol: Literal["HTTP", "HTTPS"]
    port: Port
    hostname: Hostname | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()
    tls: ListenerTls | None = None


class GatewaySpec(Strict):
    gateway_class_name: Name
    listeners: Annotated[
        list[ListenerSpec],
        Field(min_length=1, max_length=64),
        unique("listener name", lambda listener: listener.name),
        unique("port and hostname", lambda listener: f"{listener.port} {listener.hostname or '*'}"),
    ]
    addresses: Unsupported = None
    infrastructure: Unsupported = None
    allowed_listeners: Unsupported = None
    tls: Unsupported = None
    default_scope: Unsupported = None


class GatewayObject(ApiObject):
    """`gateway.networking.k8s.io` Gateway."""

    spec: GatewaySpec

    def convert(self) -> tuple[Gateway]:
        """The gateway. Raises Invalid."""
        listeners = tuple(
            Listener(
                one.name,
                one.port,
                one.hostname,
                one.allowed_routes.namespaces.from_ == "All",
                _certificates(self.metadata, one, ("spec", "listeners", index)),
            )
            for index, one in enumerate(self.spec.listeners)
        )
        _check_protocols(self.spec.listeners)
        return (Gateway(self.metadata.key, self.spec.gateway_class_name, listeners, self.metadata.created),)


def _certificates(meta: ObjectMeta, listener: ListenerSpec, path: tuple[PathPart, ...]) -> tuple[Key, ...]:
    if listener.tls is None:
        if listener.protocol == "HTTPS":
            raise Invalid((*path, "tls"), "is required for HTTPS: name a Secret in certificateRefs")
        return ()
    if listener.protocol == "HTTP":
        raise Invalid((*path, "tls"), "goes with protocol HTTPS; with HTTP, remove it")
    for index, ref in enumerate(listener.tls.certificate_refs):
        if ref.namespace not in (None, meta.namespace):
            where = (*path, "tls", "certificateRefs", index, "namespace")
            raise Invalid(where, f"must be the Gateway's own, {meta.namespace}")
    return tuple(Key(meta.namespace, ref.name) for ref in listener.tls.certificate_refs)


def _check_protocols(listeners: Sequence[ListenerSpec]) -> None:
    """Listeners share a port by host name, and TLS or not is decided before there is one."""
    first: dict[int, ListenerSpec] = {}
    for index, one in enumerate(listeners):
        other = first.setdefault(one.port, one)
        if other.protocol != one.protocol:
            told = f"port {one.port} is {other.protocol} for listener {other.name}; give this one another port"
            raise Invalid(("spec", "listeners", index, "protocol"), told)


class ParentRef(Strict):
    group: Literal["gateway.networking.k8s.io"] = GATEWAY_GROUP
    kind: Literal["Gateway"] = "Gateway"
    namespace: Namespace | None = None
    name: Name
    section_name: Name | None = None
    port: Port | None = None


class PathMatchSpec(Strict):
    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: Annotated[str, Field(min_length=1, max_length=1024)] = "/"


class HeaderMatchSpec(Strict):
    type: Literal["Exact", "RegularExpression"] = "Exact"
    name: HeaderName
    value: Annotated[str, Field(min_length=1, max_length=4096)]


class QueryMatchSpec(HeaderMatchSpec):
    value: Annotated[str, Field(min_length=1, max_length=1024)]


class MatchSpec(Strict):
    path: PathMatchSpec = PathMatchSpec()
    headers: Annotated[list[HeaderMatchSpec], Field(max_length=16), unique("header", lambda h: h.name.lower())] = Field(
        default_factory=list
    )
    query_params: Annotated[list[QueryMatchSpec], Field(max_length=16), unique("parameter", lambda q: q.name)] = Field(
        default_factory=list
    )
    method: Method | None = None


class BackendRefSpec(Strict):
    group: GroupName = ""
    kind: KindName = "Service"
    namespace: Namespace | None = None
    name: Name
    port: Port | None = None
    weight: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    filters: Unsupported = None


class Timeouts(Strict):
    request: Duration = None
    backend_request: Duration = None


class RuleSpec(Strict):
    name: Name | None = None
    matches: Annotated[list[MatchSpec], Field(max_length=64)] = Field(default_factory=list)
    backend_refs: Annotated[list[BackendRefSpec], Field(max_length=16)] = Field(default_factory=list)
    timeouts: Timeouts = Timeouts()
    filters: Unsupported = None
    retry: Unsupported = None
    session_persistence: Unsupported = None


class RouteSpec(Strict):
    parent_refs: Annotated[list[ParentRef], Field(min_length=1, max_length=32)]
    hostnames: Annotated[list[Hostname], Field(max_length=16)] = Field(default_factory=list)
    rules: Annotated[list[RuleSpec], Field(max_length=16)] = Field(default_factory=lambda: [RuleSpec()])
    use_default_gateways: Unsupported = None


class HTTPRouteObject(ApiObject):
    """`gateway.networking.k8s.io` HTTPRoute."""

    spec: RouteSpec

    def convert(self) -> tuple[Route]:
        """The route. Raises Invalid."""
        meta, spec = self.metadata, self.spec
        rules = tuple(_rule(meta, rule, ("spec", "rules", index)) for index, rule in enumerate(spec.rules))
        parents = tuple(
            RouteParent(Key(ref.namespace or meta.namespace, ref.name), ref.section_name, ref.port)
            for ref in spec.parent_refs
        )
        return (Route(meta.key, parents, rules, tuple(spec.hostnames), meta.created),)


def _rule(meta: ObjectMeta, rule: RuleSpec, path: tuple[PathPart, ...]) -> RouteRule:
    request, backend = rule.timeouts.request, rule.timeouts.backend_request
    if request and backend and backend > request:
        raise Invalid((*path, "timeouts", "backendRequest"), "must not be longer than timeouts.request")
    matches = tuple(_match(one, (*path, "matches", index)) for index, one in enumerate(rule.matches))
    return RouteRule(
        matches=matches or (RouteMatch(),),
        backends=tuple(_backend(meta, ref, (*path, "backendRefs", i)) for i, ref in enumerate(rule.backend_refs)),
        request_timeout=request,
        backend_timeout=backend,
        name=rule.name,
    )


def _match(match: MatchSpec, path: tuple[PathPart, ...]) -> RouteMatch:
    kind = PathKind(match.path.type)
    if kind is PathKind.REGEX:
        _check_regex(match.path.value, (*path, "path", "value"))
    elif not match.path.value.startswith("/"):
        raise Invalid((*path, "path", "value"), f"must start with /, not {match.path.value!r}")
    return RouteMatch(
        path=match.path.value,
        path_kind=kind,
        method=match.method,
        headers=_values(match.headers, (*path, "headers"), str.lower),
        query=_values(match.query_params, (*path, "queryParams"), str),
    )


def _values(
    specs: Sequence[HeaderMatchSpec], path: tuple[PathPart, ...], spelled: Callable[[str], str]
) -> tuple[ValueMatch, ...]:
    for index, one in enumerate(specs):
        if one.type == "RegularExpression":
            _check_regex(one.value, (*path, index, "value"))
    return tuple(ValueMatch(spelled(one.name), one.value, one.type == "RegularExpression") for one in specs)


def _check_regex(value: str, path: tuple[PathPart, ...]) -> None:
    try:
        re.compile(value)
    except (re.error, OverflowError) as error:
        raise Invalid(path, f"is not a regular expression: {error}") from None
    except RecursionError:
        raise Invalid(path, "is nested too deeply") from None


def _backend(meta: ObjectMeta, ref: BackendRefSpec, path: tuple[PathPart, ...]) -> BackendRef:
    key = Key(ref.namespace or meta.namespace, ref.name)
    if (ref.group, ref.kind) == ("", "Service"):
        if ref.port is None:
            raise Invalid((*path, "port"), "is required for a Service")
        return BackendRef(BackendKind.SERVICE, key, ref.port, ref.weight)
    if ref.kind == "InferencePool" and ref.group in (K8S_GROUP, X_K8S_GROUP):
        return BackendRef(BackendKind.POOL, key, ref.port, ref.weight)
    raise Invalid(
        path,
        f"kind {ref.kind} of group {ref.group!r} is not supported in standalone mode; use Service or InferencePool",
    )
