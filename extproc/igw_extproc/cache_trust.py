"""How far an engine's prefix cache can be relied on: what it found in it, compared with what the picker expected there.

An engine may have its cache turned off, or keep less than the prefix index believes. Then what the index expects there
is worth less, down to nothing. Pure, no clock: evidence fades as newer comes. One for each ledger, which feeds it.

Two kinds of evidence. Responses tell exactly, for the requests whose usage is seen. Pages tell for all: tokens found
since the last page, whoever's. Of the pages we take the kinder reading, the count itself or the share of what was
looked up, since others' requests and other units can only blur it.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from igw_extproc.domain import EngineLoad

# Expected tokens, below which nothing is concluded: a handful of system prompts.
ENOUGH: Final = 4_000.0
# Expected tokens after which evidence counts half: the last hundred or so such prompts decide.
WINDOW: Final = 40_000.0
# From this share on, all is well: tokens are estimated from bytes, and engines reuse whole blocks only.
GOOD: Final = 0.8


class Expectation(Protocol):
    """What the prefix index believes because of one lease. The first call settles it; later ones do nothing."""

    def confirm(self) -> None:
        """The endpoint answered: it holds the prefix."""

    def withdraw(self) -> None:
        """The endpoint failed: forget what only this lease had suggested."""

    def moved(self, slot: int, kv_capacity: int) -> "Expectation":
        """The request went to another endpoint: withdraw here, expect there."""


class Expected(NamedTuple):
    """Of all requests answered so far: prompt tokens, and those expected in the cache."""

    prompt: float = 0.0
    cached: float = 0.0


@dataclass(slots=True)
class _Evidence:
    """Fading sums, in tokens: expected and found, and out of how many."""

    expected: float = 0.0
    prompt: float = 0.0
    found: float = 0.0
    looked_up: float = 0.0

    def add(self, expected: float, prompt: float, found: float, looked_up: float) -> None:
        self.expected += expected
        self.prompt += prompt
        self.found += found
        self.looked_up += looked_up
        if self.expected > WINDOW:
            self.expected /= 2
            self.prompt /= 2
            self.found /= 2
            self.looked_up /= 2

    @property
    def share(self) -> float | None:
        """How much of what was expected was found. None: too little is known."""
        if self.expected < ENOUGH:
            return None
        share = self.found / self.expected
        if self.looked_up > 0.0:
            share = max(share, self.found / self.looked_up * self.prompt / self.expected)
        return share


class CacheTrust:
    """One engine's. `value` is from 0 to 1: what an expected token is worth."""

    __slots__ = ("_cached", "_compared", "_hits", "_pages", "_prompt", "_queries", "_responses", "value")

    def __init__(self) -> None:
        self.value = 1.0
        self._prompt = self._cached = 0
        self._compared = Expected()
        self._hits: float | None = None
        self._queries: float | None = None
        self._pages = _Evidence()
        self._responses = _Evidence()

    @property
    def expected(self) -> Expected:
        """What is expected so far: to be handed back with the page that is asked for now."""
        return Expected(self._prompt, self._cached)

    def answered(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The engine has computed a prompt of which so many tokens were expected in its cache."""
        self._prompt += prompt_tokens
        self._cached += cached_tokens

    def counted(self, prompt_tokens: int, cached_tokens: int, counted: int, found: int) -> None:
        """The same, where the engine tells of this request: `found` of `counted` prompt tokens were in its cache."""
        if cached_tokens <= 0 or counted <= 0:
            return
        # In our estimate's tokens; what it found beyond our expectation does not make up for other requests.
        ours = min(found * prompt_tokens / counted, float(cached_tokens))
        self._responses.add(cached_tokens, 0.0, ours, 0.0)
        self._settle()

    def told(self, expected: Expected, load: EngineLoad) -> None:
        """The engine's page. `expected`: as of the moment it was asked for."""
        if not load.caches_prefixes:
            self.value = 0.0
            return
        prompt, cached = (now - before for now, before in zip(expected, self._compared, strict=True))
        self._compared = expected
        hits, queries = load.cache_hits_total, load.cache_queries_total
        last_hits, last_queries = self._hits, self._queries
        self._hits, self._queries = hits, queries
        if hits is None:
            if load.cache_hit_rate is None:
                return
            # Of the last moments only, so it stands for what was expected in them.
            self._pages.add(cached, prompt, load.cache_hit_rate * prompt, prompt)
        elif last_hits is None or hits < last_hits:
            return
        else:
            looked_up = queries - last_queries if queries is not None and last_queries is not None else 0.0
            self._pages.add(cached, prompt, hits - last_hits, max(looked_up, 0.0))
        self._settle()

    def _settle(self) -> None:
        share = self._responses.share
        if share is None:
            share = self._pages.share
        if share is not None:
            self.value = share if share < GOOD else 1.0
