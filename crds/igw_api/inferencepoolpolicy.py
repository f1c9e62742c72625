"""InferencePoolPolicy: what the standard kinds cannot say about a pool, in one attached resource of our own.

A policy attachment: `targetRefs` name the InferencePools it is for, in its own namespace; or Gateways, whose requests
shall need tokens. Of two policies for one pool the older applies.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from igw_api import objects
from igw_api.access import Access, secrets_named
from igw_api.limitsspec import LimitsSpec, limits
from igw_api.meta import (
    GATEWAY_GROUP,
    ApiObject,
    Invalid,
    LabelKey,
    Labels,
    ObjectMeta,
    PoolRef,
    Strict,
    pool_key,
    seconds_since_epoch,
    unique,
)
from igw_api.objects import Key, Policy
from igw_api.resiliencespec import PassiveHealthSpec, RetrySpec, passive_health, retry, seconds
from igw_api.split import PrefillFailure, Split
from igw_api.standbyspec import StandbySpec, standbys

# The picker's tables of policies have the same names; a test compares.
EndpointPolicy = Literal[
    "prefix-cache", "llm-metric", "llm-metric-based", "least-request", "least-token", "round-robin", "random"
]
SchedulingPolicy = Literal[
    "prefix-cache",
    "llm-metric",
    "llm-metric-based",
    "least-request",
    "least-token",
    "round-robin",
    "random",
    "pd-split",
    "dynamic-pd-split",
]
_SPLITS = ("pd-split", "dynamic-pd-split")


SHORTEST_WAIT = 0.1  # seconds
SHORTEST_FIRST_BYTE = 0.05
SHORTEST_DWELL = 1.0
_SECONDS = r"^[0-9]{1,5}(s|ms)$"


class TargetRef(PoolRef):
    """A pool that the policy is for, or a Gateway (group gateway.networking.k8s.io), for `access` alone."""


class Shadow(Strict):
    """A second policy that chooses as well, and is only compared."""

    policy: EndpointPolicy
    """Name of the placement policy to compare with the one in force."""
    sampling: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The share of the requests that are compared, from 0 to 1."""


class Nearby(Strict):
    """Endpoints with the same value of a label have a shorter way to each other."""

    label: LabelKey
    """The label, such as `kubernetes.io/hostname` or `topology.kubernetes.io/zone`."""
    transfer_percent: Annotated[int, Field(ge=0, le=1000)]
    """What moving a prompt token between them takes, in percent of computing it."""


class PrefillDecode(Strict):
    """How two endpoints are chosen for each request: one for its prompt, one for its answer."""

    prefill_policy: EndpointPolicy = "prefix-cache"
    """How endpoints for prompts are compared."""
    decode_policy: EndpointPolicy = "least-token"
    """How endpoints for answers are compared."""
    prefill_labels: Labels = Field(default_factory=dict)
    """Labels of the endpoints for prompts, all of them, instead of the role label."""
    decode_labels: Labels = Field(default_factory=dict)
    """Labels of the endpoints for answers, all of them, instead of the role label."""
    on_prefill_failure: Literal["strict", "decode", "queue"] = "decode"
    """No endpoint for the prompt: refuse the request, let the other endpoint compute it all, or wait for one."""
    min_uncached_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 256
    """With `dynamic-pd-split`: fewer uncached prompt tokens are computed where the answer is."""
    transfer_percent: Annotated[int, Field(ge=0, le=1000)] = 10
    """What moving a prompt token to the other endpoint takes, in percent of computing it."""
    nearby: Annotated[list[Nearby], Field(max_length=4)] = Field(default_factory=list)
    """Where it takes less: endpoints with the same value of a label. The nearest first."""
    role_dwell: Annotated[str, Field(pattern=_SECONDS)] = "60s"
    """With `dynamic-pd-split`: how long an endpoint keeps a role at least, 1s or more."""


class Scheduling(Strict):
    """How an endpoint is chosen for each request."""

    policy: SchedulingPolicy = "prefix-cache"
    """Name of the placement policy; docs/policies.md explains each."""
    shadow: Shadow | None = None
    """Lets a second policy choose as well, without effect: the picker's metrics tell what it would have done."""
    prefill_decode: PrefillDecode | None = None
    """For `pd-split` and `dynamic-pd-split` only."""
    explain: bool = False
    """Tells clients that send the header `x-igw-explain` where their request went and why, in `x-igw-decision`.

    That names endpoints and tells how busy they are.
    """


