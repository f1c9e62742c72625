"""Which endpoint holds which beginnings of prompts: an approximate picture of the engines' prefix caches.

A prompt becomes a chain of hashes, each of everything up to a position. Positions are our own, in bytes of text, so
engines with different block sizes share one index. Small blocks first, then blocks that grow with the position: a
400 KB prompt takes about 55 hashes, and two prompts that part anywhere are told apart to within 1/8 of that position.

The index maps a hash to the set of endpoints believed to hold it, as a bit mask over slots. It learns when an endpoint
answers. Between pick and answer the prefix is only expected, so that a burst with one prefix goes together, and a
failure takes back just what its own lease suggested. Pure: no I/O, no clock. The scheduler asks and expects; leases
confirm or withdraw; `Ledgers` tells which slots are gone.
"""

from collections import OrderedDict
from itertools import compress

import xxhash

# Tokens of a text: the usual four bytes. Only ratios matter to placement.
BYTES_PER_TOKEN = 4
# 64 tokens: below this a hit saves less than the noise of one engine step.
_FIRST_BLOCK = 256
# Up to a thousand tokens all blocks are small: most system prompts end there.
_FINE_BELOW = 4096
# A block is at most 1/8 of what precedes it: a miss by one block misjudges the cached part by 12 % at the very most.
_GROWTH = 8
# Longest text that is told apart: far above any context window.
_LONGEST = 64 * 1024 * 1024

# Entries are (endpoint, block) pairs; measured at 110 to 280 bytes each, least where endpoints share blocks.
DEFAULT_MAX_ENTRIES = 1_000_000

# Above this many bits, expanding the whole mask at C speed beats taking bits one by one.
_SPARSE = 40
_BITS = bytes.maketrans(b"01", b"\x00\x01")

Prefix = tuple[tuple[int, int], ...]


