"""The cluster without a container runtime: controllers, Services and names are real, and nothing is left of it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from igw_cluster import cluster as clusters
from igw_cluster.cluster import Cluster, running_cluster
from igw_cluster.kubectl import KubectlFailed
from igw_cluster.private import NODE_IP
from igw_testing.kube import require_built

WAIT_S = 30.0
# An HTTP server on the address and port given.
SERVE = """
import http.server, sys
place = (sys.argv[1], int(sys.argv[2]))
http.server.HTTPServer(place, http.server.SimpleHTTPRequestHandler).serve_forever()
"""
# One question for an A record to the cluster's name server; prints the address in the answer.
RESOLVE = """
import socket, struct, sys
labels = b"".join(bytes([len(part)]) + part.encode() for part in sys.argv[1].split("."))
question = struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + labels + struct.pack("!B2H", 0, 1, 1)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
    asking.settimeout(5)
    asking.sendto(question, ("10.96.0.10", 53))
    answer = asking.recv(4096)
print(socket.inet_ntoa(answer[-4:]) if struct.unpack("!H", answer[6:8])[0] else "no answer")
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_built("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns")
    with running_cluster(tmp_path_factory.mktemp("cluster"), None) as started:
        yield started


def config_map(name: str, owner: str | None = None) -> str:
    owners = [{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner}] if owner else []
    named = f"{name}-owned" if owner else name
    metadata = {"name": named, "namespace": "default", "ownerReferences": owners}
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})


def service_on_the_node(name: str, kind: str = "ClusterIP", target: int = 8000) -> str:
    """A Service whose one endpoint is a port of the node itself, as two objects."""
    spec = {"type": kind, "ports": [{"name": "http", "port": 80}]}
    metadata = {"name": name, "namespace": "default"}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**metadata, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [NODE_IP], "conditions": {"ready": True}}],
        "ports": [{"name": "http", "port": target}],
    }
    return f"{json.dumps(service)}\n{json.dumps(endpoints)}"


def test_a_deleted_namespace_goes_away(cluster: Cluster) -> None:
    cluster.kubectl("create", "namespace", "short-lived")
    cluster.kubectl("delete", "namespace", "short-lived", within=WAIT_S)


def test_what_is_owned_is_collected_with_its_owner(cluster: Cluster) -> None:
    kubectl = cluster.kubectl
    kubectl.apply(config_map("owner"))
    kubectl.apply(config_map("owner", kubectl.get("configmap", "owner", "default")["metadata"]["uid"]))
    kubectl("delete", "configmap", "owner", "-n", "default")
    kubectl.until(
        lambda: "owner-owned" not in {item["metadata"]["name"] for item in kubectl.list("configmaps", "default")},
        WAIT_S,
        "the owned object is collected",
    )


def answers(port: int) -> bool:
    """Whether somebody serves HTTP behind a port of the outer machine."""
    program = "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=2).close()"
    command = [sys.executable, "-c", program, f"http://127.0.0.1:{port}/"]
    return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0


def test_a_service_is_reached_by_its_address_from_inside_and_outside(cluster: Cluster, tmp_path: Path) -> None:
    kubectl = cluster.kubectl
    cluster.machine.start("server", [sys.executable, "-c", SERVE, NODE_IP, "8000"], tmp_path / "log")
    kubectl.apply(service_on_the_node("web"))
    port = cluster.forward("default", "web", 80)
    kubectl.until(lambda: answers(port), WAIT_S, "the Service answers through its forwarded port")


def test_a_service_of_type_load_balancer_gets_an_address_that_works(cluster: Cluster, tmp_path: Path) -> None:
    kubectl = cluster.kubectl
    cluster.machine.start("server", [sys.executable, "-c", SERVE, NODE_IP, "8001"], tmp_path / "log")
    kubectl.apply(service_on_the_node("public", "LoadBalancer", 8001))

    def ingress() -> list[dict[str, str]]:
        status = kubectl.get("service", "public", "default")["status"]
        return list(status["loadBalancer"].get("ingress", ()))

    kubectl.until(lambda: bool(ingress()), WAIT_S, "the Service has an address")
    port = cluster.machine.forward(ingress()[0]["ip"], 80)
    kubectl.until(lambda: answers(port), WAIT_S, "the Service answers at its address")


def test_a_name_of_the_cluster_is_resolved_and_no_other(cluster: Cluster) -> None:
    resolved = cluster.machine.run([sys.executable, "-c", RESOLVE, "kubernetes.default.svc.cluster.local"])
    assert resolved.strip() == "10.96.0.1"
    assert cluster.machine.run([sys.executable, "-c", RESOLVE, "example.com"]).strip() == "no answer"


def test_a_deployment_makes_pods_that_wait_for_a_node(cluster: Cluster) -> None:
    """There is no kubelet, so nothing may run."""
    kubectl = cluster.kubectl
    kubectl("create", "deployment", "idle", "--image=none", "-n", "default")
    kubectl.until(lambda: len(kubectl.list("pods", "default", "app=idle")) == 1, WAIT_S, "a Pod is made")
    assert kubectl.list("pods", "default", "app=idle")[0]["status"]["phase"] == "Pending"


def test_it_is_found_again_by_its_folder_until_it_is_stopped(tmp_path: Path) -> None:
    started = clusters.boot(tmp_path, None)
    try:
        found = clusters.find(tmp_path)
        assert found is not None
        assert found.kubectl.get("namespace", "default")["metadata"]["name"] == "default"
    finally:
        started.stop()
    assert clusters.find(tmp_path) is None
    with pytest.raises(KubectlFailed):
        started.kubectl("get", "namespaces")
