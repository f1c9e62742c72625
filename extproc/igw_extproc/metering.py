"""What pools and API keys have used of their limits, and who must wait before asking for more. Pure.

Called by `admission` for pools with limits, before anything else is done for a request: first `charge`, for its key,
then `enter`, for its pool. The charge then goes with the request and is closed once: with what it really used, or given
back. `now` is an argument, in seconds of any one clock; keys are digests (`flowcontrol.tenants`).

Keys are the client's word where nobody checks them, so what is remembered of them is bounded. A key whose buckets are
full again is forgotten without loss. When there are too many others, the one goes that would be full first: whoever
wants a used-up key forgotten must use up `MOST_KEYS` others as far.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from heapq import heappop, heappush, heapreplace
from typing import Final

from igw_api import wire
from igw_api.limits import KeyLimits, Limits
from igw_extproc.bucket import Bucket, Size
from igw_extproc.errors import OverLimit

# API keys, each with each model that it asks for, that are remembered. About 500 bytes each.
MOST_KEYS: Final = 20_000
_MINUTE: Final = 60.0
# When somebody of the pool has ended cannot be known.
_SOON: Final = 1.0


class Limit(StrEnum):
    """Which limit was reached: low cardinality, a metric label."""

    KEY_REQUESTS = "key-requests"
    KEY_TOKENS = "key-tokens"
    POOL_REQUESTS = "pool-requests"
    POOL_CONCURRENT = "pool-concurrent"


@dataclass(frozen=True, slots=True)
class PoolUse:
    """One pool's numbers."""

    refused: dict[str, int]  # by `Limit`
    concurrent: int


@dataclass(frozen=True, slots=True)
class MeterStatistics:
    """All numbers at one moment. `pools`: those that have been asked."""

    pools: dict[str, PoolUse]
    keys: int  # that are remembered
    forgotten: int  # before their time


class _Pool:
    """What a pool has taken."""

    __slots__ = ("concurrent", "refused", "requests")

    def __init__(self) -> None:
        self.concurrent = 0
        self.requests = Bucket()
        self.refused = dict.fromkeys((one.value for one in Limit), 0)


class _Key:
    """What an API key has used of one model."""

    __slots__ = ("requests", "tokens")

    def __init__(self) -> None:
        self.requests = Bucket()
        self.tokens = Bucket()

    @property
    def full_at(self) -> float:
        """From then on it is like a new one."""
        return max(self.requests.full_at, self.tokens.full_at)


class Charge:
    """What one request has taken. Closed once by `ended` or `refund`; after that nothing changes any more."""

    __slots__ = ("_key", "_limits", "_pool", "_tokens", "open")

    def __init__(self, pool: _Pool, key: _Key | None, limits: KeyLimits | None, tokens: int) -> None:
        self._pool = pool
        self._key = key
        self._limits = limits
        self._tokens = tokens
        self.open = False  # whether it counts among the pool's concurrent requests

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters how many it really uses."""
        return self._limits is not None and self._limits.tokens is not None

    def told(self, now: float) -> tuple[tuple[str, str], ...]:
        """What is left to its key, in OpenAI's headers."""
        return _headers(self._key, self._limits, now) if self._key is not None and self._limits is not None else ()

    def leave(self) -> None:
        """It is not the pool's any more; whoever has it, its key pays what was expected."""
        if self.open:
            self.open = False
            self._pool.concurrent -= 1
        self._key = None

    def ended(self, used: float | None, now: float) -> None:
        """It is over, and used so many tokens; None: nobody knows."""
        if used is not None and self._key is not None and self._limits is not None and self._limits.tokens is not None:
            self._key.tokens.take(_a_minutes(self._limits.tokens), used - self._tokens, now)
        self.leave()

    def refund(self, now: float) -> None:
        """Nobody has served it: its key pays nothing."""
        if self._key is not None and self._limits is not None and self._limits.requests is not None:
            self._key.requests.take(_a_minutes(self._limits.requests), -1, now)
        self.ended(0.0, now)


