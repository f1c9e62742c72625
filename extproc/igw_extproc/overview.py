"""The state of all pools as plain values: what `igw top` shows. Pure; called by `pages` when somebody asks."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from igw_extproc.datastore import PoolView
from igw_extproc.flowcontrol.queue import QueueStatistics
from igw_extproc.ledgers import LedgerStatistics
from igw_extproc.telemetry import Telemetry


def overview(
    views: Iterable[PoolView],
    endpoints: Iterable[LedgerStatistics],
    queues: Mapping[str, QueueStatistics],
    ejected: Mapping[str, bool],
    told: Telemetry,
) -> dict[str, Any]:
    """All pools, and requests by outcome since the start. `ejected`: by address, who gets none since it fails requests.

    KV use and shares are from 0 to 1, times in seconds.
    """
    known = {one.address: one for one in endpoints}
    outcomes: Counter[str] = Counter()
    for (_, _, outcome), count in told.requests.items():
        outcomes[outcome] += count
    pools = [_pool(view, known, queues.get(view.name), ejected, told) for view in sorted(views, key=_name)]
    return {"outcomes": outcomes, "pools": pools}


def _name(view: PoolView) -> str:
    return view.name


def _pool(
    view: PoolView,
    known: Mapping[str, LedgerStatistics],
    queue: QueueStatistics | None,
    ejected: Mapping[str, bool],
    told: Telemetry,
) -> dict[str, Any]:
    members = [known[one.address] for one in view.endpoints if one.address in known]
    counts = [told.placed.get(one.address, 0) for one in members]
    rows = zip(members, counts, strict=True)
    first = told.first_byte.get(view.name)
    return {
        "name": view.name,
        "policy": view.policy,
        "unseen": view.unseen,
        "waiting": sum(queue.waiting.values()) if queue is not None else 0,
        "queue_ends": dict(queue.ends) if queue is not None else {},
        "first_bytes": first.count if first is not None else 0,
        "first_byte_s_total": first.sum if first is not None else 0.0,
        "endpoints": [_endpoint(one, ejected.get(one.address, False), count, sum(counts)) for one, count in rows],
    }


def _endpoint(one: LedgerStatistics, ejected: bool, placed: int, total: int) -> dict[str, Any]:
    answers = "available" if one.available else one.unreachable_reason or "not asked yet"
    return {
        "address": one.address,
        "state": "ejected" if ejected and one.available else answers,
        "engine": one.engine.value if one.engine is not None else None,
        "in_flight": one.requests,
        "running": one.load.running if one.load is not None else None,
        "waiting": one.load.waiting if one.load is not None else None,
        "kv_use": one.load.kv_usage if one.load is not None else None,
        "prefill_s_per_token": one.prefill_s,
        "decode_step_s": one.step_s or None,
        "placed": placed,
        "share": placed / total if total else 0.0,
    }
