"""The status that controllers write, kind by kind. Users never write it; CRD schemas describe it.

The shapes are those of the inference extension: v1 pools have one entry per Gateway, the alpha versions of pools both
their own list (`parent`, v1alpha2) and plain conditions (v1alpha1), all other kinds plain conditions. Pools and
policies say a few plain facts more, for the columns of `kubectl get`; where upstream's own InferencePool definition is
installed the API server drops these.
"""

from typing import Annotated, Final, Literal

from pydantic import Field

from igw_api.meta import GATEWAY_GROUP, GroupName, KindName, Name, Namespace, Strict

_BY_TYPE: Final = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
_ATOMIC: Final = {"x-kubernetes-list-type": "atomic"}


class Condition(Strict):
    """One aspect of the object's state."""

    type: Annotated[str, Field(min_length=1, max_length=316)]
    """Aspect, such as Accepted or ResolvedRefs."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """Why, in one word for programs."""
    message: Annotated[str, Field(max_length=32768)]
    """Why, and what to do, for people."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When the status last changed."""
    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None = None
    """The object's generation that this is about."""


Conditions = Annotated[list[Condition], Field(max_length=8, json_schema_extra=_BY_TYPE)]


class StatusParentRef(Strict):
    """The Gateway that an entry is about."""

    group: GroupName = GATEWAY_GROUP
    """Group of the parent."""
    kind: KindName = "Gateway"
    """Kind of the parent."""
    name: Name
    """Name of the parent."""
    namespace: Namespace | None = None
    """Namespace of the parent."""


class ParentStatus(Strict):
    """What one Gateway says about the pool."""

    parent_ref: StatusParentRef
    """The Gateway."""
    controller_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """The controller that wrote this entry."""
    conditions: Conditions | None = None
    """What it says."""


Parents = Annotated[list[ParentStatus], Field(max_length=32, json_schema_extra=_ATOMIC)]


class EndpointCounts(Strict):
    """How many endpoints the pool has: every selected member counts once for each port it serves."""

    ready: Annotated[int, Field(ge=0)]
    """Endpoints that may be chosen."""
    total: Annotated[int, Field(ge=0)]
    """Endpoints, ready or not."""


class PoolFacts(Strict):
    """What `kubectl get` shows of a pool of any version."""

    policy: str | None = None
    """The scheduling policy in force."""
    endpoints: EndpointCounts | None = None
    """How many endpoints the pool has."""
    models: Annotated[int, Field(ge=0)] | None = None
    """How many model names clients may ask for. Zero: any name."""


class PoolStatus(PoolFacts):
    """State of the pool, as the Gateways that serve it see it."""

    parents: Parents | None = None
    """One entry per Gateway; each controller writes its own only."""


class AlphaPoolStatus(PoolFacts):
    """State of the pool, as the Gateways that serve it see it."""

    parent: Parents | None = None
    """One entry per Gateway; each controller writes its own only (v1alpha2)."""
    conditions: Conditions | None = None
    """State of the pool as a whole (v1alpha1)."""


class ConditionsStatus(Strict):
    """State of the object."""

    conditions: Conditions | None = None
    """One entry per aspect."""


class PolicyStatus(ConditionsStatus):
    """State of the policy."""

    pools: Annotated[list[Name], Field(max_length=16, json_schema_extra=_ATOMIC)] | None = None
    """The pools that the policy is in force for, by name."""
