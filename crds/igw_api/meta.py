"""What all kinds share: strict field rules, metadata, references, and the error that names a field.

Every kind users write is an `ApiObject`: pydantic checks the shape, `convert()` gives the internal model of `objects`.
No YAML and no wording of errors here (`manifests`, `problems`). Unknown fields are errors everywhere, so that a typing
mistake is never silently ignored; `status` is accepted and not read.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from igw_api.objects import AnyObject, Key

K8S_GROUP: Final = "inference.networking.k8s.io"
X_K8S_GROUP: Final = "inference.networking.x-k8s.io"
LLM_D_GROUP: Final = "llm-d.ai"
OWN_GROUP: Final = "inferencegateway.io"
GATEWAY_GROUP: Final = "gateway.networking.k8s.io"

# Kubernetes' own formats: RFC 1123 names, qualified label names, label values.
_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
NAME_PATTERN: Final = rf"^{_LABEL}(\.{_LABEL})*$"
NAMESPACE_PATTERN: Final = f"^{_LABEL}$"
_QUALIFIED: Final = "([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]"
LABEL_KEY_PATTERN: Final = rf"^({_LABEL}(\.{_LABEL})*/)?{_QUALIFIED}$"
LABEL_VALUE_PATTERN: Final = f"^({_QUALIFIED})?$"
GROUP_PATTERN: Final = rf"^({_LABEL}(\.{_LABEL})*)?$"
KIND_PATTERN: Final = "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"
# Enough to keep host names out of a cluster; `endpoints` reads the address itself.
ADDRESS_PATTERN: Final = "^[0-9a-fA-F.:]+$"

Name = Annotated[str, Field(min_length=1, max_length=253, pattern=NAME_PATTERN)]
Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=NAMESPACE_PATTERN)]
LabelKey = Annotated[str, Field(min_length=1, max_length=253, pattern=LABEL_KEY_PATTERN)]
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE_PATTERN)]
GroupName = Annotated[str, Field(max_length=253, pattern=GROUP_PATTERN)]
KindName = Annotated[str, Field(min_length=1, max_length=63, pattern=KIND_PATTERN)]
Port = Annotated[int, Field(ge=1, le=65535)]
Labels = dict[LabelKey, LabelValue]
PathPart = str | int


class Invalid(ValueError):
    """A field that has the right shape and a wrong meaning. `path` leads to it from the object's top."""

    def __init__(self, path: Sequence[PathPart], message: str) -> None:
        super().__init__(message)
        self.path = tuple(path)
        self.message = message


class Strict(BaseModel):
    """No unknown fields, no silent conversions (8000 is not "8000"). Attribute docstrings become CRD descriptions."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="forbid",
        frozen=True,
        populate_by_name=False,
        strict=True,
        use_attribute_docstrings=True,
    )


def _refuse(value: object) -> object:
    if value in (None, [], {}):
        return None
    raise PydanticCustomError("unsupported", "not supported in standalone mode; remove it")


# A field of the Kubernetes API that exists but has no effect here: saying so beats ignoring it.
Unsupported = Annotated[Any, BeforeValidator(_refuse)]

Item = TypeVar("Item")


def unique(what: str, identity: Callable[[Item], Hashable]) -> AfterValidator:
    """A validator for a list whose items must differ in `identity`, called `what` in the error."""

    def check(items: list[Item]) -> list[Item]:
        seen: set[Hashable] = set()
        for item in items:
            value = identity(item)
            if value in seen:
                context = {"what": what, "value": str(value)}
                raise PydanticCustomError("repeated", "{what} {value} occurs twice", context)
            seen.add(value)
        return items

    return AfterValidator(check)


def seconds_since_epoch(value: object) -> float | None:
    """An RFC 3339 timestamp as seconds since the epoch. Raises PydanticCustomError."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise PydanticCustomError("timestamp", "must be a timestamp such as 2026-01-31T12:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


Timestamp = Annotated[float | None, BeforeValidator(seconds_since_epoch)]


class ObjectMeta(Strict):
    """An object's identity, with what `kubectl get -o yaml` adds to it."""

    name: Name
    namespace: Namespace = "default"
    labels: Labels = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    creation_timestamp: Timestamp = None
    deletion_timestamp: Timestamp = None
    generate_name: Any = None
    generation: Any = None
    uid: Any = None
    resource_version: Any = None
    self_link: Any = None
    managed_fields: Any = None
    owner_references: Any = None
    finalizers: Any = None
    deletion_grace_period_seconds: Any = None

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return Key(self.namespace, self.name)

    @property
    def created(self) -> float:
        """Seconds since the epoch; 0.0 when not stated, as in files."""
        return self.creation_timestamp or 0.0


class ApiObject(Strict):
    """Any kind at all. Subclasses add `spec` and `convert`."""

    api_version: str
    kind: str
    metadata: ObjectMeta
    status: Any = None

    def convert(self) -> Sequence[AnyObject]:
        """The internal model's values for this object. Raises Invalid."""
        raise NotImplementedError

    @classmethod
    def closed(cls, key: Key, data: Mapping[str, Any]) -> Sequence[AnyObject]:
        """What an object of this kind that is not valid, and never was, must mean all the same: what it closes."""
        del key, data
        return ()


class PoolRef(Strict):
    """The InferencePool that an object belongs to, in the object's own namespace."""

    group: GroupName = K8S_GROUP
    """Group of the pool; any of the two groups that define InferencePool."""
    kind: KindName = "InferencePool"
    """Kind of the referenced object."""
    name: Name
    """Name of the pool."""


def pool_key(meta: ObjectMeta, ref: PoolRef, field: tuple[PathPart, ...] = ("poolRef",)) -> Key:
    """The pool that `ref`, at `field` of the spec, means. Raises Invalid when it is no InferencePool."""
    if ref.kind != "InferencePool":
        raise Invalid(("spec", *field, "kind"), f"must be InferencePool, not {ref.kind}")
    if ref.group not in (K8S_GROUP, X_K8S_GROUP):
        raise Invalid(("spec", *field, "group"), f"must be {K8S_GROUP} or {X_K8S_GROUP}, not {ref.group!r}")
    return Key(meta.namespace, ref.name)


def cel(*rules: Mapping[str, str]) -> dict[str, Any]:
    """Validation rules that the API server checks, for a field's or a model's JSON schema."""
    return {"x-kubernetes-validations": [dict(rule) for rule in rules]}
