"""Whether some endpoint can take a request without a queue being built there. Pure; reads ledgers, changes none.

A request that waits with us can still go to whichever endpoint is free first, behind whoever is more urgent; one that
waits in an engine cannot. But an engine that runs dry for a moment loses throughput. So an endpoint is open

- while nothing of ours is there, whatever its engine says: what others sent ends when they please, and one request more
  is no queue. So nobody waits for what may never happen, and whatever does not fit may still be tried;
- while its engine's last word was that nothing waits there, what we sent since fits in its KV cache with this request
  (`kv_free`: the engine's word, plus prompt and expected output of what was sent since), and the prompt tokens that no
  first byte has answered yet are below `BACKLOG`: what it has is being computed, and this is next;
- else while fewer than `SPARE` requests wait there, by the engine's word, plus what we sent since, less what has ended
  since (`queued - running`). Each request that ends makes room for one. The spare ones are started by the engine itself
  in its next step, without waiting for us: no place in its batch stays empty, whatever our estimate of its KV is worth.

An engine that tells nothing is open while the request fits by our own accounting. And no engine is, once the number of
its seats is known, with more than these and a few to spare (`seats`).

How long a queue can get: that, or `SPARE` in an engine whose cache is full. Until the number of seats is known, up to
`BACKLOG` tokens of short requests where there are few.

What waits with us for the endpoint counts as nothing here: its engine knows nothing of it.
"""

import math
from typing import Final

from igw_extproc.domain import Ask, EngineKind
from igw_extproc.inflight import Ledger
from igw_extproc.seats import SPARE

# Uncached prompt tokens: two or more steps of an engine with a large batch (8,192), about a second of its work.
BACKLOG: Final = 16_384


def is_open(ledger: Ledger, ask: Ask, now: float = -math.inf) -> bool:
    """Whether a queue would not get longer there than keeps the engine busy. Without `now`, nothing ages."""
    if now >= ledger.stale_at:
        ledger.age(now)
    if ledger.requests <= ledger.held:
        return True
    queued = ledger.queued - ledger.held
    fits = ledger.kv_free + ledger.held_kv >= ask.prompt_tokens + ask.output_tokens
    load = ledger.load
    if load is None or load.engine is EngineKind.UNKNOWN:
        return fits
    seats = ledger.seats
    if queued >= seats.known + seats.spare:
        return False
    if fits and load.waiting < 1.0:
        return ledger.backlog_tokens - ledger.held_backlog < BACKLOG
    return queued - load.running < (seats.spare if fits else SPARE)
