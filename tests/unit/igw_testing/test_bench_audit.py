"""What `make bench-cluster` counts in the API server's audit log."""

import json
from pathlib import Path
from typing import Any

from igw_testing.bench_cluster.audit import Log, idle, parse, writes

OPERATOR = "system:serviceaccount:igw-system:igw"


def line(verb: str, resource: str, user: str = OPERATOR, stage: str = "ResponseComplete", **event: Any) -> bytes:
    """One Event, as the API server writes it."""
    return json.dumps(
        {
            "stage": stage,
            "verb": verb,
            "requestURI": f"/api/v1/{resource}?watch=1",
            "user": {"username": user, "extra": {"authentication.kubernetes.io/pod-name": ["igw-1"]}},
            "objectRef": {"resource": resource},
            "responseStatus": {"code": 200},
            "stageTimestamp": "2026-11-21T16:00:00.250000Z",
            **event,
        }
    ).encode()


def test_a_watch_counts_once_when_it_begins() -> None:
    """Its end is another line, minutes later."""
    ends = [line("watch", "pods", stage=stage) for stage in ("ResponseStarted", "ResponseComplete")]
    [call] = parse(ends)
    assert (call.verb, call.pod, call.at % 60) == ("watch", "igw-1", 0.25)


def test_a_subresource_is_told_apart_and_a_plain_path_has_no_query() -> None:
    """Statuses are writes of their own, and discovery has no resource."""
    status = {"resource": "inferencepools", "subresource": "status"}
    found = parse([line("patch", "x", objectRef=status), line("get", "namespaces", objectRef={})])
    assert [one.resource for one in found] == ["inferencepools/status", "/api/v1/namespaces"]


def test_only_an_operators_own_writes_are_counted_without_the_peerings() -> None:
    """Neither reads nor what others write."""
    calls = list(
        parse(
            [
                *(line(verb, "services") for verb in ("patch", "delete", "get", "list")),
                line("patch", "services", user="system:admin"),
                line("patch", "clusterkopfpeerings"),
            ]
        )
    )
    assert [one.verb for one in writes(calls, OPERATOR)] == ["patch", "delete"]


def test_idle_calls_are_told_by_the_minute_with_the_peerings_share_and_without_watches() -> None:
    """Whatever the time over which they were counted."""
    lines = [line("get", "clusterkopfpeerings"), line("get", "pods"), line("watch", "pods", stage="ResponseStarted")]
    found = idle(parse(lines), OPERATOR, seconds=30.0)
    assert (found.calls, found.peering, found.watches) == (4.0, 2.0, 2.0)
    assert found.kinds["get pods"] == 1


def test_a_line_that_is_not_whole_yet_comes_next_time(tmp_path: Path) -> None:
    """The API server is writing it."""
    file = tmp_path / "audit.log"
    whole = line("get", "pods") + b"\n"
    file.write_bytes(whole + whole[:20])
    log = Log(file)
    assert len(log.calls()) == 1
    file.write_bytes(whole + whole)
    assert len(log.calls()) == 1
    log.skip()
    assert not log.calls()
