"""Who of several operators may write."""

from datetime import UTC, datetime
from typing import Any

from igw_operator.controller.peers import leader_besides, priority

NOW = 1_800_000_000.0


def record(started: float, seen: float = NOW, lifetime: int = 20) -> dict[str, Any]:
    when = datetime.fromtimestamp(seen, UTC).isoformat()
    return {"priority": priority(started), "lifetime": lifetime, "lastseen": when}


def test_the_oldest_leads() -> None:
    """So that a new operator never takes over from one that works."""
    status = {"old": record(NOW - 100), "new": record(NOW - 1)}
    assert leader_besides(status, "old", priority(NOW - 100), NOW) is None
    assert leader_besides(status, "new", priority(NOW - 1), NOW) == "old"


def test_one_that_was_not_seen_for_its_lifetime_does_not_count() -> None:
    """It was killed, and could not say goodbye."""
    status = {"dead": record(NOW - 100, seen=NOW - 21)}
    assert leader_besides(status, "new", priority(NOW), NOW) is None
    assert leader_besides(status, "new", priority(NOW), NOW - 2) == "dead"


def test_what_others_put_into_the_record_does_no_harm() -> None:
    """Anybody who may write it can stop the operators, but not crash them."""
    assert leader_besides({"a": None, "b": {"lastseen": "soon"}, "c": {}}, "me", 0, NOW) is None
