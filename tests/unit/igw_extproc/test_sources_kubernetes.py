"""What is read of a Pod, which Pods are watched, and how a Pod finds its API server."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from igw_api.objects import Key, Member
from igw_extproc.sources import kube_access
from igw_extproc.sources.kube_access import NoAccess
from igw_extproc.sources.kubernetes import Scope, member, scope
from igw_testing.builders import pool

READY = {"type": "Ready", "status": "True"}
CERTIFICATE = Path(__file__).parents[2] / "transport" / "localhost.pem"


def pod(status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    """A Pod that serves, but for what is named."""
    serves = {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [{"type": "PodScheduled", "status": "True"}, READY],
    }
    named = {"namespace": "default", "name": "engine", "labels": {"app": "llm"}, **metadata}
    return {"metadata": named, "status": {**serves, **(status or {})}}


def test_a_ready_pod_is_a_ready_member_with_its_labels() -> None:
    """To which its name is added."""
    labels = {"app": "llm", "inferencegateway.io/pod": "default/engine"}
    assert member(pod()) == Member(Key("default", "engine"), "10.0.0.1", labels=labels)


def test_a_pods_node_is_known_whatever_its_own_labels_say() -> None:
    """Pairs on one node are preferred by it, and its exporter of GPUs is asked."""
    claimed = {"kubernetes.io/hostname": "another", "inferencegateway.io/node-address": "10.9.9.9"}
    placed = pod({"hostIP": "10.1.0.7"}, labels=claimed) | {"spec": {"nodeName": "node-7"}}
    found = member(placed)
    assert found is not None
    assert found.labels["kubernetes.io/hostname"] == "node-7"
    assert found.labels["inferencegateway.io/node-address"] == "10.1.0.7"


@pytest.mark.parametrize(
    "other",
    [
        pod({"conditions": [{"type": "Ready", "status": "False"}]}),
        pod({"conditions": [{"type": "Ready", "status": "Unknown"}]}),
        pod({"conditions": []}),
        pod({"conditions": None}),
        pod(deletionTimestamp="2026-01-01T00:00:00Z"),
    ],
    ids=["not ready", "unknown", "none yet", "null", "its deletion has begun"],
)
def test_a_pod_that_shall_get_nothing_new_is_known_but_not_ready(other: dict[str, Any]) -> None:
    found = member(other)
    assert found is not None and not found.ready


@pytest.mark.parametrize("status", [{"podIP": ""}, {"podIP": None}, {"phase": "Succeeded"}, {"phase": "Failed"}])
def test_a_pod_that_cannot_be_reached_is_no_member(status: dict[str, Any]) -> None:
    assert member(pod(status)) is None


def test_a_pod_without_a_status_is_no_member() -> None:
    assert member({"metadata": {"namespace": "default", "name": "new"}}) is None


def test_of_the_annotations_only_the_active_ports_are_kept() -> None:
    """The others change for reasons that are not ours."""
    active = {"inference.networking.k8s.io/active-ports": "8000"}
    found = member(pod(annotations={**active, "kubectl.kubernetes.io/restartedAt": "now"}))
    assert found is not None and found.annotations == active


def test_pools_with_one_selector_share_a_watch() -> None:
    assert scope(pool("a")) == Scope("default", "pool=a")
    both = type(pool())(Key("n", "p"), {"b": "2", "a": "1"}, (8000,))
    assert scope(both) == Scope("n", "a=1,b=2")
    assert scope(type(pool())(Key("n", "p"), {}, (8000,))) is None


# ------------------------------------------------------------------------------------------------ in a Pod


@pytest.mark.parametrize(
    ("host", "url"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
)
def test_a_pod_finds_server_trust_and_token(tmp_path: Path, host: str, url: str) -> None:
    (tmp_path / "token").write_text("secret\n")
    text = CERTIFICATE.read_text()
    (tmp_path / "ca.crt").write_text(text[text.index("-----BEGIN CERTIFICATE") :])
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"}
    found = kube_access.in_pod(environment, tmp_path)
    assert (found.server, found.token) == (url, "secret")
    assert found.tls is not None and found.tls.verify_mode is ssl.CERT_REQUIRED
    assert kube_access.in_pod(environment, tmp_path).tls is found.tls, "one context: connections are shared"


def test_without_a_pod_the_advice_is_a_kubeconfig(tmp_path: Path) -> None:
    with pytest.raises(NoAccess, match="--kubeconfig"):
        kube_access.in_pod({}, tmp_path)


def test_an_account_that_was_not_mounted_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoAccess, match="account"):
        kube_access.in_pod({"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "1"}, tmp_path)


@pytest.mark.parametrize("text", ["", "x: [", "[]", "current-context: a", "clusters: 1\ncurrent-context: x"])
def test_a_kubeconfig_that_makes_no_sense_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(NoAccess, match="config: ") as caught:
        kube_access.from_file(tmp_path / "config")
    assert "\n" not in str(caught.value)
