"""EndpointSlices that Kubernetes derives from our Services have our labels, and are not ours to remove."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from igw_cluster.apiserver import ApiServer
from igw_cluster.kubectl import Kubectl
from igw_operator.controller.changes import HASH_ANNOTATION
from igw_testing.operator_manifests import gateway, pool
from igw_testing.operator_process import SOON_S, clean, install_gateway_kinds, own_objects, running_operator

pytestmark = pytest.mark.timeout(120)
CONTROLLERS = ("endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io")


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


def derived(kinds: Kubectl, place: str, service: str, controller: str) -> str:
    """The slice that this controller makes for the Service: its labels, and when it mirrors, its annotations too."""
    meta = kinds.get("service", service, place)["metadata"]
    name = f"{service}-{controller.partition('-')[0]}"
    labels = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": controller}
    return yaml.safe_dump(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "labels": {**meta["labels"], **labels},
                "annotations": {HASH_ANNOTATION: "copied"} if "mirroring" in controller else {},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": True}}],
            "ports": [{"name": "port-8000", "port": 8000}],
        }
    )


def slices(kinds: Kubectl, place: str) -> set[str]:
    return {name for kind, name in own_objects(kinds, place) if kind == "EndpointSlice"}


def test_slices_that_kubernetes_made_stay(api_server: ApiServer, kinds: Kubectl, place: str, tmp_path: Path) -> None:
    """While their pool is there, over a restart, and when it goes: then Kubernetes removes them with their Service."""
    with running_operator(api_server.kubeconfig, tmp_path, "first") as first:
        kinds.apply(gateway() + "---\n" + pool(), "-n", place)
        kinds.until(lambda: ("HTTPRoute", "igw-llm") in own_objects(kinds, place), SOON_S, "all")
        theirs = {
            f"{service}-{controller.partition('-')[0]}": derived(kinds, place, service, controller)
            for service in ("igw-llm", "igw-gw-p8081", "igw-gw-p8081-front")
            for controller in CONTROLLERS
        }
        kinds.apply("---\n".join(theirs.values()), "-n", place)
        first.serving().idle()
        assert slices(kinds, place) == {*theirs, "igw-gw-p8081-front"}
    with running_operator(api_server.kubeconfig, tmp_path, "second") as second:
        second.serving().idle()
        assert second.writes() == 0
        kinds("delete", "inferencepools.inference.networking.k8s.io", "llm", "-n", place)
        kinds.until(lambda: len(own_objects(kinds, place)) == len(theirs), SOON_S, "only those are left")
        second.idle()
        assert slices(kinds, place) == set(theirs)
