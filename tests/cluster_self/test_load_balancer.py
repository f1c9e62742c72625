"""Services of type LoadBalancer get an address; no other Service is touched."""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import igw_cluster
from igw_cluster import processes
from igw_testing.kube import ApiServer, api_server, fresh_namespace

__all__ = ["api_server"]

SERVICES = """\
apiVersion: v1
kind: Service
metadata: {{name: outer, namespace: {namespace}}}
spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: inner, namespace: {namespace}}}
spec: {{ports: [{{port: 80}}]}}
"""


@pytest.fixture
def balancer(api_server: ApiServer, tmp_path: Path) -> Iterator[None]:
    """The program, against the API server of the session."""
    path = str(Path(igw_cluster.__file__).parents[1])
    words = [sys.executable, "-m", "igw_cluster.loadbalancer", "--kubeconfig", str(api_server.kubeconfig)]
    running = processes.start("balancer", words, tmp_path / "log", environment={"PYTHONPATH": path})
    yield
    running.stop()


def addresses(server: ApiServer, namespace: str, name: str) -> list[str]:
    """Those in the status of a Service."""
    ingress = server.kubectl.get("service", name, namespace)["status"]["loadBalancer"].get("ingress", [])
    return [one["ip"] for one in ingress]


def test_a_service_gets_an_address_whether_it_was_there_before_or_not(api_server: ApiServer, balancer: None) -> None:
    for _ in range(2):
        namespace = fresh_namespace(api_server)
        api_server.kubectl.apply(SERVICES.format(namespace=namespace))
        cluster_ip = api_server.kubectl.get("service", "outer", namespace)["spec"]["clusterIP"]
        wanted = cluster_ip.replace("10.96.", "10.97.", 1)
        given = partial(addresses, api_server, namespace, "outer")
        api_server.kubectl.until(partial(_equal, given, [wanted]), 15, "an address")
        assert addresses(api_server, namespace, "inner") == []


def _equal(left: Callable[[], list[str]], right: list[str]) -> bool:
    return left() == right
