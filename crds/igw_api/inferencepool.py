"""InferencePool: a set of endpoints that serve the same models, in the versions users write.

`inference.networking.k8s.io/v1`, and `inference.networking.x-k8s.io` v1alpha1 and v1alpha2. The alpha versions share
one schema, the union of both: the API server converts between them by renaming the version only, and would drop a
field that just one of them has. Defaults and limits are those of the Gateway API inference extension, but one:

A reference without `failureMode` means FailOpen in every version (upstream says FailClose). The promise that losing the
picker costs no request must hold for manifests that do not mention it; FailClose has to be asked for, and is honoured.
"""

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, ValidationError

from igw_api.meta import (
    ApiObject,
    GroupName,
    Invalid,
    KindName,
    Labels,
    Name,
    Namespace,
    ObjectMeta,
    Port,
    Strict,
    cel,
    unique,
)
from igw_api.objects import AttachTo, FailureMode, Key, Pool
from igw_api.problems import wording
from igw_api.wire import ATTACH_TO_ANNOTATION
from igw_api.yamltext import Unreadable, documents

DEFAULT_PICKER_PORT: Final = 9002
FailureModeName = Literal["FailOpen", "FailClose"]
AppProtocol = Literal["http", "kubernetes.io/h2c"]

_PICKER_RULE: Final = cel(
    {"rule": "self.kind != 'Service' || has(self.port)", "message": "port is required when kind is Service"}
)
_UNIQUE_PORTS_RULE: Final = cel(
    {"rule": "self.all(p1, self.exists_one(p2, p1.number == p2.number))", "message": "port number must be unique"}
)
_ONE_PORT_NAME_RULE: Final = cel(
    {
        "rule": "!(has(self.portNumber) && has(self.targetPortNumber))",
        "message": "use either portNumber or targetPortNumber",
    }
)


class LabelSelector(Strict):
    """Which Pods or listed endpoints belong to the pool."""

    match_labels: Annotated[Labels, Field(min_length=1, max_length=64)]
    """Labels that a member must have, all of them. Only members in the pool's namespace are considered."""


class TargetPort(Strict):
    """One port that each member serves."""

    number: Port
    """Port number. Every ready member and port is one endpoint."""


class PickerPort(Strict):
    """The port of the picker's Service."""

    number: Port
    """Port number."""


class EndpointPickerRef(Strict):
    """The endpoint picker that chooses an endpoint for each request."""

    model_config = ConfigDict(json_schema_extra=_PICKER_RULE)

    group: GroupName = ""
    """Group of the referenced object; empty for the core group."""
    kind: KindName = "Service"
    """Kind of the referenced object."""
    name: Name
    """Name of the picker's Service, in the pool's namespace."""
    port: PickerPort | None = None
    """Port of the picker; required for a Service."""
    failure_mode: FailureModeName | None = None
    """What the gateway does while the picker does not answer: FailOpen places requests round robin, FailClose refuses
    them. Unset means FailOpen."""


class PoolSpec(Strict):
    """The endpoints of the pool, and who picks among them."""

    selector: LabelSelector
    """Which members belong to the pool."""
    target_ports: Annotated[
        list[TargetPort],
        Field(min_length=1, max_length=8, json_schema_extra={"x-kubernetes-list-type": "atomic", **_UNIQUE_PORTS_RULE}),
        unique("port number", lambda port: port.number),
    ]
    """Ports that each member serves; each is an endpoint of its own, as with data parallel ranks."""
    app_protocol: AppProtocol = "http"
    """Protocol of the endpoints: http (HTTP/1.1), or kubernetes.io/h2c (HTTP/2 without TLS)."""
    endpoint_picker_ref: EndpointPickerRef | None = None
    """The endpoint picker. Unset: the gateway's own."""


class ExtensionRef(Strict):
    """The endpoint picker, as the alpha versions name it."""

    model_config = ConfigDict(json_schema_extra=_ONE_PORT_NAME_RULE)

    group: GroupName = ""
    """Group of the referenced object; empty for the core group."""
    kind: KindName = "Service"
    """Kind of the referenced object."""
    name: Name
    """Name of the picker's Service, in the pool's namespace."""
    port_number: Port | None = None
    """Port of the picker (v1alpha2). Unset means 9002."""
    target_port_number: Port | None = None
    """Port of the picker (v1alpha1). Unset means 9002."""
    failure_mode: FailureModeName | None = None
    """What the gateway does while the picker does not answer: FailOpen places requests round robin, FailClose refuses
    them. Unset means FailOpen."""


