"""InferencePoolPolicy: what the standard kinds cannot say about a pool, in one attached resource of our own.

A policy attachment: `targetRefs` name the InferencePools it is for, in its own namespace. Of two policies for one pool
the older applies.
"""

from typing import Annotated, Literal

from pydantic import Field

from igw_api.meta import ApiObject, PoolRef, Strict, pool_key
from igw_api.objects import Policy

# The picker's table of policies has the same names; a test compares.
SchedulingPolicy = Literal[
    "prefix-cache", "llm-metric", "llm-metric-based", "least-request", "least-token", "round-robin", "random"
]


class TargetRef(PoolRef):
    """A pool that the policy is for."""


class Scheduling(Strict):
    """How an endpoint is chosen for each request."""

    policy: SchedulingPolicy = "prefix-cache"
    """Name of the placement policy; docs/policies.md explains each."""


class PoolPolicySpec(Strict):
    """The pools, and what applies to them."""

    target_refs: Annotated[list[TargetRef], Field(min_length=1, max_length=16)]
    """The pools that the policy is for, in its own namespace."""
    scheduling: Scheduling = Field(default_factory=Scheduling, json_schema_extra={"default": {}})
    """How an endpoint is chosen for each request."""


class InferencePoolPolicy(ApiObject):
    """How the requests of some pools are placed."""

    spec: PoolPolicySpec
    """The pools, and what applies to them."""

    def convert(self) -> tuple[Policy]:
        """The policy. Raises Invalid."""
        meta, spec = self.metadata, self.spec
        pools = tuple(pool_key(meta, ref, ("targetRefs", index)) for index, ref in enumerate(spec.target_refs))
        return (Policy(meta.key, pools, spec.scheduling.policy, meta.created),)
