"""The operator with the rights that the chart gives it, and no more: it does its whole work, and never asks in vain."""

import json
from pathlib import Path

import pytest

from igw_cluster import builds
from igw_cluster.apiserver import ApiServer, running_api_server
from igw_cluster.helm import Helm
from igw_testing.operator_manifests import gateway, model, pool
from igw_testing.operator_process import (
    CHARTS,
    SOON_S,
    install_gateway_kinds,
    own_objects,
    running_operator,
)

pytestmark = pytest.mark.timeout(180)
SYSTEM = "igw-system"
PARTS = ("serviceaccount", "clusterrole", "peering")


def install_rights(server: ApiServer, folder: Path) -> tuple[Path, str]:
    """What the chart gives the operator. Returns its kubeconfig, and the name of its peering."""
    kubectl = server.kubectl
    kubectl.apply(Path(__file__).parents[2] / "crds")
    install_gateway_kinds(kubectl)
    kubectl("create", "namespace", SYSTEM)
    helm = Helm(builds.ensure(["helm"])["helm"], server.kubeconfig, folder)
    shown = [f"--show-only=templates/{part}.yaml" for part in PARTS]
    kubectl.apply(helm("template", "igw", str(CHARTS), "-n", SYSTEM, "--kube-version=1.36.0", *shown), "-n", SYSTEM)
    account = kubectl.list("serviceaccount", SYSTEM)[0]["metadata"]["name"]
    return server.kubeconfig_of(SYSTEM, account), kubectl.list("clusterkopfpeering")[0]["metadata"]["name"]


def test_the_charts_rights_are_enough(tmp_path: Path) -> None:
    """From the first pass over statuses and events to the removal of everything; nothing is ever forbidden."""
    with running_api_server(tmp_path / "server") as server:
        kubeconfig, peering = install_rights(server, tmp_path)
        kubectl = server.kubectl
        with running_operator(kubeconfig, tmp_path, peering=peering) as operator:
            operator.serving()
            kubectl.apply("---\n".join((gateway(), pool(), model("a"))), "-n", "default")
            kubectl.until(lambda: ("HTTPRoute", "igw-llm") in own_objects(kubectl), SOON_S, "the route")
            kubectl.until(lambda: len(kubectl.list("events", "default")) > 2, SOON_S, "events")
            operator.idle()
            kubectl("delete", "inferencepools.inference.networking.k8s.io", "--all", "-n", "default")
            kubectl.until(lambda: not own_objects(kubectl), SOON_S, "gone")
            assert operator.stop() == 0
        calls = [json.loads(line) for line in server.audit.read_text().splitlines()]
        refused = {
            f"{one['verb']} {one['requestURI']}"
            for one in calls
            if f"system:serviceaccount:{SYSTEM}" in one["user"]["username"] and one["responseStatus"]["code"] == 403
        }
        assert not refused