def _boundaries() -> tuple[int, ...]:
    ends = [_FIRST_BLOCK]
    while ends[-1] < _LONGEST:
        ends.append(ends[-1] + (_FIRST_BLOCK if ends[-1] < _FINE_BELOW else ends[-1] // _GROWTH))
    return tuple(ends)


_BOUNDARIES = _boundaries()


def seed(model: str, cache_salt: str = "", adapter: str | None = None) -> int:
    """Where a chain starts: engines share no cache across models, salts or adapters."""
    return xxhash.xxh3_64_intdigest("\0".join((model, cache_salt, adapter or "")).encode())


def chain(text: bytes, start: int) -> Prefix:
    """(hash of everything up to here, tokens up to here) at each boundary within `text`, from the seed `start`.

    Each hash is seeded with the one before, so equal hashes mean equal beginnings. The rest after the last boundary
    is left out: engines reuse whole blocks only.
    """
    view = memoryview(text)
    digest = xxhash.xxh3_64_intdigest
    size = len(text)
    found = []
    begin, value = 0, start
    for end in _BOUNDARIES:
        if end > size:
            break
        value = digest(view[begin:end], value)
        found.append((value, end // BYTES_PER_TOKEN))
        begin = end
    return tuple(found)


class _Holdings:
    """What one endpoint is believed to hold. `known` is in LRU order; a parent is never older than its child."""

    __slots__ = ("bit", "capacity", "expected", "gone", "known", "tokens")

    def __init__(self, slot: int) -> None:
        self.bit = 1 << slot
        self.capacity = 0
        self.tokens = 0
        self.gone = False
        self.known: OrderedDict[int, int] = OrderedDict()  # hash -> tokens of this block
        self.expected: dict[int, int] = {}  # hash -> leases that wait for it


class PrefixIndex:
    """Hash -> endpoints, bounded for each endpoint by its KV capacity in tokens and for all by `max_entries`."""

    def __init__(self, max_entries: int = DEFAULT_MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._entries = 0
        self._holders: dict[int, int] = {}
        self._slots: list[_Holdings] = []
        self._numbers: list[int] = []  # 0, 1, ...: making new integers would be most of a match over 1,000 endpoints

    def __len__(self) -> int:
        """Entries now: (endpoint, block) pairs, expected ones included."""
        return self._entries

    def match(self, prefix: Prefix) -> dict[int, int]:
        """Cached tokens by slot: the longest unbroken match of each endpoint that holds any of `prefix`."""
        cached: dict[int, int] = {}
        holders = self._holders
        alive = holders.get(prefix[0][0], 0) if prefix else 0
        if not alive:
            return cached
        reached = 0
        for digest, tokens in prefix:
            still = holders.get(digest, 0) & alive
            if still != alive:
                self._fill(cached, alive ^ still, reached)
                if not still:
                    return cached
                alive = still
            reached = tokens
        self._fill(cached, alive, reached)
        return cached

    def expect(self, slot: int, prefix: Prefix, kv_capacity: int) -> "PrefixExpectation":
        """Believe, until told otherwise, that the endpoint will hold `prefix`. `kv_capacity` bounds its LRU."""
        holdings = self._holdings(slot)
        holdings.capacity = kv_capacity
        known, expected, holders, bit = holdings.known, holdings.expected, self._holders, holdings.bit
        fresh = [digest for digest, _ in prefix if digest not in known]
        if self._entries + len(fresh) > self._max_entries and not self._make_room(len(fresh)):
            fresh = []
        for digest in fresh:
            waiting = expected.get(digest, 0)
            expected[digest] = waiting + 1
            if not waiting:
                self._entries += 1
                holders[digest] = holders.get(digest, 0) | bit
        return PrefixExpectation(self, holdings, prefix, fresh)

    def forget(self, slot: int) -> None:
        """The endpoint restarted or left: it holds nothing, and what is still expected of it no longer counts."""
        if slot >= len(self._slots):
            return
        holdings = self._slots[slot]
        holdings.gone = True
        for digest in holdings.known.keys() | holdings.expected.keys():
            self._clear(digest, holdings.bit)
        self._entries -= len(holdings.known) + len(holdings.expected)
        self._slots[slot] = _Holdings(slot)

    def settle(self, holdings: _Holdings, fresh: list[int], confirmed: Prefix) -> None:
        """End one expectation: take back `fresh`, then keep `confirmed`. Only for `PrefixExpectation`."""
        if holdings.gone:
            return
        self._keep(holdings, confirmed)
        expected = holdings.expected
        for digest in fresh:
            waiting = expected[digest] - 1
            if waiting:
                expected[digest] = waiting
                continue
            del expected[digest]
            self._entries -= 1
            if digest not in holdings.known:
                self._clear(digest, holdings.bit)
        self._make_room(0)

    def _keep(self, holdings: _Holdings, prefix: Prefix) -> None:
        known, holders, bit = holdings.known, self._holders, holdings.bit
        # Deepest first: each parent ends up newer than its children, so eviction takes leaves first.
        below = len(prefix)
        for digest, end in reversed(prefix):
            below -= 1
            if digest in known:
                known.move_to_end(digest)
                continue
            tokens = end - prefix[below - 1][1] if below else end
            known[digest] = tokens
            holdings.tokens += tokens
            self._entries += 1
            holders[digest] = holders.get(digest, 0) | bit
        while holdings.tokens > holdings.capacity and known:
            self._evict(holdings)

    def _evict(self, holdings: _Holdings) -> None:
        digest, tokens = holdings.known.popitem(last=False)
        holdings.tokens -= tokens
        self._entries -= 1
        if digest not in holdings.expected:
            self._clear(digest, holdings.bit)

    def _fill(self, cached: dict[int, int], slots: int, tokens: int) -> None:
        """Set `cached[slot] = tokens` for each bit of `slots`."""
        if slots.bit_count() > _SPARSE:
            bits = bin(slots)[:1:-1].encode().translate(_BITS)
            cached.update(dict.fromkeys(compress(self._numbers, bits), tokens))
            return
        while slots:
            low = slots & -slots
            cached[low.bit_length() - 1] = tokens
            slots ^= low

    def _make_room(self, wanted: int) -> bool:
        """Evict from the endpoints with most entries, an eighth at a time: rarely, so that it stays cheap."""
        while self._entries + wanted > self._max_entries:
            fullest = max(self._slots, key=lambda holdings: len(holdings.known))
            if not fullest.known:
                return False
            for _ in range(max(1, len(fullest.known) // 8)):
                self._evict(fullest)
        return True

    def _clear(self, digest: int, bit: int) -> None:
        left = self._holders.get(digest, 0) & ~bit
        if left:
            self._holders[digest] = left
        else:
            self._holders.pop(digest, None)

    def _holdings(self, slot: int) -> _Holdings:
        while slot >= len(self._slots):
            self._numbers.append(len(self._slots))
            self._slots.append(_Holdings(len(self._slots)))
        return self._slots[slot]


class PrefixExpectation:
    """What the index believes of one endpoint because of one lease; settled once, by whichever call is first."""

    __slots__ = ("_fresh", "_holdings", "_index", "_open", "_prefix")

    def __init__(self, index: PrefixIndex, holdings: _Holdings, prefix: Prefix, fresh: list[int]) -> None:
        self._index = index
        self._holdings = holdings
        self._prefix = prefix
        self._fresh = fresh
        self._open = True

    def confirm(self) -> None:
        """The endpoint answered: it holds the whole prefix now, and it was used last."""
        self._settle(self._prefix)

    def withdraw(self) -> None:
        """The endpoint failed: what others confirmed or still expect there stays."""
        self._settle(())

    def moved(self, slot: int, kv_capacity: int) -> "PrefixExpectation":
        """Withdraw here and expect the same at another endpoint."""
        self.withdraw()
        return self._index.expect(slot, self._prefix, kv_capacity)

    def _settle(self, confirmed: Prefix) -> None:
        if self._open:
            self._open = False
            self._index.settle(self._holdings, self._fresh, confirmed)
