"""The KV blocks of one simulated engine: how many are free, which contents are kept for reuse, what is evicted.

Blocks are counted rather than numbered: only a block with a known content has an identity, its hash. Every block is
in exactly one of four states: blank; anonymous (held by one sequence); shared (its content is published and one or
more sequences hold it); idle (published, held by nobody, kept until its room is needed).
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """`total` blocks. Callers keep the hashes and the number of anonymous blocks they hold, and return both."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._blank = total
        self._shared: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Blocks that could be taken now: blank or idle."""
        return self._blank + len(self._idle)

    @property
    def used(self) -> int:
        """Blocks held by sequences."""
        return self.total - self.free

    @property
    def cached(self) -> int:
        """Blocks whose content could be reused, held or not."""
        return len(self._shared) + len(self._idle)

    @property
    def anonymous(self) -> int:
        """Blocks held by one sequence, without a published content."""
        return self.used - len(self._shared)

    def match(self, hashes: Sequence[int], limit: int) -> int:
        """How many leading blocks of `hashes`, at most `limit`, are here to be reused."""
        shared, idle = self._shared, self._idle
        count = 0
        for block in hashes[:limit]:
            if block not in shared and block not in idle:
                break
            count += 1
        return count

    def fits(self, reused: Sequence[int], fresh: int) -> bool:
        """Whether the blocks `reused` could be held and `fresh` more taken."""
        if self.free - len(reused) >= fresh:
            return True
        return self.free - sum(block in self._idle for block in reused) >= fresh

    def hold(self, hashes: Iterable[int]) -> None:
        """Hold published blocks once more. Each must be here (`match`)."""
        for block in hashes:
            if block in self._shared:
                self._shared[block] += 1
            else:
                del self._idle[block]
                self._shared[block] = 1

    def take(self, count: int) -> bool:
        """Take anonymous blocks, evicting the least recently held idle ones; False, and no change, if too few."""
        if count > self.free:
            return False
        while self._blank < count:
            self._idle.popitem(last=False)
            self._blank += 1
        self._blank -= count
        return True

    def publish(self, block: int) -> bool:
        """Give an anonymous block its content. False if that content is here already: the block stays anonymous."""
        if block in self._shared or block in self._idle:
            return False
        self._shared[block] = 1
        return True

    def release(self, hashes: Sequence[int], anonymous: int) -> None:
        """Return what a sequence held. The tail becomes idle first, so it is evicted before the start of a prompt."""
        self._blank += anonymous
        for block in reversed(hashes):
            if self._shared[block] > 1:
                self._shared[block] -= 1
            else:
                del self._shared[block]
                self._idle[block] = None
