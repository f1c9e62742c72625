"""The picker's own view of load: one ledger for each endpoint, one lease for each request that was placed.

An endpoint's load is what its engine last said, plus what we sent since, minus what ended since. With `own` for what
we have in flight, and `mark` for what that was when the scrape began, this is `engine + (own - mark)`: so a ledger
keeps `engine - mark` (the load that is not ours; below zero where our estimate was too high) and adds its exact own
integers. Every number a policy reads is brought up to date when something changes, so that a pick only reads.

No I/O, no clock: `now` is an argument. One event loop, no locks. The scraper calls `Ledgers` as its sink, the
scheduler reserves, the stream's end closes the lease.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from igw_extproc.cache_trust import CacheTrust, Expectation, Expected
from igw_extproc.domain import Ask, Endpoint, EngineKind, EngineLoad
from igw_extproc.seats import Seats
from igw_extproc.speeds import FULL_CACHE, PER_REQUEST, PREFILL_S, STEP_S, Decode, Prefill

# Seconds after which the engine's word may no longer make an endpoint look emptier than our own accounting does.
# Five of the slowest regular scrapes (1 s), so one lost scrape changes nothing.
STALE_AFTER = 5.0
# KV tokens of an engine that does not tell its capacity: a mid-size model on one data-centre GPU. Too small would
# spread by room what does fit; too large only leaves queueing to be seen in the requests in flight.
DEFAULT_KV_CAPACITY = 100_000
# Tokens of a request in an engine to which we have sent none yet: others' queue there must cost something.
DEFAULT_REQUEST_TOKENS = 500.0
# Weight of the newest request in the running mean of request sizes: a memory of about thirty requests.
_MEAN_GAIN = 1 / 32


class Mark(NamedTuple):
    """What we had in flight when a scrape began. Opaque to the scraper."""

    ledger: "Ledger"
    requests: int
    kv_tokens: int
    backlog_tokens: int
    sequence: int
    expected: Expected = Expected()


@dataclass(slots=True, eq=False)
class Ledger:
    """One endpoint's load. Policies read the public numbers; only leases and the scraper's sink change them."""

    endpoint: Endpoint
    slot: int = 0  # a small number, unique among live ledgers
    available: bool = False  # the engine answered its last scrape
    unreachable_reason: str | None = None
    load: EngineLoad | None = None
    scraped_at: float | None = None
    stale_at: float = math.inf  # from then on the engine's word may not lower the load
    requests: int = 0  # ours in flight
    held: int = 0  # of these, those that wait in the picker: they have their place there, but its engine knows of none
    held_kv: int = 0  # their KV tokens
    held_backlog: int = 0  # their uncached prompt tokens
    adapters: dict[str, int] = field(default_factory=dict)  # ours in flight, by adapter
    queued: float = 0.0  # requests in the engine, running and waiting, whoever sent them
    backlog_tokens: float = 0.0  # uncached prompt tokens that no first byte has answered yet
    kv_capacity: int = DEFAULT_KV_CAPACITY
    kv_tokens: float = 0.0  # KV tokens that requests hold or will need, queued ones included
    kv_free: float = 0.0  # capacity less `kv_tokens`; below zero when requests must queue for room
    kv_load: float = 0.0  # `kv_tokens` as a share of the capacity, 0 and up
    wait_s: float = 0.0  # seconds until the backlog is computed
    step_s: float = 0.0  # seconds that each output token takes longer here than in an idle engine of the pool
    prefill_s: float = PREFILL_S  # seconds for one prompt token
    prefill: Prefill = field(default_factory=Prefill)
    decode: Decode = field(default_factory=Decode)
    trust: CacheTrust = field(default_factory=CacheTrust)
    seats: Seats = field(default_factory=Seats)
    doubts: dict[int, float] = field(default_factory=dict)  # by slot: those whose `trust` is below 1
    _kv_tokens: int = 0
    _backlog_tokens: int = 0
    _other_kv: float = 0.0
    _other_requests: float = 0.0
    _other_backlog: float = 0.0
    _mean_kv: float = DEFAULT_REQUEST_TOKENS
    _mean_uncached: float = DEFAULT_REQUEST_TOKENS
    _sequence: int = 0
    _replaced_up_to: int = 0
    _sees_first_bytes: bool = False  # until a lease tells one: not every proxy shows us responses
    _unseen: dict[int, "Lease"] = field(default_factory=dict)  # of which only the end will be seen, by sequence
    _computed_tokens: int = 0  # uncached prompt tokens of ours answered since the last scrape
    _slower: float = 1.0
    _base_s: float = STEP_S

    def __post_init__(self) -> None:
        """Bring the derived numbers in line."""
        self._settle()

    def reserve(
        self, ask: Ask, cached: int, now: float, expectation: Expectation | None = None, matched: int | None = None
    ) -> "Lease":
        """Count `ask` against this endpoint, before the caller yields to the event loop.

        `matched`: prompt tokens that the prefix index says are in the cache, before trust; by default `cached`.
        """
        return Lease(self, ask, cached, now, expectation, cached if matched is None else matched)

    def scrape_started(self) -> Mark:
        """What is in flight now; hand it back with the engine's answer."""
        kv_tokens, backlog_tokens = self._kv_tokens - self.held_kv, self._backlog_tokens - self.held_backlog
        requests = self.requests - self.held
        return Mark(self, requests, kv_tokens, backlog_tokens, self._sequence, self.trust.expected)

    def scraped(self, mark: Mark, load: EngineLoad, now: float) -> None:
        """Take the engine's word, as of the moment the scrape began."""
        self.available, self.unreachable_reason = True, None
        self._observe(load, now)
        self.load = load
        self.scraped_at, self.stale_at = now, now + STALE_AFTER
        self.kv_capacity = load.kv_capacity_tokens or DEFAULT_KV_CAPACITY
        if load.engine is EngineKind.UNKNOWN:
            self._drop_engine_word()
        else:
            self._take_engine_word(mark, load)
            self.seats.told(load, self.kv_capacity, self._mean_kv)
            if load.waiting < 1.0:
                self._all_begun(mark.sequence)
            self.trust.told(mark.expected, load)
            self.doubt()
        self._settle()

    def unreachable(self, reason: str) -> None:
        """Not a candidate until it answers again. Our requests there stay counted until they end."""
        self.available, self.unreachable_reason, self.load = False, reason, None
        self._drop_engine_word()
        self._settle()

    def first_token_s(self, ask: Ask, cached_tokens: int) -> float:
        """Predicted seconds until the first token of `ask`, if it were placed here now.

        What is in its way and its own prompt, the step under way and its own; and where it does not fit, the time until
        enough of what runs has ended, which frees its KV evenly over an answer's time.
        """
        step = self._slower * self._base_s * (1.0 + FULL_CACHE * min(self.kv_load, 1.0))
        uncached = max(ask.prompt_tokens - cached_tokens, 0)
        short = uncached + ask.output_tokens - self.kv_free
        room = short / self.kv_tokens * ask.output_tokens * step if short > 0.0 < self.kv_tokens else 0.0
        return self.wait_s + uncached * self.prefill_s + 1.5 * step + room

    def paced(self, prefill_s: float, slower: float, base_s: float) -> None:
        """Its speed: seconds for a prompt token; how its decode steps compare to the pool's, which take `base_s`."""
        if (prefill_s, slower, base_s) != (self.prefill_s, self._slower, self._base_s):
            self.prefill_s, self._slower, self._base_s = prefill_s, slower, base_s
            self._settle()

    def age(self, now: float) -> None:
        """Let a word that is too old no longer lower the load below our own accounting."""
        if now < self.stale_at:
            return
        self.stale_at = math.inf
        self._other_kv = max(self._other_kv, 0.0)
        self._other_requests = max(self._other_requests, 0.0)
        self._other_backlog = max(self._other_backlog, 0.0)
        self._settle()

    def _observe(self, load: EngineLoad, now: float) -> None:
        """Learn from the counters how fast it decodes."""
        before, made = self.load, load.generation_tokens_total
        computed, self._computed_tokens = self._computed_tokens, 0
        if before is None or self.scraped_at is None or made is None or before.generation_tokens_total is None:
            return
        tokens = made - before.generation_tokens_total
        if tokens >= 0.0 and now > self.scraped_at:
            sequences = (before.running + load.running) / 2
            used = ((before.kv_usage or 0.0) + (load.kv_usage or 0.0)) / 2
            prefill_s = computed * self.prefill_s if load.waiting < 1.0 else math.inf
            self.decode.observed(now - self.scraped_at, tokens, sequences, used, prefill_s)

    def doubt(self) -> None:
        """Say for the prefix index what it is worth here."""
        if self.trust.value < 1.0:
            self.doubts[self.slot] = self.trust.value
        else:
            self.doubts.pop(self.slot, None)

    def forget_cache(self) -> None:
        """Another process, with a cache of its own: nothing is known of it."""
        self.trust, self.seats = CacheTrust(), Seats()
        self.doubt()

    def _take_engine_word(self, mark: Mark, load: EngineLoad) -> None:
        self._other_requests = load.running + load.waiting - mark.requests
        if load.kv_usage is None:
            self._other_kv = max(self._other_requests, 0.0) * self._mean_kv
        else:
            # The engine counts no KV for what still waits: without that, every full engine looks equally full.
            self._other_kv = load.kv_usage * self.kv_capacity + load.waiting * self._mean_kv - mark.kv_tokens
        backlog = load.waiting * self._mean_uncached - mark.backlog_tokens
        if self._sees_first_bytes:
            # We know exactly which of ours are unanswered; the engine only tells of others' above that.
            self._other_backlog = max(backlog, 0.0)
            self._replaced_up_to = 0
        else:
            # Ours look unanswered until they end, so the engine's queue stands for all sent before the scrape.
            self._other_backlog = backlog
            self._replaced_up_to = mark.sequence

    def _all_begun(self, sequence: int) -> None:
        """Nothing waits there: of what was sent before, prompts are computed. Where no stream shows it, this does."""
        for number in [one for one in self._unseen if one <= sequence]:
            if not (lease := self._unseen.pop(number)).held:
                self._answered(lease)

    def _drop_engine_word(self) -> None:
        self.stale_at = math.inf
        self._other_kv = self._other_requests = self._other_backlog = 0.0
        self._replaced_up_to = 0

    def _settle(self) -> None:
        """Bring all derived numbers in line."""
        kv = self._other_kv + self._kv_tokens
        self.kv_tokens = kv if kv > 0.0 else 0.0
        self.kv_free = self.kv_capacity - self.kv_tokens
        self.kv_load = self.kv_tokens / self.kv_capacity
        queued = self._other_requests + self.requests
        self.queued = queued if queued > 0.0 else 0.0
        fuller = 1.0 + FULL_CACHE * self.kv_load + PER_REQUEST * self.queued
        self.step_s = (self._slower * fuller - 1.0) * self._base_s
        self._settle_backlog()

    def _settle_backlog(self) -> None:
        """The same where nothing but the backlog has changed."""
        backlog = self._other_backlog + self._backlog_tokens
        self.backlog_tokens = backlog if backlog > 0.0 else 0.0
        self.wait_s = self.backlog_tokens * self.prefill_s

    def _add(self, lease: "Lease") -> None:
        self._number(lease)
        self.requests += 1
        self._kv_tokens += lease.kv_tokens
        self._backlog_tokens += lease.backlog_tokens
        self._mean_kv += _MEAN_GAIN * (lease.kv_tokens - self._mean_kv)
        self._mean_uncached += _MEAN_GAIN * (lease.uncached_tokens - self._mean_uncached)
        adapter = lease.ask.adapter
        if adapter is not None:
            self.adapters[adapter] = self.adapters.get(adapter, 0) + 1
        self._settle()

    def _number(self, lease: "Lease") -> None:
        self._unseen.pop(lease.sequence, None)
        lease.sequence = self._sequence = self._sequence + 1
        if lease.backlog_tokens and not lease.ask.streams:
            self._unseen[lease.sequence] = lease

    def _first_byte(self, lease: "Lease") -> None:
        self._sees_first_bytes = True
        self._computed_tokens += lease.backlog_tokens
        self._answered(lease)
        self._settle_backlog()

    def _answered(self, lease: "Lease") -> None:
        tokens, lease.backlog_tokens = lease.backlog_tokens, 0
        self._backlog_tokens -= tokens
        if lease.sequence <= self._replaced_up_to:
            # The engine's own queue has stood for this request since the last scrape: its end changes nothing.
            self._other_backlog += tokens

    def _hold(self, lease: "Lease", sign: int) -> None:
        self.held += sign
        self.held_kv += sign * lease.kv_tokens
        self.held_backlog += sign * lease.backlog_tokens

    def _remove(self, lease: "Lease") -> None:
        if lease.held:
            lease.go()
            self._number(lease)
        self._answered(lease)
        self._unseen.pop(lease.sequence, None)
        self.requests -= 1
        self._kv_tokens -= lease.kv_tokens
        adapter = lease.ask.adapter
        if adapter is not None:
            self.adapters[adapter] -= 1
            if not self.adapters[adapter]:
                del self.adapters[adapter]
        self._settle()


