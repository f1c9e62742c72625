"""What a token costs that is computed though another endpoint holds it: the price adapts to how popular its prefix is.

Such a copy evicts something that somebody would reuse, so it must not be made lightly; but a copy of what everybody
asks for will be reused soon by others. Pure. One for each pool; the scheduler asks it once for each pick.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from operator import itemgetter
from typing import Final, NamedTuple

from igw_extproc.scheduling.prefix import Prefix, PrefixIndex

# The price for a prefix that nobody else asks for, in times of its computing. At 1, busy moments copy every prefix
# everywhere and the hit rate collapses; the higher, the longer requests queue for the one endpoint that holds theirs.
# At 8, prompts move at half load, where nothing is gained by it; from 12 on, queues at the knee are longer
# (docs/benchmarks/policies.md).
HIGHEST: Final = 10.0
# How many of the last hits are remembered.
WINDOW: Final = 512

_tokens = itemgetter(1)


class Held(NamedTuple):
    """What endpoints have of a prompt: tokens by slot, as far as their caches can be relied on; what each other token
    counts; and tokens by slot as the index has them."""

    tokens: Mapping[int, int]
    price: float
    matched: Mapping[int, int]


NOTHING_HELD: Final = Held({}, 1.0, {})


class Popularity:
    """The last hits, by the longest prefix that any endpoint held."""

    __slots__ = ("_counts", "_last")

    def __init__(self) -> None:
        self._last: deque[int] = deque()
        self._counts: dict[int, int] = {}

    @property
    def remembered(self) -> int:
        """Hits that the share is counted over."""
        return len(self._last)

    def held(self, index: PrefixIndex, prefix: Prefix, doubts: Mapping[int, float], endpoints: int) -> Held:
        """What `index` believes of `prefix`, and the price, from 1 to HIGHEST. If it is a hit, it counts as one.

        A prefix with a share s of all hits over n endpoints brings s x n times what one endpoint gets: the price falls
        towards 1 as 1 / (1 + s x n).
        """
        matched = index.match(prefix)
        if not matched:
            return NOTHING_HELD
        longest = max(matched.values())
        share = self._noted(prefix[bisect_left(prefix, longest, key=_tokens)][0]) / WINDOW
        tokens = _believed(matched, doubts) if doubts else matched
        return Held(tokens, 1.0 + (HIGHEST - 1.0) / (1.0 + share * endpoints), matched)

    def _noted(self, digest: int) -> int:
        """How many of the last hits were this one's. Notes one more."""
        last, counts = self._last, self._counts
        before = counts.get(digest, 0)
        counts[digest] = before + 1
        last.append(digest)
        if len(last) > WINDOW:
            oldest = last.popleft()
            left = counts[oldest] - 1
            if left:
                counts[oldest] = left
            else:
                del counts[oldest]
        return before


def _believed(matched: Mapping[int, int], doubts: Mapping[int, float]) -> Mapping[int, int]:
    """What the index expects, as far as each engine's cache can be relied on."""
    cached = dict(matched)
    for slot, trust in doubts.items():
        if slot in cached:
            cached[slot] = int(cached[slot] * trust)
    return cached
