"""Who takes a pool's requests when the pool cannot: another pool, or another service beyond the gateway. Values only.

The operator leads Envoy to a standby by its `key`, which the picker names when it decides that a request goes there.
No secrets in here: a provider's key is a Secret's, of which only the name is known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

# Client paths that begin so are a provider's, with its own path instead.
VERSION_PATH: Final = "/v1"
# The key of the Secrets that providers name: the whole Authorization header.
CREDENTIAL: Final = "credential"


@dataclass(frozen=True, slots=True)
class Provider:
    """An OpenAI-compatible service of somebody else. `path` takes the place of `/v1`.

    `credential`, `authorities`: names of Secrets in the policy's namespace. None: no Authorization header at all; the
    system's authorities.
    """

    host: str
    port: int
    tls: bool
    path: str
    credential: str | None = None
    authorities: str | None = None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Standby:
    """One link of a chain: a pool ("namespace/name") or a provider.

    `key` is what the picker tells the proxy. `models`: the standby's names of models by ours; `model`: its name of all
    others, None: they are called as they are here. `per_minute` and `share` (0..1, of the pool's requests) bound what a
    provider gets.
    """

    key: str
    name: str
    pool: str | None = None
    provider: Provider | None = None
    model: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    per_minute: int = 60
    share: float = 1.0

    def model_for(self, asked: str) -> str:
        """What `asked` is called there."""
        return self.models.get(asked) or self.model or asked
