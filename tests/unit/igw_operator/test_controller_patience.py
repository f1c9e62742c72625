"""How long a new listener waits for its first picker, and what it never waits for."""

from typing import Any

from igw_api.objects import Key
from igw_api.wire import MANAGED_BY, MANAGED_BY_LABEL
from igw_operator.controller.patience import Patience
from igw_operator.controller.resources import BY_KIND
from igw_operator.controller.store import Body, View

PICKER, OTHER = Key("ns", "igw-gw-p80"), Key("ns", "igw-gw-p81")


def ours(**rest: Any) -> Body:
    return {"metadata": {"name": "x", "namespace": "ns", "labels": {MANAGED_BY_LABEL: MANAGED_BY}}, **rest}


def seen(*, available: int = 0, policy: Body | None = None) -> View:
    """The picker's Deployment, and the policy that leads past it."""
    policies = {BY_KIND["EnvoyExtensionPolicy"]: {PICKER: policy}} if policy else {}
    deployments = {PICKER: ours(status={"availableReplicas": available} if available else {})}
    return View({BY_KIND["Deployment"]: deployments, **policies})


def test_a_picker_is_waited_for_until_it_is_available() -> None:
    """Also before its Deployment exists."""
    patience = Patience(30)
    assert patience.waits_for([PICKER], View(), 100) == {PICKER}
    assert patience.waits_for([PICKER], seen(), 110) == {PICKER}
    assert not patience.waits_for([PICKER], seen(available=1), 111)


def test_the_wait_has_an_end() -> None:
    """A pool is better served without a picker than not at all."""
    patience = Patience(30)
    waiting = patience.waits_for([PICKER], seen(), 100)
    assert patience.end(waiting) == 130
    assert patience.waits_for([PICKER], seen(), 129.9)
    assert not patience.waits_for([PICKER], seen(), 130)
    assert patience.end(()) is None


def test_what_leads_past_a_picker_is_not_taken_back_when_the_picker_goes_down() -> None:
    """Nor is it held back from changes: the wait is for the first time only."""
    assert not Patience(30).waits_for([PICKER], seen(policy=ours()), 100)


def test_somebody_elses_policy_does_not_end_the_wait() -> None:
    """It has our name, and leads elsewhere."""
    theirs: Body = {"metadata": {"name": "x", "namespace": "ns"}}
    assert Patience(30).waits_for([PICKER], seen(policy=theirs), 100) == {PICKER}


def test_each_listener_waits_for_itself_and_anew_when_it_comes_again() -> None:
    """One that is gone leaves nothing behind."""
    patience = Patience(30)
    assert patience.waits_for([PICKER], View(), 100) == {PICKER}
    assert patience.waits_for([PICKER, OTHER], View(), 120) == {PICKER, OTHER}
    assert patience.waits_for([PICKER, OTHER], View(), 130) == {OTHER}
    assert not patience.waits_for([], View(), 140)
    assert patience.waits_for([PICKER], View(), 150) == {PICKER}


def test_no_wait_at_all_can_be_asked_for() -> None:
    """Zero seconds: not even one pass."""
    assert not Patience(0).waits_for([PICKER], View(), 100)