class Lease:
    """One placed request's share of a ledger, until it ends. Calls may come in any order and more than once."""

    __slots__ = (
        "_ahead",
        "_answered",
        "_expectation",
        "_open",
        "ask",
        "backlog_tokens",
        "held",
        "kv_tokens",
        "ledger",
        "matched_tokens",
        "reserved_at",
        "sequence",
        "uncached_tokens",
    )

    def __init__(
        self, ledger: Ledger, ask: Ask, cached: int, now: float, expectation: Expectation | None, matched: int
    ) -> None:
        self.ledger = ledger
        self.matched_tokens = matched
        self.ask = ask
        self.reserved_at = now
        self.sequence = 0
        self.held = False
        self._open = True
        self._answered = False
        self._expectation = expectation
        self._charge(cached)

    def hold(self) -> None:
        """The request waits in the picker for its place there."""
        self.held = True
        self.ledger._hold(self, 1)

    def go(self) -> None:
        """It need not wait: the engine gets it in the same step that has reserved its place."""
        self.held = False
        self.ledger._hold(self, -1)

    def send(self, now: float) -> None:
        """It waits no longer: the engine gets it now."""
        if self.held:
            self.go()
            self.ledger._number(self)
            self.reserved_at = now
            self._look_ahead()

    def first_byte(self, now: float, succeeded: bool = True) -> None:
        """The endpoint began to answer, well or not: its prompt is computed, and the index may learn."""
        if not self._open or self._answered:
            return
        self._answered = True
        self.ledger.age(now)
        if self._ahead and succeeded and self.ask.streams:
            self.ledger.prefill.answered(self._ahead, now - self.reserved_at, self.ledger.prefill_s)
        self.ledger._first_byte(self)
        self._learn(succeeded)

    def close(self, now: float, succeeded: bool = True) -> None:
        """The request is over. `succeeded` tells the index what no first byte has told it."""
        if not self._open:
            return
        self._open = False
        self.ledger.age(now)
        self.ledger._remove(self)
        self._learn(succeeded)

    def forget(self) -> None:
        """It is over, and kept without what grows with its prompt."""
        self.ask = self.ask._replace(prefix=())

    def moved_to(self, other: Ledger) -> None:
        """The proxy retried on `other`, where nothing is known to be cached."""
        if not self._open or other is self.ledger:
            return
        self.ledger._remove(self)
        self.ledger = other
        self.matched_tokens = 0
        self._charge(0)
        self._ahead = 0  # it was not there all the time
        if self._expectation is not None:
            self._expectation = self._expectation.moved(other.slot, other.kv_capacity)

    def counted(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The engine's own count for this request: how much of its prompt it found in its cache."""
        self.ledger.trust.counted(self.ask.prompt_tokens, self.matched_tokens, prompt_tokens, cached_tokens)
        self.ledger.doubt()

    def _charge(self, cached_tokens: int) -> None:
        ask = self.ask
        uncached = ask.prompt_tokens - cached_tokens
        self.uncached_tokens = uncached if uncached > 0 else 0
        # Cached blocks are in the engine's memory already, mostly held by requests that share them.
        self.kv_tokens = self.uncached_tokens + ask.output_tokens
        self.backlog_tokens = 0 if self._answered else self.uncached_tokens
        self.ledger._add(self)
        self._look_ahead()

    def _look_ahead(self) -> None:
        """What the first byte will have waited for, where nothing but prompts is in the way: 0 where it is not."""
        ledger, load = self.ledger, self.ledger.load
        fits = self.uncached_tokens > 0 and ledger.kv_free + ledger.held_kv >= 0.0
        alone = fits and (load is None or load.waiting < 1.0)
        self._ahead = round(ledger.backlog_tokens) - ledger.held_backlog if alone else 0

    def _learn(self, succeeded: bool) -> None:
        expectation, self._expectation = self._expectation, None
        if expectation is None:
            return
        if succeeded:
            self.ledger.trust.answered(self.ask.prompt_tokens, self.matched_tokens)
            expectation.confirm()
        else:
            expectation.withdraw()
