"""Whether some endpoint can take a request without a queue being built there. Pure; reads ledgers, changes none.

A request that waits with us can still go to whichever endpoint is free first, behind whoever is more urgent; one that
waits in an engine cannot. But an engine that runs dry for a moment loses throughput. So an endpoint is open

- while it is idle;
- while its engine's last word was that nothing waits there, what we sent since fits in its KV cache with this request
  (`kv_free`: the engine's word, plus prompt and expected output of what was sent since), and the prompt tokens that no
  first byte has answered yet are below `BACKLOG`: what it has is being computed, and this is next;
- else while fewer than `SPARE` requests wait there, by the engine's word, plus what we sent since, less what has ended
  since (`queued - running`). Each request that ends makes room for one. The spare ones are started by the engine itself
  in its next step, without waiting for us: no place in its batch stays empty, whatever our estimate of its KV is worth.

An engine that tells nothing is open while the request fits by our own accounting.

How long a queue can get: `SPARE` in an engine that is full, as it says; up to `BACKLOG` tokens of short requests in one
that is full by its number of seats, which no engine tells, until its next word.

The question is asked of the pool, not of each endpoint: once any is open, the policy chooses among all candidates. It
may let a request wait behind the one that holds its prefix, which is what its costs are for.
"""

from collections.abc import Sequence
from typing import Final

from igw_extproc.domain import Ask, EngineKind
from igw_extproc.inflight import Ledger

# Requests that may wait in a full engine. One fills the place of one that ends; two, since two may end in one step.
SPARE: Final = 2.0
# Uncached prompt tokens: two or more steps of an engine with a large batch (8,192), about a second of its work.
BACKLOG: Final = 16_384


def is_open(ledger: Ledger, ask: Ask, now: float) -> bool:
    """Whether a queue would not get longer there than keeps the engine busy."""
    if now >= ledger.stale_at:
        ledger.age(now)
    if ledger.queued < 1.0:
        return True
    fits = ledger.kv_free >= ask.prompt_tokens + ask.output_tokens
    load = ledger.load
    if load is None or load.engine is EngineKind.UNKNOWN:
        return fits
    if fits and load.waiting < 1.0:
        return ledger.backlog_tokens < BACKLOG
    return ledger.queued - load.running < SPARE


class Room:
    """One pool's answer. Remembers who was open last, so that a pool with room is asked about one endpoint."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at = 0

    def has(self, candidates: Sequence[Ledger], ask: Ask, now: float) -> bool:
        """Whether any of the candidates, all of them available, is open for `ask`. Without candidates: no."""
        at = self._at
        if at < len(candidates) and is_open(candidates[at], ask, now):
            return True
        for at, ledger in enumerate(candidates):
            if is_open(ledger, ask, now):
                self._at = at
                return True
        return False
