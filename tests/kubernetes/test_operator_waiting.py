"""A new listener waits for its first picker, not for ever, and what is there is never taken back.

Here no node runs Pods: the test writes the status that the Deployment's controller would write.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from igw_cluster.apiserver import ApiServer
from igw_cluster.kubectl import Kubectl
from igw_testing.operator_manifests import gateway, model, pool
from igw_testing.operator_process import (
    SOON_S,
    Operator,
    clean,
    install_gateway_kinds,
    own_objects,
    running_operator,
)

pytestmark = pytest.mark.timeout(180)
POOLS = "inferencepools.inference.networking.k8s.io"
PICKER, WAY, ROUTE = "igw-gw-p8081", ("EnvoyExtensionPolicy", "igw-gw-p8081"), ("HTTPRoute", "igw-llm")


@pytest.fixture(scope="module")
def kinds(installed: Kubectl) -> Kubectl:
    """kubectl to a server with all definitions that the operator needs."""
    install_gateway_kinds(installed)
    return installed


@pytest.fixture
def place(kinds: Kubectl, namespace: str) -> Iterator[str]:
    """A namespace that is emptied at the end."""
    yield namespace
    clean(kinds, namespace)


@pytest.fixture
def patient(api_server: ApiServer, kinds: Kubectl, tmp_path: Path) -> Iterator[Operator]:
    """An operator that waits longer than a test does."""
    with running_operator(api_server.kubeconfig, tmp_path, wait=600) as running:
        yield running.serving()


def set_available(kinds: Kubectl, place: str, count: int) -> None:
    """What the Deployment's controller says of the picker's Pods."""
    status = {"replicas": 1, "readyReplicas": count, "availableReplicas": count}
    patch = json.dumps({"status": status})
    kinds("patch", "deployment", PICKER, "-n", place, "--subresource=status", "--type=merge", "-p", patch)


def comes(kinds: Kubectl, place: str, *wanted: tuple[str, str]) -> None:
    kinds.until(lambda: set(wanted) <= set(own_objects(kinds, place)), SOON_S, f"{wanted}")


def said(kinds: Kubectl, place: str, type_: str) -> str:
    """The message of the pool's condition."""
    parents = kinds.get(POOLS, "llm", place).get("status", {}).get("parents", [])
    found: list[dict[str, Any]] = [one for parent in parents for one in parent["conditions"]]
    return next((str(one["message"]) for one in found if one["type"] == type_), "")


def test_the_way_past_a_picker_is_made_when_its_first_pod_is_available(
    kinds: Kubectl, place: str, patient: Operator
) -> None:
    """All else is there before; the pool says what it waits for."""
    kinds.apply(gateway() + "---\n" + pool(), "-n", place)
    comes(kinds, place, ("Deployment", PICKER), ("BackendTrafficPolicy", "igw-llm"), ("ClientTrafficPolicy", PICKER))
    patient.idle()
    assert not {WAY, ROUTE} & set(own_objects(kinds, place))
    assert said(kinds, place, "Accepted") == f"waiting for the first Pod of Deployment {place}/{PICKER}"
    assert "no Pod of Deployment" in said(kinds, place, "PickerReady")
    set_available(kinds, place, 1)
    comes(kinds, place, WAY, ROUTE)
    kinds.until(lambda: "is available" in said(kinds, place, "PickerReady"), SOON_S, "said")


def test_a_picker_that_goes_down_takes_nothing_away_and_holds_no_change_up(
    api_server: ApiServer, kinds: Kubectl, place: str, patient: Operator, tmp_path: Path
) -> None:
    """Another pool can join the listener meanwhile, and a restart of the operator changes nothing."""
    kinds.apply("---\n".join((gateway(), pool(), model("a"))), "-n", place)
    comes(kinds, place, ("Deployment", PICKER))
    set_available(kinds, place, 1)
    comes(kinds, place, WAY, ROUTE)
    set_available(kinds, place, 0)
    kinds.until(lambda: "no Pod of Deployment" in said(kinds, place, "PickerReady"), SOON_S, "said")
    before = own_objects(kinds, place)
    kinds.apply(pool("other") + "---\n" + model("b", "other"), "-n", place)
    comes(kinds, place, ("HTTPRoute", "igw-other"))
    patient.idle()  # what it had begun is written
    patient.stop()
    with running_operator(api_server.kubeconfig, tmp_path, "second", wait=600) as second:
        second.serving().idle()
        after = own_objects(kinds, place)
        assert second.writes() == 0
    assert {one: after[one]["metadata"]["uid"] for one in (WAY, ROUTE)} == {
        one: before[one]["metadata"]["uid"] for one in (WAY, ROUTE)
    }


def test_the_wait_has_an_end(api_server: ApiServer, kinds: Kubectl, place: str, tmp_path: Path) -> None:
    """Then the pool is served without a picker, and its condition says so. Nothing else has to happen for that."""
    with running_operator(api_server.kubeconfig, tmp_path, wait=3) as operator:
        operator.serving()
        kinds.apply(gateway() + "---\n" + pool(), "-n", place)
        comes(kinds, place, ("Deployment", PICKER))
        began = time.monotonic()
        assert ROUTE not in own_objects(kinds, place)
        comes(kinds, place, WAY, ROUTE)
        assert time.monotonic() - began > 1
        kinds.until(lambda: "placed in turn" in said(kinds, place, "PickerReady"), SOON_S, "said")


def test_a_listener_that_is_served_does_not_wait_for_anothers_picker(
    kinds: Kubectl, place: str, patient: Operator
) -> None:
    """Each waits for its own."""
    kinds.apply("---\n".join((gateway(), pool(), pool("far", 8080, picker="far"))), "-n", place)
    comes(kinds, place, ("Deployment", PICKER), ("Deployment", "igw-gw-p8080"))
    set_available(kinds, place, 1)
    comes(kinds, place, WAY, ROUTE)
    patient.idle()
    assert ("HTTPRoute", "igw-far") not in own_objects(kinds, place)


def test_a_pool_that_goes_while_it_waits_leaves_nothing(kinds: Kubectl, place: str, patient: Operator) -> None:
    """What waits is rendered, but was never made."""
    kinds.apply(gateway() + "---\n" + pool(), "-n", place)
    comes(kinds, place, ("Deployment", PICKER))
    kinds("delete", POOLS, "llm", "-n", place)
    kinds.until(lambda: not own_objects(kinds, place), SOON_S, "gone")
