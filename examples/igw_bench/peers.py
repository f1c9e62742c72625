"""The rules of other routers, from their published descriptions: baselines for the benchmark, no part of the product.

A rule turns what its router would know of each endpoint into costs; the lowest wins. What the routers have in common
is done once here, in their favour: a pick counts at once, ties go at random, retries walk the order of costs, and a
dead endpoint is left out as soon as ours would. Blocks are the engine's own. Called by `policies` through `Placer`.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import fmean, pstdev

from igw_bench.placers import Holds
from igw_bench.workloads import Job, Workload
from igw_extproc.domain import EngineLoad

# Seconds between looks at an endpoint whose metrics the rule does not read.
_SELDOM = 1.0
_RETRY_UNREACHABLE = 0.2


@dataclass(slots=True)
class Seen:
    """One endpoint as such a router sees it."""

    available: bool = False
    waiting: float = 0.0  # scraped
    kv_usage: float = 0.0  # scraped, 0..1
    requests: int = 0  # sent and not ended
    prefill_tokens: int = 0  # uncached prompt tokens sent that no first byte has answered
    active: Counter[int] = field(default_factory=Counter)  # blocks of the prompts of those requests, by hash
    unshared: int = 0  # and blocks without a hash

    @property
    def active_blocks(self) -> int:
        """A block that several requests share is counted once."""
        return len(self.active) + self.unshared


# The endpoints, the leading blocks of the prompt that each is believed to hold, the request, the tokens of a block.
Rule = Callable[[Sequence[Seen], Sequence[int], Job, int], list[float]]


def reference_picker(seen: Sequence[Seen], matched: Sequence[int], job: Job, block: int) -> list[float]:
    """The llm-d inference scheduler's default profile: queue 2, free KV 2, prefix 3, on a page 50 ms old at most.

    Fewest waiting is worth 1 and most 0; free KV is its share; the prefix is the share of the prompt's first 4,096
    tokens: 256 blocks of 16.
    """
    longest, shortest = max(one.waiting for one in seen), min(one.waiting for one in seen)
    spread = longest - shortest
    blocks = -(-min(job.prompt_tokens, _REFERENCE_TOKENS) // block)
    return [
        -2.0 * ((longest - one.waiting) / spread if spread else 1.0) - 2.0 * (1.0 - one.kv_usage) - 3.0 * hit / blocks
        for one, hit in zip(seen, matched, strict=True)
    ]


_REFERENCE_TOKENS = 4_096


def sglang(seen: Sequence[Seen], matched: Sequence[int], job: Job, block: int) -> list[float]:
    """SGLang's cache-aware rule with its defaults: 0.3, 64, 1.5.

    Fewest requests when they differ by more than 64 and by half. Otherwise the longest match if it is above 30 % of the
    prompt, else fewest requests.
    """
    requests = [float(one.requests) for one in seen]
    most, fewest = max(requests), min(requests)
    if (most - fewest > 64 and most > 1.5 * fewest) or max(matched) * block <= 0.3 * job.prompt_tokens:
        return requests
    # Of equal matches, the one with fewest requests.
    return [count / (most + 1.0) - hit for count, hit in zip(requests, matched, strict=True)]


def dynamo(seen: Sequence[Seen], matched: Sequence[int], job: Job, block: int) -> list[float]:
    """Dynamo's cost in blocks: prompt to compute there, this one's cached blocks deducted, and KV blocks in use after.

    The weight of requests and the temperature are 0. It is told of the engines' caches by events, here at once.
    """
    own = job.blocks[: job.prompt_tokens // block]
    unshared = job.prompt_tokens // block - len(own)
    return [
        max(0.0, (one.prefill_tokens + job.prompt_tokens) / block - hit)
        + one.active_blocks
        + unshared
        + sum(name not in one.active for name in own)
        for one, hit in zip(seen, matched, strict=True)
    ]


def aibrix(seen: Sequence[Seen], matched: Sequence[int], job: Job, block: int) -> list[float]:
    """AIBrix's prefix rule as coded: 8 requests of imbalance, one standard deviation.

    When requests differ by more than 8, only those with fewest are looked at. The longest match goes first, then fewest
    requests; the first that has no more than the mean and one deviation gets it. No match: fewest requests.
    """
    requests = [float(one.requests) for one in seen]
    fewest, most = min(requests), max(requests)
    if most - fewest > 8:
        allowed = [count == fewest for count in requests]
    else:
        limit = fmean(requests) + pstdev(requests)
        allowed = [count <= limit for count in requests]
    return [
        count / (most + 1.0) - hit if good else most + 1.0 + count
        for count, hit, good in zip(requests, matched, allowed, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Peer:
    """A rule and what its router keeps.

    `table_tokens`: how much of what it sent to one endpoint it remembers; None: it is told by events, and counts the
    blocks of its active requests. `most_tokens`: how far into a prompt it looks.
    """

    rule: Rule
    scrape_s: float = _SELDOM
    table_tokens: Callable[[Workload], int] | None = None
    most_tokens: int = 1 << 30


PEERS = {
    # Its table is as large as the engine's cache.
    "reference": Peer(reference_picker, 0.05, lambda load: load.fleet[0].limits.kv_tokens, _REFERENCE_TOKENS),
    # 2^26 characters: more than any run here sends.
    "sglang": Peer(sglang, table_tokens=lambda load: 1 << 24),
    "dynamo": Peer(dynamo),
    # 200,000 blocks in all, taken as 16 tokens each. At its default of four bytes they would hold less than one engine.
    "aibrix": Peer(aibrix, table_tokens=lambda load: 200_000 * 16 // len(load.fleet)),
}


class Table:
    """Which blocks went where, least recently used out first at each endpoint; learnt at the pick."""

    def __init__(self, endpoints: int, capacity: int) -> None:
        self._capacity = capacity
        self._holders: dict[int, int] = {}
        self._held: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(endpoints)]

    def match(self, blocks: Sequence[int]) -> list[int]:
        """Leading blocks of these at each endpoint."""
        found = [0] * len(self._held)
        alive = (1 << len(found)) - 1
        for count, name in enumerate(blocks):
            still = alive & self._holders.get(name, 0)
            self._stop(found, alive & ~still, count)
            alive = still
            if not alive:
                return found
        self._stop(found, alive, len(blocks))
        return found

    def add(self, endpoint: int, blocks: Sequence[int]) -> None:
        """They were sent there."""
        held, bit = self._held[endpoint], 1 << endpoint
        for name in reversed(blocks):
            held[name] = None
            held.move_to_end(name)
            self._holders[name] = self._holders.get(name, 0) | bit
        while len(held) > self._capacity:
            self._drop(held.popitem(last=False)[0], bit)

    def forget(self, endpoint: int) -> None:
        """The engine is gone."""
        for name in self._held[endpoint]:
            self._drop(name, 1 << endpoint)
        self._held[endpoint].clear()

    def _drop(self, name: int, bit: int) -> None:
        left = self._holders[name] & ~bit
        if left:
            self._holders[name] = left
        else:
            del self._holders[name]

    @staticmethod
    def _stop(found: list[int], slots: int, count: int) -> None:
        while slots:
            low = slots & -slots
            found[low.bit_length() - 1] = count
            slots ^= low


@dataclass(slots=True)
class _Flight:
    """One request's share of what is seen."""

    endpoint: int
    uncached: int
    blocks: tuple[int, ...]
    unshared: int
    answered: bool = False


