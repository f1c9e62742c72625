"""The `standby` of an InferencePoolPolicy as users write it: a chain of other pools and of providers."""

from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

from pydantic import Field

from igw_api.meta import Invalid, Name, Namespace, ObjectMeta, PathPart, PoolRef, Strict, pool_key
from igw_api.standby import Provider, Standby

_PORTS: Final = {"http": 80, "https": 443}
# What a host, a port and a path look like; no user, no query.
_URL: Final = r"^https?://[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?(:[0-9]{1,5})?(/[-A-Za-z0-9._~/]{0,200})?$"


class Budget(Strict):
    """What a provider may be sent at most, by each picker."""

    requests_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 60
    """Requests in any 60 seconds."""
    share_percent: Annotated[int, Field(ge=1, le=100)] = 100
    """Share of the pool's requests of the last 5 minutes, in percent."""


class ProviderSpec(Strict):
    """Another OpenAI-compatible service."""

    url: Annotated[str, Field(max_length=500, pattern=_URL)]
    """Where its API begins, as OpenAI's clients call it `base_url`: for example `https://api.example.com/v1`."""
    credential_secret: Name | None = None
    """Name of a Secret in the policy's namespace. Its key `credential` is sent as the Authorization header, whole.

    For example `Bearer sk-...`. Without it none is sent.
    """
    ca_secret: Name | None = None
    """Name of a Secret whose key `ca.crt` has the certificates to trust, instead of the system's."""
    insecure_skip_verify: bool = False
    """Accepts any certificate."""
    budget: Budget = Field(default_factory=Budget, json_schema_extra={"default": {}})
    """What it may be sent at most."""


class StandbySpec(Strict):
    """One link of the chain: a pool or a provider."""

    name: Namespace
    """Name of this link, for messages and metrics."""
    pool: PoolRef | None = None
    """Another pool of the policy's namespace, where it has room at once."""
    provider: ProviderSpec | None = None
    """A service beyond this gateway."""
    model: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """What to ask it for. Without it, the model is called there as it is here."""
    models: dict[str, str] = Field(default_factory=dict)
    """The same for single models: its names by ours."""


def standbys(meta: ObjectMeta, chain: list[StandbySpec]) -> tuple[Standby, ...]:
    """The chain as both planes read it. Raises Invalid."""
    return tuple(_standby(meta, one, ("spec", "standby", index)) for index, one in enumerate(chain))


def _standby(meta: ObjectMeta, spec: StandbySpec, at: tuple[PathPart, ...]) -> Standby:
    if (spec.pool is None) == (spec.provider is None):
        raise Invalid(at, "needs a `pool` or a `provider`, and not both")
    if spec.pool is not None:
        pool = str(pool_key(meta, spec.pool, (*at[1:], "pool")))
        return Standby(pool, spec.name, pool, model=spec.model, models=spec.models)
    assert spec.provider is not None, "one of the two"
    budget = spec.provider.budget
    return Standby(
        key=f"standby/{meta.key}/{spec.name}",
        name=spec.name,
        provider=_provider(spec.provider, (*at, "provider")),
        model=spec.model,
        models=spec.models,
        per_minute=budget.requests_per_minute,
        share=budget.share_percent / 100,
    )


def _provider(spec: ProviderSpec, at: tuple[PathPart, ...]) -> Provider:
    url = urlsplit(spec.url)
    tls = url.scheme == "https"
    if not tls and (spec.ca_secret is not None or spec.insecure_skip_verify):
        raise Invalid((*at, "url"), "begins with http://, so no certificate is ever looked at; use https://")
    return Provider(
        host=url.hostname or "",
        port=_port(url, at),
        tls=tls,
        path=url.path.rstrip("/"),
        credential=spec.credential_secret,
        authorities=spec.ca_secret,
        verify=not spec.insecure_skip_verify,
    )


def _port(url: SplitResult, at: tuple[PathPart, ...]) -> int:
    try:
        return url.port or _PORTS[url.scheme]
    except ValueError:
        raise Invalid((*at, "url"), "has a port above 65535") from None
