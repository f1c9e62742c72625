"""What requests are for: InferenceModel, InferenceObjective and InferenceModelRewrite.

Both generations of the same wish. InferenceModel (x-k8s.io v1alpha1 and v1alpha2, one schema) ties a client's model
name to criticality and weighted targets. Later the extension split it: InferenceObjective carries the priority,
InferenceModelRewrite the targets, in the x-k8s.io group first and in llm-d.ai later. All stay accepted.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

from pydantic import Field

from igw_api.meta import X_K8S_GROUP, ApiObject, GroupName, Invalid, PoolRef, Strict, cel, pool_key
from igw_api.objects import Model, Objective, Rewrite, RewriteRule, Target

Criticality = Literal["Critical", "Standard", "Sheddable"]

# Below zero may be shed; the distance leaves room for objectives between Standard and Critical.
PRIORITIES: Final[Mapping[Criticality | None, int]] = {"Critical": 2, "Standard": 0, None: 0, "Sheddable": -1}

_IMMUTABLE: Final = cel({"rule": "self == oldSelf", "message": "modelName is immutable"})
_ALL_OR_NONE: Final = "weights must be set for all targetModels or for none"
_WEIGHTS_RULE: Final = cel(
    {"rule": "self.all(m, has(m.weight)) || self.all(m, !has(m.weight))", "message": _ALL_OR_NONE}
)


class TargetModel(Strict):
    """A model, or a LoRA adapter, that the engines know by this name."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name that the request carries when it reaches the engine."""
    weight: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Share of the requests, relative to the sum of all weights. Zero: none."""


class AlphaPoolRef(PoolRef):
    """The InferencePool that serves the model, in the object's own namespace."""

    group: GroupName = X_K8S_GROUP
    """Group of the pool; any of the two groups that define InferencePool."""


class ModelSpec(Strict):
    """A name that clients ask for, and how it is served."""

    model_name: Annotated[str, Field(min_length=1, max_length=256, json_schema_extra=_IMMUTABLE)]
    """Name in the `model` field of requests; unique within the pool, where the oldest object wins."""
    criticality: Criticality | None = None
    """How much these requests matter when the pool is full: Sheddable ones may be refused. Unset means Standard."""
    target_models: Annotated[list[TargetModel], Field(max_length=10, json_schema_extra=_WEIGHTS_RULE)] = Field(
        default_factory=list
    )
    """What the name stands for. Empty: the name itself. Weights on all of them or on none, which means equal shares;
    all zero reserves the name without serving it."""
    pool_ref: AlphaPoolRef
    """The pool that serves the model."""


class InferenceModel(ApiObject):
    """A model name that clients ask for, served by a pool."""

    spec: ModelSpec
    """The name and how it is served."""

    def convert(self) -> tuple[Model]:
        """The model. Raises Invalid."""
        spec, meta = self.spec, self.metadata
        return (
            Model(
                key=meta.key,
                pool=pool_key(meta, spec.pool_ref),
                name=spec.model_name,
                priority=PRIORITIES[spec.criticality],
                targets=_shares(spec.target_models),
                created=meta.created,
            ),
        )


def _shares(targets: Sequence[TargetModel]) -> tuple[Target, ...]:
    weights = [target.weight for target in targets]
    if None in weights and any(weight is not None for weight in weights):
        raise Invalid(("spec", "targetModels"), _ALL_OR_NONE)
    return tuple(Target(target.name, 1 if target.weight is None else target.weight) for target in targets)


class ObjectiveSpec(Strict):
    """What a request is owed."""

    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1, json_schema_extra={"format": "int32"})] | None = None
    """Higher goes first; below zero may be refused when the pool is full. Unset means 0."""
    pool_ref: PoolRef
    """The pool whose requests may name this objective."""


class InferenceObjective(ApiObject):
    """A priority that requests ask for by this object's name."""

    spec: ObjectiveSpec
    """The priority, and for which pool."""

    def convert(self) -> tuple[Objective]:
        """The objective. Raises Invalid."""
        meta = self.metadata
        pool = pool_key(meta, self.spec.pool_ref)
        return (Objective(meta.key, pool, self.spec.priority or 0, meta.created),)


class ModelNameMatch(Strict):
    """How the model name is compared."""

    type: Literal["Exact"] = "Exact"
    """Kind of comparison; only Exact."""
    value: Annotated[str, Field(min_length=1, max_length=256)]
    """Name in the `model` field of requests."""


class RewriteMatch(Strict):
    """One condition."""

    model: ModelNameMatch
    """The model name that requests must have."""


class RewriteTarget(Strict):
    """One way to serve the requests."""

    model_rewrite: Annotated[str, Field(min_length=1, max_length=253)]
    """Name that the request carries when it reaches the engine."""
    weight: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Share of the requests, relative to the sum of all weights. Unset means 1."""


class RewriteRuleSpec(Strict):
    """Requests that match get one of the targets."""

    matches: list[RewriteMatch] = Field(default_factory=list)
    """Any of these suffices. Empty: every request that no exact rule takes."""
    targets: Annotated[list[RewriteTarget], Field(min_length=1)]
    """What the requests become, by weight."""


class RewriteSpec(Strict):
    """Which requests of a pool get which model."""

    pool_ref: PoolRef
    """The pool whose requests are rewritten."""
    rules: Annotated[list[RewriteRuleSpec], Field(min_length=1)]
    """Rules; exact ones before generic ones, then the oldest object's, then in order."""


class InferenceModelRewrite(ApiObject):
    """Rules that replace the model name of requests to a pool."""

    spec: RewriteSpec
    """The rules, and for which pool."""

    def convert(self) -> tuple[Rewrite]:
        """The rewrite. Raises Invalid."""
        meta = self.metadata
        rules = tuple(
            RewriteRule(
                models=frozenset(match.model.value for match in rule.matches),
                targets=tuple(Target(target.model_rewrite, target.weight or 1) for target in rule.targets),
            )
            for rule in self.spec.rules
        )
        return (Rewrite(meta.key, pool_key(meta, self.spec.pool_ref), rules, meta.created),)
