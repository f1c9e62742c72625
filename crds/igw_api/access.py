"""Who may use a pool or a Gateway: the part of InferencePoolPolicy that names tokens, and what is kept of these.

A Secret's keys are the names of clients, its values their tokens. Only standalone mode reads Secrets, which are among
its manifests; on Kubernetes Envoy Gateway does, and nothing here sees a token.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field

from igw_api.meta import NAME_PATTERN, Name, Strict, unique
from igw_api.objects import Key, Secret

# What a header's value may be without being changed on its way.
_TOKEN: Final = re.compile(r"[!-~]{1,1024}")


class SecretRef(Strict):
    """A Secret of the policy's own namespace."""

    name: Name
    """Name of the Secret. Each of its keys is a client's name, each value that client's token."""


class Access(Strict):
    """Who may send requests: those that have one of these tokens. Without `access` everybody may."""

    tokens: Annotated[list[SecretRef], Field(min_length=1, max_length=16), unique("Secret", lambda ref: ref.name)]
    """The Secrets with the tokens, any of which will do. Of two clients of one name, the first Secret's counts."""


def secrets_named(policy: Key, access: Any) -> tuple[Key, ...]:
    """The Secrets that an `access` names which may be wrong in any way; none of these: one that lets nobody pass."""
    tokens = access.get("tokens") if isinstance(access, Mapping) else None
    refs = tokens if isinstance(tokens, list) else []
    names = [ref["name"] for ref in refs if isinstance(ref, Mapping) and isinstance(ref.get("name"), str)]
    usable = [name for name in names if re.fullmatch(NAME_PATTERN, name)]
    return tuple(Key(policy.namespace, name) for name in dict.fromkeys(usable or ["access-is-not-valid"]))


def digests(secrets: list[Secret]) -> dict[str, str]:
    """The SHA-256 of each client's token, in hexadecimal. What cannot be sent as a token is nobody's."""
    found: dict[str, str] = {}
    for secret in secrets:
        for client, value in secret.data.items():
            if _TOKEN.fullmatch(value):
                found.setdefault(client, hashlib.sha256(value.encode()).hexdigest())
    return dict(sorted(found.items()))


def useless(secret: Secret) -> list[str]:
    """The clients whose tokens could never arrive as they are."""
    return sorted(client for client, value in secret.data.items() if not _TOKEN.fullmatch(value))
