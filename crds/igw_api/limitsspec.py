"""The `limits` of an InferencePoolPolicy as users write them."""

from typing import Annotated

from pydantic import Field

from igw_api.limits import KeyLimits, Limits
from igw_api.meta import Invalid, Strict, unique

_Requests = Annotated[int, Field(ge=1, le=1_000_000)]
_Tokens = Annotated[int, Field(ge=1, le=1_000_000_000)]


class KeyLimitsSpec(Strict):
    """What one API key may use of one model."""

    requests_per_minute: _Requests | None = None
    """Requests. A minute's worth may come at once; then they come back evenly. Without it, any number."""
    tokens_per_minute: _Tokens | None = None
    """Tokens of prompts and answers together, likewise. Without it, any number."""


class ModelLimitsSpec(KeyLimitsSpec):
    """The same for one model."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """The model, as clients call it."""


class PerKeySpec(KeyLimitsSpec):
    """What each API key may use of each model."""

    models: Annotated[list[ModelLimitsSpec], Field(max_length=64), unique("model", lambda one: one.name)] = Field(
        default_factory=list
    )
    """Models that have limits of their own, instead of these."""


class LimitsSpec(Strict):
    """What the pool takes, and what each API key may use. Each picker counts for itself. More is refused with 429."""

    concurrent_requests: _Requests | None = None
    """Requests of the pool at once, those that wait included. Without it, any number."""
    requests_per_second: _Requests | None = None
    """Requests of the pool. A second's worth may come at once. Without it, any number."""
    per_key: PerKeySpec | None = None
    """What each API key may use of each model. Requests without a key count together, like one key."""


def limits(spec: LimitsSpec | None) -> Limits | None:
    """The same as the picker reads it. None: there are none. Raises Invalid."""
    if spec is None:
        return None
    keys = spec.per_key
    for index, one in enumerate(keys.models if keys is not None else ()):
        if _of_keys(one) is None:
            at = ("spec", "limits", "perKey", "models", index)
            raise Invalid(at, "needs `requestsPerMinute` or `tokensPerMinute`")
    found = Limits(
        concurrent=spec.concurrent_requests,
        per_second=spec.requests_per_second,
        keys=_of_keys(keys),
        models={one.name: KeyLimits(one.requests_per_minute, one.tokens_per_minute) for one in keys.models}
        if keys is not None
        else {},
    )
    return found if found != Limits() else None


def _of_keys(spec: KeyLimitsSpec | None) -> KeyLimits | None:
    if spec is None or (spec.requests_per_minute is None and spec.tokens_per_minute is None):
        return None
    return KeyLimits(spec.requests_per_minute, spec.tokens_per_minute)