class Queue(Strict):
    """How many requests may wait in the picker, and how long."""

    max_size: Annotated[int, Field(ge=0, le=100_000)] = 512
    """Requests that may wait for the pool at once. More are refused with 429, or 503 where the pool has no endpoint.

    With 0 none wait: they go to the engines' own queues.
    """
    wait_timeout: Annotated[str, Field(pattern=_SECONDS)] = "10s"
    """How long a request may wait, from 100ms to 60s; then it is refused likewise."""
    retry_period: Annotated[str, Field(pattern=_SECONDS)] = "1s"
    """How often a place for waiting requests is looked for at least. Mostly it is found when it becomes free."""
    retries: Annotated[int, Field(ge=0, le=5)] = 2
    """How often a request that an engine fails is tried again at another one, before its answer has begun.

    `retry` says when, and may say another number.
    """


class PoolPolicySpec(Strict):
    """The pools, and what applies to them."""

    target_refs: Annotated[list[TargetRef], Field(min_length=1, max_length=16)]
    """The pools that the policy is for, in its own namespace. Gateways: for `access` alone."""
    scheduling: Scheduling = Field(default_factory=Scheduling, json_schema_extra={"default": {}})
    """How an endpoint is chosen for each request."""
    queue: Queue | None = None
    """Lets requests wait in the picker while all engines are full. Without it they wait in the engines."""
    first_byte_timeout: Annotated[str, Field(pattern=_SECONDS)] | None = None
    """How long a streaming request may take to its first byte, from 50ms to 60s. Without it there is no limit.

    Waiting in the picker counts; then an engine that has not answered is left for another.
    """
    standby: Annotated[list[StandbySpec], Field(max_length=8), unique("name", lambda one: one.name)] = Field(
        default_factory=list
    )
    """Who takes requests that the pool cannot: tried in this order, for each request anew."""
    passive_health: PassiveHealthSpec | None = None
    """When an endpoint that fails requests gets none for a while. Without it, by the defaults."""
    retry: RetrySpec | None = None
    """When a request is tried again at another endpoint. Without it, by the defaults."""
    limits: LimitsSpec | None = None
    """What the pool takes at most, and what each API key may use. Without it, there are no limits."""
    access: Access | None = None
    """Lets only requests with a token pass. A pool's own tokens replace its Gateway's."""


class InferencePoolPolicy(ApiObject):
    """How the requests of some pools are placed."""

    spec: PoolPolicySpec
    """The pools, and what applies to them."""

    def convert(self) -> tuple[Policy]:
        """The policy. Raises Invalid."""
        meta, spec = self.metadata, self.spec
        pools, gateways = _targets(meta, spec)
        tokens = tuple(Key(meta.namespace, ref.name) for ref in spec.access.tokens) if spec.access else ()
        shadow = spec.scheduling.shadow
        compared = objects.Shadow(shadow.policy, shadow.sampling) if shadow is not None else None
        split, queue = _split(spec.scheduling), _queue(spec.queue)
        chain = standbys(meta, spec.standby)
        late = _first_byte(spec.first_byte_timeout)
        placing = Policy(meta.key, pools, spec.scheduling.policy, meta.created, queue, compared, split, chain, late)
        tried = retry(spec.retry, (spec.queue or Queue()).retries)
        resilient = replace(placing, passive_health=passive_health(spec.passive_health), retry=tried)
        resilient = replace(resilient, explains=spec.scheduling.explain, limits=limits(spec.limits))
        return (replace(resilient, gateways=gateways, access=tokens),)

    @classmethod
    def closed(cls, key: Key, data: Mapping[str, Any]) -> tuple[Policy, ...]:
        """Its Secrets, where it asks for tokens: as far as they can be read."""
        spec, meta = data.get("spec"), data.get("metadata")
        if not isinstance(spec, Mapping) or not isinstance(meta, Mapping) or "access" not in spec:
            return ()
        refs = spec.get("targetRefs")
        named = [ref for ref in refs if isinstance(ref, Mapping)] if isinstance(refs, list) else []
        found = [
            (ref.get("kind"), Key(key.namespace, name)) for ref in named if isinstance(name := ref.get("name"), str)
        ]
        pools = tuple(target for kind, target in found if kind != "Gateway")
        gateways = tuple(target for kind, target in found if kind == "Gateway")
        try:
            created = seconds_since_epoch(meta.get("creationTimestamp")) or 0.0
        except ValueError:
            created = 0.0
        return (Policy(key, pools, None, created, gateways=gateways, access=secrets_named(key, spec["access"])),)