class AlphaPoolSpec(Strict):
    """The endpoints of the pool, and who picks among them."""

    selector: Annotated[Labels, Field(min_length=1, max_length=64)]
    """Labels that a member must have, all of them. Only members in the pool's namespace are considered."""
    target_port_number: Port
    """Port that each member serves."""
    extension_ref: ExtensionRef | None = None
    """The endpoint picker. Unset: the gateway's own."""


class InferencePool(ApiObject):
    """A set of endpoints that serve the same models, and the picker that places requests on them."""

    spec: PoolSpec
    """What the pool consists of."""

    def convert(self) -> tuple[Pool]:
        """The pool. Raises Invalid."""
        spec, ref = self.spec, self.spec.endpoint_picker_ref
        if ref is not None:
            _require_service(ref, "endpointPickerRef")
        if ref is not None and ref.port is None:
            raise Invalid(("spec", "endpointPickerRef", "port"), "is required when kind is Service")
        return (
            Pool(
                key=self.metadata.key,
                selector=spec.selector.match_labels,
                target_ports=tuple(port.number for port in spec.target_ports),
                picker=ref.name if ref else None,
                picker_port=ref.port.number if ref and ref.port else DEFAULT_PICKER_PORT,
                failure_mode=_failure_mode(ref),
                app_protocol=spec.app_protocol,
                attach_to=attach_to(self.metadata),
                created=self.metadata.created,
            ),
        )


class AlphaInferencePool(ApiObject):
    """A set of endpoints that serve the same models, and the picker that places requests on them."""

    spec: AlphaPoolSpec
    """What the pool consists of."""

    def convert(self) -> tuple[Pool]:
        """The pool. Raises Invalid."""
        spec, ref = self.spec, self.spec.extension_ref
        if ref is not None:
            _require_service(ref, "extensionRef")
        return (
            Pool(
                key=self.metadata.key,
                selector=spec.selector,
                target_ports=(spec.target_port_number,),
                picker=ref.name if ref else None,
                picker_port=_alpha_picker_port(ref),
                failure_mode=_failure_mode(ref),
                attach_to=attach_to(self.metadata),
                created=self.metadata.created,
            ),
        )


def _require_service(ref: EndpointPickerRef | ExtensionRef, field: str) -> None:
    if ref.group not in ("", "core"):
        raise Invalid(("spec", field, "group"), f'must be "" (a Service), not {ref.group!r}')
    if ref.kind != "Service":
        raise Invalid(("spec", field, "kind"), f"must be Service, not {ref.kind}")


def _failure_mode(ref: EndpointPickerRef | ExtensionRef | None) -> FailureMode:
    return FailureMode(ref.failure_mode) if ref and ref.failure_mode else FailureMode.OPEN


def _alpha_picker_port(ref: ExtensionRef | None) -> int:
    if ref is None:
        return DEFAULT_PICKER_PORT
    if ref.port_number and ref.target_port_number:
        raise Invalid(("spec", "extensionRef"), "use either portNumber or targetPortNumber, not both")
    return ref.port_number or ref.target_port_number or DEFAULT_PICKER_PORT


# A tenant's text, read anew at each change of the pool: three values, and some room for mistakes that are told.
_ATTACH_TO_NODES: Final = 100


class AttachToText(Strict):
    """The YAML text of the `attach-to` annotation."""

    name: Name
    port: Port
    namespace: Namespace | None = None


def attach_to(meta: ObjectMeta) -> AttachTo | None:
    """The listener that the `attach-to` annotation asks for. Raises Invalid."""
    text = meta.annotations.get(ATTACH_TO_ANNOTATION)
    if text is None:
        return None
    path = ("metadata", "annotations", ATTACH_TO_ANNOTATION)
    document = next(documents(text, _ATTACH_TO_NODES), None)
    if document is None or isinstance(document, Unreadable):
        raise Invalid(path, "must be YAML text of the lines `name: my-gateway` and `port: 8081`")
    try:
        wanted = AttachToText.model_validate(document.data)
    except ValidationError as error:
        first = error.errors()[0]
        raise Invalid((*path, *first["loc"]), wording(first, AttachToText)) from None
    return AttachTo(Key(wanted.namespace or meta.namespace, wanted.name), wanted.port)
