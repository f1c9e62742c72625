"""What the status is made of, and the patches that come of it. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from igw_api.objects import Key
from igw_api.objectset import ObjectSet
from igw_operator.plan.model import Condition, GatewayPlan
from igw_operator.render.envoy_gateway.values import Observed


@dataclass(frozen=True, slots=True)
class Declared:
    """A user's object as the API server has it. `mistakes`: what is wrong with its newest version, a line each."""

    api_version: str
    kind: str
    key: Key
    generation: int
    status: Mapping[str, Any] = field(default_factory=dict)
    mistakes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known: what is meant (`objects`, the last good versions), and what has become of it."""

    objects: ObjectSet
    plan: GatewayPlan
    conditions: tuple[Condition, ...]
    observed: Observed


@dataclass(frozen=True, slots=True)
class StatusPatch:
    """`status` holds every field that changes, None for one to remove: a JSON merge patch."""

    declared: Declared
    status: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """A condition without its times. `status`: True, False or Unknown, as text."""

    type: str
    status: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What is said of a pool on one Gateway. `parent` None: on none."""

    parent: Key | None
    conditions: tuple[Said, ...]