def _targets(meta: ObjectMeta, spec: PoolPolicySpec) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
    """The pools, and the Gateways. Raises Invalid."""
    pools, gateways = [], []
    for index, ref in enumerate(spec.target_refs):
        if ref.kind != "Gateway":
            pools.append(pool_key(meta, ref, ("targetRefs", index)))
        elif ref.group != GATEWAY_GROUP:
            raise Invalid(("spec", "targetRefs", index, "group"), f"must be {GATEWAY_GROUP} for a Gateway")
        else:
            gateways.append(Key(meta.namespace, ref.name))
    placing = spec.model_copy(update={"target_refs": [], "access": None})
    # Compared, because the API server fills in defaults.
    if gateways and (spec.access is None or placing != PoolPolicySpec.model_construct(target_refs=[])):
        raise Invalid(("spec",), "a policy for a Gateway has `access`, and nothing else besides `targetRefs`")
    return tuple(pools), tuple(gateways)


def _queue(queue: Queue | None) -> objects.Queue | None:
    """The same in seconds. Raises Invalid."""
    if queue is None:
        return None
    wait, period = seconds(queue.wait_timeout), seconds(queue.retry_period)
    if not objects.LONGEST_WAIT >= wait >= SHORTEST_WAIT:
        raise Invalid(("spec", "queue", "waitTimeout"), f"must be from 100ms to 60s, not {queue.wait_timeout}")
    if period < SHORTEST_WAIT:
        raise Invalid(("spec", "queue", "retryPeriod"), f"must be 100ms or more, not {queue.retry_period}")
    return objects.Queue(queue.max_size, wait, period)


def _first_byte(text: str | None) -> float | None:
    """The same in seconds. Raises Invalid."""
    if text is None:
        return None
    if not objects.LONGEST_WAIT >= seconds(text) >= SHORTEST_FIRST_BYTE:
        raise Invalid(("spec", "firstByteTimeout"), f"must be from 50ms to 60s, not {text}")
    return seconds(text)


def _split(scheduling: Scheduling) -> Split | None:
    """The same as the picker reads it. Raises Invalid."""
    at = ("spec", "scheduling", "prefillDecode")
    if scheduling.policy in _SPLITS and scheduling.shadow is not None:
        raise Invalid(("spec", "scheduling", "shadow"), f"is not for {scheduling.policy}, which chooses two endpoints")
    if scheduling.policy not in _SPLITS:
        if scheduling.prefill_decode is not None:
            raise Invalid(at, f"is for the policies pd-split and dynamic-pd-split, not {scheduling.policy}")
        return None
    asked = scheduling.prefill_decode or PrefillDecode()
    dwell = seconds(asked.role_dwell)
    if dwell < SHORTEST_DWELL:
        raise Invalid((*at, "roleDwell"), f"must be 1s or more, not {asked.role_dwell}")
    shares = [one.transfer_percent for one in asked.nearby] + [asked.transfer_percent]
    if shares != sorted(shares):
        raise Invalid((*at, "nearby"), "must take no more than the next, and the last no more than transferPercent")
    return Split(
        dynamic=scheduling.policy == "dynamic-pd-split",
        prefill=asked.prefill_policy,
        decode=asked.decode_policy,
        prefill_labels=asked.prefill_labels,
        decode_labels=asked.decode_labels,
        on_failure=PrefillFailure(asked.on_prefill_failure),
        min_uncached=asked.min_uncached_tokens,
        transfer=asked.transfer_percent / 100,
        nearby=tuple((one.label, one.transfer_percent / 100) for one in asked.nearby),
        dwell=dwell,
    )
