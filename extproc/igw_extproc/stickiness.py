"""Requests that belong where an earlier one went: response ids that tell who made them, and clients' sessions.

Pure but for what it remembers. Nothing of a client's is kept: sessions are known by keyed digests. Called by
`director`.

A response id of OpenAI's Responses API means something only to the engine that made it. vLLM and SGLang let the request
name the id, so we give one that hides its endpoint: any picker that knows the pool finds it again, after a restart too,
and nobody has to see the response or to remember it (docs/adr/0012).
"""

import re
from collections import OrderedDict
from collections.abc import Collection, Iterable
from functools import lru_cache
from hashlib import blake2b
from random import Random
from typing import Final, NamedTuple

import xxhash

from igw_extproc.domain import Ask, EngineKind, Stay
from igw_extproc.inflight import Ledger

# Engines that keep responses and take the request's own id for them.
KEEPS_RESPONSES: Final = frozenset({EngineKind.VLLM, EngineKind.SGLANG})
# As engines write them: 24 digits of chance, then 8 that give the endpoint away to those who know its address.
_RESPONSE: Final = re.compile(r"resp_([0-9a-f]{24})([0-9a-f]{8})")
_IN_PATH: Final = re.compile(r"/responses/(resp_[0-9a-f]{32})(?:[/?]|$)")
_CHANCE_BITS: Final = 96
_MASK: Final = 0xFFFFFFFF

# Responses that a retry took to another endpoint than their id says, and sessions: about 200 bytes each.
MOST_MOVED: Final = 10_000
MOST_SESSIONS: Final = 100_000
# Seconds after which nothing of a session is left in an engine's cache that is worth staying for.
SESSION_IDLE: Final = 1800.0
_DIGEST_BYTES: Final = 12


class Sticky(NamedTuple):
    """What became of a request that belongs somewhere: `by` is `response` or `session`."""

    by: str
    end: str  # `kept`: it went there; `moved`: elsewhere; `unknown`: nobody knows where


class ResponseIds:
    """Ids for responses. `chance` must be unpredictable: who knows an id can ask for its response."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._moved: OrderedDict[str, str] = OrderedDict()

    def new(self, address: str) -> str:
        """An id for a response that the engine at `address` will make."""
        drawn = f"{self._chance.getrandbits(_CHANCE_BITS):024x}"
        return f"resp_{drawn}{_tag(address) ^ _veil(drawn):08x}"

    def home(self, response_id: str, addresses: Collection[str]) -> str | None:
        """The one of `addresses` that made the response. None: none of them did, or the id is not one of ours."""
        moved = self._moved.get(response_id)
        if moved is not None:
            return moved if moved in addresses else None
        found = _RESPONSE.fullmatch(response_id)
        if found is None:
            return None
        wanted = int(found[2], 16) ^ _veil(found[1])
        return next((address for address in addresses if _tag(address) == wanted), None)

    def moved(self, response_id: str, address: str) -> None:
        """A retry took the request there."""
        self._moved[response_id] = address
        if len(self._moved) > MOST_MOVED:
            self._moved.popitem(last=False)


def named_in(path: str | None) -> str | None:
    """The response that a path is about, as in `GET /v1/responses/resp_...`."""
    found = _IN_PATH.search(path) if path is not None and "/responses/" in path else None
    return found[1] if found is not None else None


def with_id(body: bytes, response_id: str) -> bytes:
    """A JSON object that is not empty, and names no `request_id`, with that one."""
    brace = body.index(b"{") + 1
    return b'%s"request_id":"%s",%s' % (body[:brace], response_id.encode(), body[brace:])


@lru_cache(4096)
def _tag(address: str) -> int:
    return xxhash.xxh3_64_intdigest(address.encode()) & _MASK


def _veil(drawn: str) -> int:
    """Makes ids of one endpoint look unlike each other."""
    return xxhash.xxh3_64_intdigest(drawn.encode(), 1) & _MASK


class Sessions:
    """Where each session's last request went, and what it left there. `salt`: 16 random bytes or more."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._stays: OrderedDict[bytes, tuple[Stay, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stays)

    def key(self, pool: str, session: str) -> bytes:
        """What the session of that pool is known by here."""
        text = f"{pool}\0{session}".encode("utf-8", "surrogateescape")
        return blake2b(text, key=self._salt, digest_size=_DIGEST_BYTES).digest()

    def find(self, key: bytes, now: float) -> Stay | None:
        """Where its last request went; None after SESSION_IDLE without one."""
        found = self._stays.get(key)
        return found[0] if found is not None and now < found[1] else None

    def keep(self, key: bytes, stay: Stay, now: float) -> None:
        """A request of it went there."""
        self._stays[key] = stay, now + SESSION_IDLE
        self._stays.move_to_end(key)
        if len(self._stays) > MOST_SESSIONS:
            self._stays.popitem(last=False)


class Homes:
    """Both: where responses are kept, and where sessions were last."""

    def __init__(self, secret: Random) -> None:
        self.responses = ResponseIds(secret)
        self.sessions = Sessions(secret.randbytes(32))

    def of(self, response_id: str, among: Iterable[Ledger]) -> str | None:
        """Which of these endpoints made the response."""
        return self.responses.home(response_id, [ledger.endpoint.address for ledger in among])

    def stuck(
        self, previous: str, ledgers: Iterable[Ledger], session: bytes | None, ask: Ask, chosen: str, now: float
    ) -> tuple[Sticky, ...]:
        """A request was placed at `chosen`, one of `ledgers`: remember where its session is now.

        `previous`: the response that it is about, or "". Returns what became of what it belongs to.
        """
        ends: tuple[Sticky, ...] = ()
        if previous:
            ends = (Sticky("response", _end(self.of(previous, ledgers), chosen)),)
        if session is not None:
            ends += (Sticky("session", _end(ask.stay.address if ask.stay is not None else None, chosen)),)
            self.sessions.keep(session, Stay(chosen, ask.prompt_tokens + ask.output_tokens), now)
        return ends


def _end(home: str | None, chosen: str) -> str:
    return "unknown" if home is None else "kept" if home == chosen else "moved"