class Meters:
    """All pools' and all keys'. `most_keys`: how many are remembered."""

    def __init__(self, most_keys: int = MOST_KEYS) -> None:
        self._forgotten = 0
        self._most_keys = most_keys
        self._pools: dict[str, _Pool] = {}
        self._keys: dict[tuple[str, str, str], _Key] = {}
        # Each key once, by when it would have been full at some time: not before that, but perhaps later.
        self._full: list[tuple[float, tuple[str, str, str]]] = []

    def charge(self, pool: str, limits: Limits, key: str, model: str, tokens: int, now: float) -> Charge:
        """Take a request of `key` for `model`, which is expected to use so many tokens. Raises OverLimit."""
        taken = self._pool(pool)
        of_keys = limits.of_keys(model)
        if of_keys is None:
            return Charge(taken, None, None, tokens)
        used = self._key((pool, key, model), now)
        for limit, size, bucket, amount in (
            (Limit.KEY_REQUESTS, of_keys.requests, used.requests, 1),
            (Limit.KEY_TOKENS, of_keys.tokens, used.tokens, tokens),
        ):
            wait = bucket.wait(_a_minutes(size), amount, now) if size is not None else 0.0
            if wait:
                taken.refused[limit.value] += 1
                raise _over(
                    _SAID[limit].format(size, model or "this model", amount), wait, _headers(used, of_keys, now)
                )
        if of_keys.requests is not None:
            used.requests.take(_a_minutes(of_keys.requests), 1, now)
        if of_keys.tokens is not None:
            used.tokens.take(_a_minutes(of_keys.tokens), tokens, now)
        return Charge(taken, used, of_keys, tokens)

    def enter(self, pool: str, limits: Limits, charge: Charge, now: float) -> OverLimit | None:
        """Take a charged request into its pool. What is returned says why not; then nothing was taken here."""
        taken = self._pool(pool)
        if limits.concurrent is not None and taken.concurrent >= limits.concurrent:
            taken.refused[Limit.POOL_CONCURRENT.value] += 1
            text = f"The pool {pool} has reached its limit of requests at once, which is {limits.concurrent}."
            return _over(text, _SOON, charge.told(now))
        if limits.per_second is not None:
            size = Size(limits.per_second, 1.0)
            wait = taken.requests.wait(size, 1, now)
            if wait:
                taken.refused[Limit.POOL_REQUESTS.value] += 1
                text = f"The pool {pool} has reached its limit of requests a second, which is {limits.per_second}."
                return _over(text, wait, charge.told(now))
            taken.requests.take(size, 1, now)
        taken.concurrent += 1
        charge.open = True
        return None

    def keep(self, pools: Collection[str]) -> None:
        """Forget all other pools."""
        self._pools = {pool: taken for pool, taken in self._pools.items() if pool in pools}

    def statistics(self) -> MeterStatistics:
        """The numbers now."""
        pools = {name: PoolUse(dict(one.refused), one.concurrent) for name, one in self._pools.items()}
        return MeterStatistics(pools, len(self._keys), self._forgotten)

    def _pool(self, name: str) -> _Pool:
        taken = self._pools.get(name)
        if taken is None:
            taken = self._pools[name] = _Pool()
        return taken

    def _key(self, name: tuple[str, str, str], now: float) -> _Key:
        used = self._keys.get(name)
        if used is None:
            self._make_room(now)
            used = self._keys[name] = _Key()
            heappush(self._full, (now, name))
        return used

    def _make_room(self, now: float) -> None:
        """Forget keys that are like new ones; and another, where there is no place for one more."""
        heap = self._full
        while heap:
            full_at, name = heap[0]
            truly = self._keys[name].full_at
            if truly > full_at:
                heapreplace(heap, (truly, name))
                continue
            if full_at > now:
                if len(heap) < self._most_keys:
                    return
                self._forgotten += 1
            heappop(heap)
            del self._keys[name]


_SAID: Final = {
    Limit.KEY_REQUESTS: "This API key has reached its limit of requests a minute to {1}, which is {0}.",
    Limit.KEY_TOKENS: "This API key has reached its limit of tokens a minute of {1}, which is {0}; "
    "this request is expected to use {2}.",
}


def _over(text: str, wait: float, headers: tuple[tuple[str, str], ...]) -> OverLimit:
    seconds = max(math.ceil(wait), 1)
    return OverLimit(f"{text} Try again in {seconds} s.", seconds, headers)


def _a_minutes(most: int) -> Size:
    return Size(most, _MINUTE)


def _headers(used: _Key, limits: KeyLimits, now: float) -> tuple[tuple[str, str], ...]:
    told: tuple[tuple[str, str], ...] = ()
    if limits.requests is not None:
        told = _told(wire.KEY_REQUESTS_HEADERS, limits.requests, used.requests, now)
    if limits.tokens is not None:
        told += _told(wire.KEY_TOKENS_HEADERS, limits.tokens, used.tokens, now)
    return told


def _told(names: tuple[str, str, str], most: int, bucket: Bucket, now: float) -> tuple[tuple[str, str], ...]:
    limit, remaining, reset = names
    left = bucket.left(_a_minutes(most), now)
    return (limit, str(most)), (remaining, str(left)), (reset, _duration(bucket.fills_in(now)))


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `1.5s`, `6m0s`."""
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, _MINUTE)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"
