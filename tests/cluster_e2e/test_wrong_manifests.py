"""Wrong manifests on a real cluster: the mistake is said where it was made, who was served goes on being served, and
all is well as soon as the cause is gone. Envoy is asked each time, by a request.

tests/kubernetes/test_operator_status.py has more mistakes; here are those that other programs have a say in.
"""

import json
from collections.abc import Iterator
from typing import Final

import pytest

from igw_api.wire import ATTACH_TO_ANNOTATION
from igw_testing.chat_load import chat_body
from igw_testing.operator_manifests import GATEWAY, gateway, model, pool
from igw_testing.product import Space, engine_pods, manifest, post

pytestmark = pytest.mark.timeout(180)
POOLS: Final = "inferencepools.inference.networking.k8s.io"
SERVED, PLAIN = 8081, 8082


@pytest.fixture(scope="module")
def place(space: Space) -> Space:
    """A Gateway with two listeners, an engine, and a pool that is served on the first, for the model `good`."""
    space.apply(
        gateway(ports=(SERVED, PLAIN)), engine_pods("llm", 1, model="good"), exposed("llm", SERVED), model("good")
    )
    space.picker(GATEWAY, f"p{SERVED}").until_asked(space.chats(GATEWAY, SERVED))
    said(space, "llm", "Accepted")
    return space


@pytest.fixture(autouse=True)
def the_other_pool_is_served(place: Space) -> Iterator[None]:
    """Whatever is wrong elsewhere."""
    yield
    assert answers(place, SERVED, "good")


def exposed(name: str, port: int | None) -> str:
    """A pool of the one engine."""
    return pool(name, port, selector={"matchLabels": {"app": "llm"}}, picker=f"{name}-picker")


def said(place: Space, name: str, reason: str, condition: str = "Accepted", kind: str = POOLS) -> str:
    """Wait for the reason, and return the message."""
    place.until(lambda: place.reason(kind, name, condition) == reason, f"{condition} of {name} is {reason}")
    return place.conditions(kind, name)[condition][2]


def answers(place: Space, port: int, model_name: str) -> bool:
    """Whether a request is answered by an engine."""
    status, body = post(place.chats(GATEWAY, port), chat_body("Hi", tokens=2, model=model_name))
    return status == 200 and body["usage"]["completion_tokens"] == 2


def made_for(place: Space, name: str) -> list[str]:
    """What the operator made for a pool."""
    return [key for key in place.versions() if key.endswith((f"/igw-{name}", f"/{name}-picker"))]


def test_a_port_that_the_gateway_does_not_have(place: Space) -> None:
    """The message names those it has. A listener that comes later heals it."""
    place.apply(exposed("far", 8083))
    told = said(place, "far", "NoMatchingParent")
    assert str(SERVED) in told and str(PLAIN) in told
    assert made_for(place, "far") == []
    assert "NoMatchingParent" in place.kubectl("events", f"--for={POOLS}/far")
    place.apply(gateway(ports=(SERVED, PLAIN, 8083)))
    said(place, "far", "Accepted")
    place.picker(GATEWAY, "p8083").until_asked(place.chats(GATEWAY, 8083))
    assert answers(place, 8083, "good")
    place.kubectl("delete", POOLS, "far")


def test_an_annotation_that_cannot_be_read(place: Space) -> None:
    """Of a new pool nothing is made. One that is served stays served as it was, until the annotation is right again."""
    wrong = json.dumps({"metadata": {"annotations": {ATTACH_TO_ANNOTATION: "name: gw\nport: eighty\n"}}})
    place.apply(exposed("new", None))
    place.kubectl("patch", POOLS, "new", "--type=merge", "-p", wrong)
    assert "port" in said(place, "new", "Invalid")
    assert made_for(place, "new") == []
    before = place.versions()
    place.kubectl("patch", POOLS, "llm", "--type=merge", "-p", wrong)
    assert "last valid version" in said(place, "llm", "Invalid")
    assert answers(place, SERVED, "good")
    assert place.versions() == before
    place.apply(exposed("llm", SERVED))
    said(place, "llm", "Accepted")
    place.kubectl("delete", POOLS, "new")


def test_somebody_elses_policy_on_the_listener(place: Space) -> None:
    """Envoy Gateway would follow the older one, so the pool is not served rather than served without its picker."""
    target = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY, "sectionName": f"p{PLAIN}"}
    lua = [{"type": "Inline", "inline": "function envoy_on_request(handle) end"}]
    theirs = manifest(
        "gateway.envoyproxy.io/v1alpha1", "EnvoyExtensionPolicy", "theirs", {"targetRefs": [target], "lua": lua}
    )
    place.apply(theirs, exposed("late", PLAIN))
    assert "theirs" in said(place, "late", "Conflicted")
    assert made_for(place, "late") == []
    place.kubectl("delete", "envoyextensionpolicy", "theirs")
    said(place, "late", "Accepted")
    place.picker(GATEWAY, f"p{PLAIN}").until_asked(place.chats(GATEWAY, PLAIN))
    place.kubectl("delete", POOLS, "late")


def test_a_model_of_a_pool_that_does_not_exist(place: Space) -> None:
    """It is refused until the pool is there."""
    place.apply(model("early", "later"))
    assert "later" in said(place, "early", "TargetNotFound", kind="inferencemodels")
    place.apply(engine_pods("later", 1, model="early"), pool("later", SERVED, picker="later-picker"))
    said(place, "early", "Accepted", kind="inferencemodels")
    place.until(lambda: answers(place, SERVED, "early"), "the model is served")
    place.kubectl("delete", POOLS, "later")
    said(place, "early", "TargetNotFound", kind="inferencemodels")
    place.kubectl("delete", "inferencemodel/early", "deployment/later")


def test_a_model_name_that_another_model_has(place: Space) -> None:
    """The older one keeps it, and the younger one has it as soon as that goes."""
    place.apply(model("one"))
    said(place, "one", "Accepted", kind="inferencemodels")
    place.apply(model("one").replace("name: one\nspec", "name: two\nspec"))
    assert f"{place.name}/one" in said(place, "two", "ModelNameInUse", kind="inferencemodels")
    place.kubectl("delete", "inferencemodel", "one")
    said(place, "two", "Accepted", kind="inferencemodels")
    place.kubectl("delete", "inferencemodel", "two")


def test_policies(place: Space) -> None:
    """A second one for a pool conflicts; one that is not valid any more leaves the last valid one in force."""
    version, kind = "inferencegateway.io/v1alpha1", "InferencePoolPolicy"
    spec = {"targetRefs": [{"name": "llm"}], "scheduling": {"policy": "least-request"}}
    place.apply(manifest(version, kind, "first", spec))
    place.until(lambda: place.get(POOLS, "llm")["status"].get("policy") == "least-request", "the policy is in force")
    place.apply(manifest(version, kind, "second", spec | {"scheduling": {"policy": "random"}}))
    assert "first" in said(place, "second", "Conflicted", kind=kind)
    wrong = {"targetRefs": [{"name": "llm", "kind": "Service", "group": ""}]}
    place.apply(manifest(version, kind, "first", spec | wrong))
    assert "last valid version" in said(place, "first", "Invalid", kind=kind)
    assert place.get(POOLS, "llm")["status"]["policy"] == "least-request"
    place.kubectl("delete", kind, "first")
    said(place, "second", "Accepted", kind=kind)
    place.until(lambda: place.get(POOLS, "llm")["status"].get("policy") == "random", "the other one is in force")
    place.kubectl("delete", kind, "second")
