"""Whose request it is, for fairness between tenants: what its headers say, as a short name that is no secret.

Pure. Called when a request has to wait, never for one that is dispatched at once.
"""

from hashlib import blake2b
from typing import Final

# Everybody who says nothing is one tenant.
ANONYMOUS: Final = ""
# A client must not fill our memory with its name.
_LONGEST_ID: Final = 128
_DIGEST_BYTES: Final = 12
_SCHEME: Final = "bearer "


def tenant(fairness_id: str | None, credential: str | None, salt: bytes) -> str:
    """The tenant's name: the fairness id, else a digest of its API key, else ANONYMOUS.

    `credential`: the key, with its scheme or without.

    `salt`, 16 to 64 random bytes made anew by each process, keeps digests from being compared with those of guessed
    keys; the key itself is in nothing that we keep. Ids and digests cannot be taken for each other: a client that names
    the digest of another one as its fairness id is still not that one.
    """
    if fairness_id:
        return f"id:{fairness_id}" if len(fairness_id) <= _LONGEST_ID else f"id#{_digest(fairness_id, salt)}"
    # The same key is the same tenant, whichever header has it.
    key = credential[len(_SCHEME) :] if credential and credential[: len(_SCHEME)].lower() == _SCHEME else credential
    return f"key:{_digest(key, salt)}" if key else ANONYMOUS


def _digest(text: str, salt: bytes) -> str:
    # Header values may hold any byte; those that are no text still tell tenants apart.
    return blake2b(text.encode("utf-8", "surrogateescape"), key=salt, digest_size=_DIGEST_BYTES).hexdigest()
