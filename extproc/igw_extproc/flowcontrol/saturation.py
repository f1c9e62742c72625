"""How full a pool is, from its endpoints' loads. Pure; called by the director for sheddable requests."""

from collections.abc import Sequence

from igw_extproc.domain import EngineKind
from igw_extproc.inflight import Ledger

# A handful of waiting requests, or a KV cache near its end, is where queueing begins: the bounds that the reference
# picker uses, so that "sheddable" means the same behind both.
QUEUE_LIMIT = 5.0
KV_LIMIT = 0.8


def saturation(candidates: Sequence[Ledger]) -> float:
    """Mean over the candidates of max(waiting / QUEUE_LIMIT, kv usage / KV_LIMIT); 1 and above is saturated.

    No candidates: saturated. An endpoint whose engine says nothing counts as half full: it must not make the pool look
    idle, nor block it.
    """
    if not candidates:
        return 1.0
    return sum(_fullness(ledger) for ledger in candidates) / len(candidates)


def _fullness(ledger: Ledger) -> float:
    load = ledger.load
    if load is None or load.engine is EngineKind.UNKNOWN:
        return 0.5
    return max(load.waiting / QUEUE_LIMIT, (load.kv_usage or 0.0) / KV_LIMIT)
