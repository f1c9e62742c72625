"""Which of several operators may write: one, the oldest that is alive. Pure.

kopf's peering keeps the record of who is alive in a ClusterKopfPeering, and pauses an operator's watches while another
has a higher priority. It is no lock: the same record is read again before every pass that writes.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

LIFETIME: Final = 20  # seconds that a dead operator is still believed to live; its records come twice as often


def priority(started: float) -> int:
    """The older, the higher, so that a new operator never takes over from one that works. `started`: epoch seconds."""
    return -round(started * 1000)


def leader_besides(status: Mapping[str, Any], identity: str, own_priority: int, now: float) -> str | None:
    """Another operator that is alive and has the same or a higher priority. `now`: seconds since the epoch."""
    for name, record in status.items():
        if name == identity or not isinstance(record, Mapping):
            continue
        try:
            seen = datetime.fromisoformat(str(record.get("lastseen"))).timestamp()
        except ValueError:
            continue
        if seen + float(record.get("lifetime", 60)) > now and int(record.get("priority", 0)) >= own_priority:
            return name
    return None
