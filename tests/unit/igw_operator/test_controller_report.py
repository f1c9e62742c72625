"""When an event is posted, and what it says."""

from typing import Any

from kubernetes.aio.client.api_client import ApiClient

from igw_api.objects import Key
from igw_operator.controller.kube import Kube
from igw_operator.controller.report import Reporter, event_of, turned
from igw_operator.controller.resources import POOL
from igw_operator.controller.store import Store
from igw_operator.render.status.values import Declared, StatusPatch

REF = {"kind": "Gateway", "name": "gw"}


def status(**conditions: tuple[str, str]) -> dict[str, Any]:
    """A v1 pool's: status and reason by type."""
    listed = [
        {"type": name, "status": value, "reason": reason, "message": "words"}
        for name, (value, reason) in conditions.items()
    ]
    return {"parents": [{"parentRef": REF, "conditions": listed}]}


def names(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [one["reason"] for one in turned(before, after)]


def test_what_turned_is_told_and_nothing_else() -> None:
    """Also the first word on a condition, and another reason for the same status."""
    before = status(Accepted=("False", "NoMatchingParent"), ResolvedRefs=("True", "ResolvedRefs"))
    after = status(Accepted=("False", "Conflicted"), ResolvedRefs=("True", "ResolvedRefs"))
    assert names({}, before) == ["NoMatchingParent", "ResolvedRefs"]
    assert names(before, after) == ["Conflicted"]
    assert names(after, after) == []


def test_what_is_pending_is_no_news() -> None:
    """It passes by itself."""
    assert names({}, status(Accepted=("Unknown", "Pending"))) == []


def test_the_summary_of_an_alpha_pool_is_not_told_twice() -> None:
    """It only repeats the list."""
    [entry] = status(Accepted=("True", "Accepted"))["parents"]
    assert names({}, {"parent": [entry], "conditions": entry["conditions"]}) == ["Accepted"]


def test_kinds_with_plain_conditions_are_told_by_them() -> None:
    """Models and policies."""
    [entry] = status(Accepted=("False", "ModelNameInUse"))["parents"]
    assert names({}, {"conditions": entry["conditions"]}) == ["ModelNameInUse"]


def test_a_long_message_is_cut_to_what_the_api_takes() -> None:
    """1024 characters. What is not True is a warning."""
    body = {"metadata": {"name": "llm", "namespace": "ns", "uid": "u", "resourceVersion": "7"}}
    condition = {"type": "Accepted", "status": "False", "reason": "Invalid", "message": "x" * 5000}
    event = event_of(POOL, body, condition, "me", 0.0)
    assert len(event["message"]) == 1024
    assert (event["type"], event["reason"]) == ("Warning", "Invalid")
    assert event["involvedObject"]["kind"] == "InferencePool"
    assert event["firstTimestamp"] == "1970-01-01T00:00:00Z"


async def test_what_is_not_said_in_time_is_left_to_the_next_pass() -> None:
    """With no time at all nothing is sent, and what is left is forgotten once there is nothing left to say."""
    client = ApiClient()
    store = Store(changed=lambda: None)
    reporter = Reporter(Kube(client, lambda *_: None), store, "me", patience=0.0)
    told = Declared(POOL.api_version, POOL.kind, Key("ns", "llm"), generation=1)
    try:
        await reporter.write((StatusPatch(told, {}),), 0.0)
        assert (reporter.more, reporter.again) == (True, False)
        await reporter.write((), 0.0)
        assert not reporter.more
    finally:
        await client.close()  # type: ignore[no-untyped-call]
