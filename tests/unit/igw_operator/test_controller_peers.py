"""Who of several operators may write."""

from datetime import UTC, datetime
from typing import Any

import pytest

from igw_operator.controller.peers import is_alive, leader_besides, priority

NOW = 1_800_000_000.0


def record(name: str, started: float, seen: float = NOW, lifetime: int = 20) -> dict[str, Any]:
    when = datetime.fromtimestamp(seen, UTC).isoformat()
    return {"priority": priority(started, name), "lifetime": lifetime, "lastseen": when}


def test_the_oldest_leads() -> None:
    """So that a new operator never takes over from one that works."""
    status = {"old": record("old", NOW - 100), "new": record("new", NOW - 1)}
    assert leader_besides(status, "old", priority(NOW - 100, "old"), NOW) is None
    assert leader_besides(status, "new", priority(NOW - 1, "new"), NOW) == "old"


def test_two_that_start_in_the_same_millisecond_are_told_apart() -> None:
    """With equal priorities kopf would pause both, for ever."""
    status = {name: record(name, NOW) for name in ("igw-7d9f-abcde-0a1b2c", "igw-7d9f-vwxyz-3d4e5f")}
    others = [leader_besides(status, name, priority(NOW, name), NOW) for name in status]
    assert others.count(None) == 1


def test_one_that_was_not_seen_for_its_lifetime_does_not_count() -> None:
    """It was killed, and could not say goodbye."""
    status = {"dead": record("dead", NOW - 100, seen=NOW - 21)}
    assert leader_besides(status, "new", priority(NOW, "new"), NOW) is None
    assert leader_besides(status, "new", priority(NOW, "new"), NOW - 2) == "dead"
    assert not is_alive(status["dead"], NOW)
    assert is_alive(status["dead"], NOW - 2)


@pytest.mark.parametrize(
    "garbage", [None, "x", {}, {"lastseen": "soon", "lifetime": 1}, {"lastseen": "2100-01-01T00:00:00Z"}]
)
def test_what_others_put_into_the_record_does_no_harm(garbage: Any) -> None:
    """Anybody who may write it can stop the operators, but not crash them."""
    assert leader_besides({"a": garbage}, "me", 0, NOW) is None


def test_a_priority_that_is_no_number_counts_as_the_usual_one() -> None:
    """kopf's is 0, which is above all of ours."""
    status = {"a": record("a", NOW) | {"priority": "high"}}
    assert leader_besides(status, "me", priority(NOW, "me"), NOW) == "a"
