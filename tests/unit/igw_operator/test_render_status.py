"""The status that users read: what is wrong with an object, with whom, and since when."""

from dataclasses import replace
from typing import Any

import pytest

from igw_api.objects import Key
from igw_operator.render.status.patches import CONTROLLER, statuses
from igw_testing.gateway_texts import endpoints, gateway, http_route, model, pool
from igw_testing.status_facts import NOW, declared_of, facts_of, status_of, words

WELL = (gateway(80), pool(port=80), endpoints("10.0.0.1"))
SITE, ROUTE = Key("default", "igw-gw-p80"), Key("default", "igw-llm")
BY_KIND = [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llm"}]


def refused(reason: str, of: str = "ancestors") -> dict[str, Any]:
    """Envoy Gateway's no."""
    return {of: [{"conditions": [{"type": "Accepted", "status": "False", "reason": reason, "message": "because"}]}]}


def test_where_all_is_well_every_condition_is_true() -> None:
    """With the facts that kubectl's columns show."""
    status = status_of("llm", *WELL, model("m"))
    assert set(words(status).values()) == {
        ("True", "Accepted"),
        ("True", "ResolvedRefs"),
        ("True", "PickerReady"),
        ("True", "EndpointsFound"),
    }
    assert (status["endpoints"], status["models"], status["policy"]) == ({"ready": 1, "total": 1}, 1, "prefix-cache")
    (parent,) = status["parents"]
    assert parent["parentRef"]["namespace"] == "default"


@pytest.mark.parametrize(
    ("how", "type_", "expected"),
    [
        ({"foreign": frozenset({("HTTPRoute", ROUTE)})}, "Accepted", ("False", "Conflicted")),
        ({"foreign": frozenset({("Deployment", SITE)})}, "Accepted", ("False", "Conflicted")),
        ({"said": {("EnvoyExtensionPolicy", SITE): refused("Conflicted")}}, "Accepted", ("False", "Conflicted")),
        ({"said": {("ClientTrafficPolicy", SITE): refused("Invalid")}}, "Accepted", ("False", "PolicyNotAccepted")),
        (
            {"said": {("HTTPRoute", ROUTE): refused("NotAllowedByListeners", "parents")}},
            "Accepted",
            ("False", "HTTPRouteNotAccepted"),
        ),
        ({"said": {("HTTPRoute", ROUTE): {}}}, "Accepted", ("Unknown", "Pending")),
        ({"said": {("Deployment", SITE): {}}}, "PickerReady", ("False", "EndpointPickerNotHealthy")),
    ],
)
def test_what_stands_in_the_way_is_said_of_the_pool(how: dict[str, Any], type_: str, expected: tuple[str, str]) -> None:
    """Somebody else's object, or what Envoy Gateway makes of ours."""
    status = status_of("llm", *WELL, **how)
    assert words(status)[type_] == expected


def test_while_the_first_picker_is_waited_for_the_pool_is_pending_for_it() -> None:
    """Envoy Gateway has not been told yet, so that its silence is no reason."""
    said: dict[Any, Any] = {("Deployment", SITE): {}, ("HTTPRoute", ROUTE): {}}
    status = status_of("llm", *WELL, awaited=frozenset({SITE}), said=said)
    messages = {one["type"]: one["message"] for one in status["parents"][0]["conditions"]}
    assert words(status)["Accepted"] == ("Unknown", "Pending")
    assert messages["Accepted"] == "waiting for the first Pod of Deployment default/igw-gw-p80"
    assert words(status)["PickerReady"] == ("Unknown", "Pending")
    assert "not taken before that" in messages["PickerReady"]


def test_a_service_of_the_pickers_name_that_is_not_ours_is_an_invalid_reference() -> None:
    """The pool works all the same."""
    texts = (gateway(80), pool(port=80, fail_close=True), endpoints("10.0.0.1"))
    said = words(status_of("llm", *texts, foreign=frozenset({("Service", Key("default", "picker"))})))
    assert (said["ResolvedRefs"], said["Accepted"][0]) == (("False", "InvalidExtensionRef"), "True")


def test_one_service_cannot_lead_to_the_pickers_of_two_listeners() -> None:
    """The second is told to name another one."""
    texts = (gateway(80, 81), pool("a", 80, fail_close=True), pool("b", 81, fail_close=True))
    assert words(status_of("a", *texts))["ResolvedRefs"] == ("True", "ResolvedRefs")
    assert words(status_of("b", *texts))["ResolvedRefs"] == ("False", "InvalidExtensionRef")


def test_a_route_that_names_the_pool_is_answered_with_advice() -> None:
    """Envoy Gateway does not serve such references; the annotation does."""
    status = status_of("llm", gateway(80), pool(), http_route(backends=BY_KIND))
    assert words(status)["Accepted"] == ("False", "HTTPRouteNotAccepted")
    assert "attach-to" in status["parents"][0]["conditions"][0]["message"]
    assert words(status_of("llm", *WELL, http_route(backends=BY_KIND)))["RoutesSupported"] == ("False", "InvalidKind")


def test_a_pool_that_nothing_leads_to_says_so() -> None:
    """Under the name that stands for no Gateway."""
    status = status_of("llm", gateway(80), pool())
    assert words(status) == {"Accepted": ("False", "NotExposed")}
    assert status["parents"][0]["parentRef"]["kind"] == "Status"


def test_alpha_pools_have_the_other_list_and_a_summary() -> None:
    """The worst word on each aspect."""
    alpha = pool(port=99).replace("inference.networking.k8s.io/v1", "inference.networking.x-k8s.io/v1alpha2")
    alpha = alpha.replace("    matchLabels:\n      app: llm\n", "    app: llm\n")
    alpha = alpha.replace("  targetPorts:\n  - number: 8000\n", "  targetPortNumber: 8000\n  extensionRef: {name: x}\n")
    status = status_of("llm", gateway(80), alpha)
    assert words({"parent": status["parent"]})["Accepted"] == ("False", "NoMatchingParent")
    assert status["conditions"][0]["reason"] == "NoMatchingParent"


def test_a_version_with_mistakes_is_invalid_and_the_last_valid_one_stays() -> None:
    """What it says of the rest is about the version in force."""
    (declared,) = declared_of(*WELL)
    (patch,) = statuses([replace(declared, mistakes=("spec.x: is wrong",))], facts_of(*WELL), NOW)
    said = words(patch.status)
    assert said["Accepted"] == ("False", "Invalid")
    assert said["PickerReady"] == ("True", "PickerReady")
    message = patch.status["parents"][0]["conditions"][0]["message"]
    assert message == "spec.x: is wrong; the last valid version stays in force"


def test_a_status_that_is_true_already_gives_no_patch() -> None:
    """Also much later: times are those of changes."""
    facts = facts_of(*WELL, model("m"))
    declared = declared_of(*WELL, model("m"))
    first = statuses(declared, facts, NOW)
    written = [replace(patch.declared, status=patch.status) for patch in first]
    assert len(first) == 2
    assert statuses(written, facts, NOW + 1000) == ()


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    """New words alone do not count."""
    (patch,) = statuses(declared_of(*WELL), facts_of(*WELL), NOW)
    written = replace(patch.declared, status=patch.status, generation=2)
    broken = facts_of(*WELL, said={("Deployment", SITE): {}})
    (later,) = statuses([written], broken, NOW + 60)
    times = {one["type"]: one["lastTransitionTime"][-9:] for one in later.status["parents"][0]["conditions"]}
    assert times["PickerReady"] == "08:01:00Z"
    assert times["Accepted"] == "08:00:00Z"
    assert {one["observedGeneration"] for one in later.status["parents"][0]["conditions"]} == {2}


def test_what_other_controllers_wrote_stays_and_what_we_no_longer_say_goes() -> None:
    """Each controller has its own entries."""
    other = {"parentRef": {"name": "elsewhere"}, "controllerName": "example.com/other", "conditions": []}
    default = {"parentRef": {"kind": "Status", "name": "default"}, "conditions": []}
    (declared,) = declared_of(*WELL)
    before = {"parents": [other, default], "stale": 1}
    (patch,) = statuses([replace(declared, status=before)], facts_of(*WELL), NOW)
    assert [one.get("controllerName") for one in patch.status["parents"]] == ["example.com/other", CONTROLLER]
    assert patch.status["stale"] is None


def test_a_model_whose_name_is_taken_is_told_by_whom() -> None:
    """And the pool does not count it."""
    texts = (*WELL, model("m"), model("n", served="m"))
    status = status_of("n", *texts, kind="InferenceModel")
    assert words(status) == {"Accepted": ("False", "ModelNameInUse")}
    assert "InferenceModel default/m" in status["conditions"][0]["message"]
    assert status_of("llm", *texts)["models"] == 1
