"""Which of several operators may write: one, the oldest that is alive. Pure.

kopf's peering keeps the record of who is alive in a ClusterKopfPeering, and pauses an operator's watches while another
has a higher priority. It is no lock: the same record is read again before every pass that writes.
"""

import zlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

LIFETIME: Final = 20  # seconds that a dead operator is still believed to live; its records come twice as often
_SAME_MOMENT: Final = 1000  # of operators that start in one millisecond, so many can be told apart


def priority(started: float, identity: str) -> int:
    """The older, the higher, so that a new operator never takes over from one that works. `started`: epoch seconds.

    Two must not be equal: kopf would pause both.
    """
    return -(round(started * 1000) * _SAME_MOMENT + zlib.crc32(identity.encode()) % _SAME_MOMENT)


def is_alive(record: Any, now: float) -> bool:
    """Whether an operator's record is not out of date. `now`: seconds since the epoch."""
    try:
        return datetime.fromisoformat(record["lastseen"]).timestamp() + float(record["lifetime"]) > now
    except (KeyError, TypeError, ValueError):
        return False


def leader_besides(status: Mapping[str, Any], identity: str, own_priority: int, now: float) -> str | None:
    """Another operator that is alive and has the same or a higher priority."""
    for name, record in status.items():
        if name != identity and is_alive(record, now) and _priority(record) >= own_priority:
            return name
    return None


def _priority(record: Mapping[str, Any]) -> int:
    found = record.get("priority", 0)
    return found if isinstance(found, int) else 0
