"""How many requests an engine runs at once: vLLM's `max_num_seqs`, llama.cpp's slots. No engine tells: it is learned.

Only from engines that have a queue although their KV cache has room: what they run then is all that they run. Where
several metrics pages in a row, with work done between them, show no more than an earlier one, that is taken for their
seats. (Not the same number: a page shows a batch before those that have ended are replaced.)

It may be wrong: prompts that are computed one after the other, or adapters that have no place, keep requests waiting
too. That costs little and does not last. `room` sends a few requests more than there are seats, which is what keeps an
engine busy whatever it waits for; and an engine that runs these as well, and has no queue, has more seats. So every
moment in which the number matters is a test of it. Pure; `inflight` asks and tells, `room` reads.
"""

import math
from typing import Final

from igw_extproc.domain import EngineLoad

# Requests that may wait in a full engine. One fills the place of one that ends; two, since two may end in one step.
SPARE: Final = 2.0
# Of many seats several are given up in one step: so one more may wait for each so many. That keeps 64 seats taken
# even by requests of 35 tokens.
SHARED: Final = 16.0
# Pages in a row that must show no more.
_AGREE: Final = 4
# A fuller cache, or one with room for fewer requests than this, may be what the engine's queue waits for.
_FULL: Final = 0.9
_REQUESTS: Final = 4.0


class Seats:
    """One engine's. `known`: infinite while nothing is known."""

    __slots__ = ("_agreed", "_made", "_most", "known")

    def __init__(self) -> None:
        self.known = math.inf
        self._most = 0.0
        self._agreed = 0
        self._made: float | None = None

    @property
    def spare(self) -> float:
        """Requests that may wait there while all seats are taken."""
        return max(SPARE, self.known / SHARED) if self.known < math.inf else SPARE

    def told(self, load: EngineLoad, capacity: int, request: float) -> None:
        """A metrics page of an engine that holds `capacity` KV tokens, of which a `request` takes so many."""
        queue = load.waiting >= 1.0
        if load.running > self.known:
            self.known = load.running if queue or load.running < self.known + self.spare else math.inf
        if not queue or load.running < 1.0 or not _has_room(load, capacity, request):
            self._agreed, self._most = 0, 0.0
        elif load.running > self._most:
            self._agreed, self._most = 1, load.running
        elif load.generation_tokens_total is None or load.generation_tokens_total != self._made:
            self._agreed += 1
            if self._agreed > _AGREE:
                # A little less is chance.
                self.known = self.known if 0.0 <= self.known - self._most < self.spare else self._most
                self._agreed, self._most = 0, 0.0
        self._made = load.generation_tokens_total


def _has_room(load: EngineLoad, capacity: int, request: float) -> bool:
    """Whether it is not for the KV cache that the engine's queue waits. Where the engine tells nothing of it, it is."""
    used = load.kv_usage or 0.0
    return used < _FULL and (1.0 - used) * capacity > _REQUESTS * request
