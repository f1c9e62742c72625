"""Which listeners others' policies hold: Envoy Gateway follows the oldest, and so do we."""

from typing import Any

from igw_api.objects import Key
from igw_api.wire import MANAGED_BY, MANAGED_BY_LABEL
from igw_operator.controller.occupied import occupied
from igw_operator.controller.resources import LISTENER_POLICIES
from igw_operator.controller.store import Body, View

CLIENT, EXTENSION = LISTENER_POLICIES
LISTENER = (Key("ns", "gw"), "llm")


def policy(name: str, second: int = 0, *, ours: bool = False, **target: Any) -> Body:
    """One for the listener `llm` of Gateway `gw`, created in that second of a minute."""
    labels = {"labels": {MANAGED_BY_LABEL: MANAGED_BY}} if ours else {}
    meta = {"name": name, "namespace": "ns", "creationTimestamp": f"2026-01-01T00:00:{second:02}Z", **labels}
    return {
        "metadata": meta,
        "spec": {"targetRefs": [{"kind": "Gateway", "name": "gw", "sectionName": "llm"} | target]},
    }


def view(*policies: Body) -> View:
    return View({EXTENSION: {Key("ns", one["metadata"]["name"]): one for one in policies}})


def test_a_listener_belongs_to_the_policy_that_names_it() -> None:
    assert occupied(view(policy("theirs"))) == {LISTENER: "EnvoyExtensionPolicy ns/theirs"}


def test_one_target_may_be_written_without_a_list() -> None:
    single = policy("theirs")
    single["spec"] = {"targetRef": single["spec"]["targetRefs"][0]}
    assert occupied(view(single)).keys() == {LISTENER}


def test_a_policy_for_the_whole_gateway_or_for_a_route_holds_no_listener() -> None:
    whole, route = policy("whole", sectionName=None), policy("route", kind="HTTPRoute")
    assert occupied(view(whole, route)) == {}


def test_the_oldest_policy_counts_and_of_two_of_one_second_the_first_by_name() -> None:
    mine = policy("m", 2, ours=True)
    assert occupied(view(mine, policy("a", 3))) == {}
    assert occupied(view(mine, policy("z", 1))).keys() == {LISTENER}
    assert occupied(view(mine, policy("z", 2))) == {}
    assert occupied(view(mine, policy("a", 2))).keys() == {LISTENER}


def test_each_kind_is_compared_with_its_own() -> None:
    both = View({CLIENT: {Key("ns", "c"): policy("c")}, EXTENSION: {Key("ns", "e"): policy("e", ours=True)}})
    assert occupied(both) == {LISTENER: "ClientTrafficPolicy ns/c"}