class Theirs:
    """A `Placer` by one of these rules. `seen`: every endpoint, in order."""

    def __init__(self, peer: Peer, workload: Workload, rng: Random, holds: Holds) -> None:
        self._peer = peer
        self._rng = rng
        self._holds = holds
        self._block = workload.fleet[0].limits.block_tokens
        self.seen = [Seen() for _ in workload.fleet]
        capacity = peer.table_tokens(workload) if peer.table_tokens is not None else 0
        self._table = Table(len(workload.fleet), capacity // self._block)
        self._most_blocks = peer.most_tokens // self._block
        self._flights: dict[int, _Flight] = {}

    def place(self, job: Job, now: float) -> Sequence[int]:
        """Cost, choose, count."""
        among = [at for at, one in enumerate(self.seen) if one.available]
        if not among:
            return ()
        blocks = job.blocks[: job.prompt_tokens // self._block]
        matched = self._match(blocks)
        costs = self._peer.rule([self.seen[at] for at in among], [matched[at] for at in among], job, self._block)
        ranked = sorted((cost, self._rng.random(), at) for cost, at in zip(costs, among, strict=True))
        self._count(job, blocks, ranked[0][2], matched)
        return [at for _, _, at in ranked[:3]]

    def _match(self, blocks: tuple[int, ...]) -> list[int]:
        if self._peer.table_tokens is None:
            return [self._holds(at, blocks) for at in range(len(self.seen))]
        return self._table.match(blocks[: self._most_blocks])

    def _count(self, job: Job, blocks: tuple[int, ...], endpoint: int, matched: Sequence[int]) -> None:
        uncached = max(0, job.prompt_tokens - matched[endpoint] * self._block)
        unshared = job.prompt_tokens // self._block - len(blocks)
        if self._peer.table_tokens is not None:
            self._table.add(endpoint, blocks[: self._most_blocks])
            blocks = ()
        flight = self._flights[job.number] = _Flight(endpoint, uncached, blocks, unshared)
        self._enter(flight)

    def _enter(self, flight: _Flight) -> None:
        seen = self.seen[flight.endpoint]
        seen.requests += 1
        seen.prefill_tokens += flight.uncached
        seen.unshared += flight.unshared
        seen.active.update(flight.blocks)

    def _leave(self, flight: _Flight) -> None:
        self._answer(flight)
        seen = self.seen[flight.endpoint]
        seen.requests -= 1
        seen.unshared -= flight.unshared
        for name in flight.blocks:
            if seen.active[name] == 1:
                del seen.active[name]
            else:
                seen.active[name] -= 1

    def _answer(self, flight: _Flight) -> None:
        if not flight.answered:
            self.seen[flight.endpoint].prefill_tokens -= flight.uncached
        flight.answered = True

    def moved(self, job: Job, endpoint: int) -> None:
        """The request counts there instead."""
        flight = self._flights[job.number]
        self._leave(flight)
        flight.endpoint, flight.answered = endpoint, False
        self._enter(flight)

    def first_byte(self, job: Job, now: float) -> None:
        """Its prompt is computed."""
        self._answer(self._flights[job.number])

    def ended(self, job: Job, now: float, succeeded: bool) -> None:
        """It counts no more."""
        self._leave(self._flights.pop(job.number))

    def scrape_started(self, endpoint: int) -> object:
        """Nothing is corrected for what was in flight."""
        return None

    def scraped(self, endpoint: int, mark: object, load: EngineLoad, now: float) -> float:
        """The page replaces the one before."""
        seen = self.seen[endpoint]
        seen.available, seen.waiting, seen.kv_usage = True, load.waiting, load.kv_usage or 0.0
        return self._peer.scrape_s

    def unreachable(self, endpoint: int, now: float) -> float:
        """Not a candidate until it answers; its cache is lost."""
        self.seen[endpoint].available = False
        self._table.forget(endpoint)
        return _RETRY_UNREACHABLE
