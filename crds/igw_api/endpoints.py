"""Where the engines are: EndpointList (ours, for use without a cluster), Pod, and Service.

A pool selects members by label, whether they are Pods or entries of an EndpointList. Kubernetes' own kinds are read
loosely (they have many fields that do not matter here), ours strictly.
"""

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from igw_api.meta import (
    ADDRESS_PATTERN,
    ApiObject,
    Invalid,
    Labels,
    Name,
    ObjectMeta,
    Port,
    Strict,
    Unsupported,
    unique,
)
from igw_api.objects import Key, Member, Service, join_host_port


def _address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise PydanticCustomError("address", "must be an IP address, version 4 or 6") from None


Address = Annotated[str, Field(min_length=2, max_length=45, pattern=ADDRESS_PATTERN), AfterValidator(_address)]


class Endpoint(Strict):
    """One running engine process."""

    name: Name | None = None
    """Name in metrics and logs. Unset: made of the list's name and the address."""
    address: Address
    """IP address, version 4 or 6."""
    port: Port | None = None
    """Port to use instead of the pool's target ports."""
    labels: Labels = Field(default_factory=dict)
    """Labels by which pools select the endpoint; they go before the list's labels."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations, as on a Pod."""


class EndpointListSpec(Strict):
    """Endpoints that run without Kubernetes' knowledge."""

    labels: Labels = Field(default_factory=dict)
    """Labels that every endpoint of the list has unless it sets them itself."""
    endpoints: Annotated[
        list[Endpoint],
        Field(max_length=4096),
        unique("endpoint", lambda one: join_host_port(one.address, one.port) if one.port else one.address),
    ]
    """The endpoints; each address and port once."""


class EndpointList(ApiObject):
    """Engines that run outside Kubernetes, listed by address."""

    spec: EndpointListSpec
    """The endpoints and their labels."""

    def convert(self) -> tuple[Member, ...]:
        """One member per entry. Raises Invalid when two entries have one name."""
        members: dict[Key, Member] = {}
        for index, endpoint in enumerate(self.spec.endpoints):
            member = _listed(self.metadata, endpoint, self.spec.labels)
            if member.key in members:
                raise Invalid(("spec", "endpoints", index, "name"), f"{member.key.name!r} occurs twice")
            members[member.key] = member
        return tuple(members.values())


def _listed(meta: ObjectMeta, endpoint: Endpoint, defaults: Mapping[str, str]) -> Member:
    return Member(
        key=Key(meta.namespace, endpoint.name or _default_name(meta.name, endpoint)),
        address=endpoint.address,
        port=endpoint.port,
        labels={**defaults, **endpoint.labels},
        annotations=endpoint.annotations,
    )


def _default_name(list_name: str, endpoint: Endpoint) -> str:
    """Made of the address, not the position: removing an entry must not rename the ones after it."""
    port = f"-{endpoint.port}" if endpoint.port else ""
    return f"{list_name}-{endpoint.address.replace(':', '-')}{port}"


class _Loose(BaseModel):
    """Part of a Kubernetes kind: fields that are not listed do not matter here."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True, strict=True)


class PodCondition(_Loose):
    type: str
    status: str


class PodStatus(_Loose):
    pod_ip: Annotated[str | None, Field(alias="podIP")] = None
    phase: str | None = None
    conditions: list[PodCondition] = Field(default_factory=list)


class Pod(ApiObject):
    """A Pod that runs already. A Pod that somebody would still have to start is not a member."""

    spec: Any = None
    status: PodStatus = PodStatus()

    def convert(self) -> tuple[Member]:
        """The member; ready as its Ready condition says. Raises Invalid for a Pod without an address."""
        if self.status.pod_ip is None:
            raise Invalid(("status", "podIP"), "is missing: only a running Pod can serve; or use an EndpointList")
        meta = self.metadata
        ready = any(one.type == "Ready" and one.status == "True" for one in self.status.conditions)
        return (
            Member(
                key=meta.key,
                address=self.status.pod_ip,
                labels=meta.labels,
                annotations=meta.annotations,
                ready=ready and meta.deletion_timestamp is None,
            ),
        )


class ServicePort(_Loose):
    port: Port
    target_port: int | str | None = None
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"


class ServiceSpec(_Loose):
    selector: dict[str, str] = Field(default_factory=dict)
    ports: list[ServicePort] = Field(default_factory=list)
    external_name: Unsupported = None


class ServiceObject(ApiObject):
    """A Service, for routes that lead to one."""

    spec: ServiceSpec

    def convert(self) -> tuple[Service]:
        """The Service's TCP ports. Raises Invalid for a target port given by name."""
        ports: dict[int, int] = {}
        for index, one in enumerate(self.spec.ports):
            if isinstance(one.target_port, str):
                path = ("spec", "ports", index, "targetPort")
                raise Invalid(path, f"{one.target_port!r}: names are not supported in standalone mode; use a number")
            if one.protocol == "TCP":
                ports[one.port] = one.target_port or one.port
        return (Service(self.metadata.key, self.spec.selector, ports),)
