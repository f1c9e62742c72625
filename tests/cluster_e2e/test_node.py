"""The whole cluster: Pods run, are reached by Services and names, restarted and scaled, and leave nothing behind."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from igw_cluster.cluster import Cluster, running_cluster
from igw_cluster.cri.images import host_image, write_images
from igw_cluster.node import Command
from igw_testing.kube import require_built

WAIT_S = 40.0
# Says who answers. Ends at once when asked to, which the first process of a container must provide for itself.
SERVER = """
import http.server, os, signal, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["HOSTNAME"].encode())
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
print("serving", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Answer).serve_forever()
"""
ASK = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())"
MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: server
          image: registry.test/server:1
          readinessProbe: {httpGet: {path: /, port: 8000}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8000}]
"""


def asking(name: str, url: str) -> str:
    """A Pod that asks once, and ends well if it is answered."""
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default}}
spec:
  restartPolicy: Never
  containers: [{{name: client, image: "registry.test/client:1", args: ["{url}"]}}]
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_built("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "coredns")
    folder = tmp_path_factory.mktemp("cluster")
    images = tmp_path_factory.mktemp("images") / "images.json"
    python = "/usr/bin/env", "python3", "-c"
    write_images(
        images,
        {
            "registry.test/server": host_image([*python, SERVER], user="65532"),
            "registry.test/client": host_image([*python, ASK], user="65532"),
        },
    )

    def runtime(socket: Path, state: Path) -> Command:
        return [sys.executable, "-m", "igw_cluster.cri", "--socket", socket, "--root", state, "--images", images]

    with running_cluster(folder, runtime) as started:
        started.kubectl.apply(MANIFESTS)
        started.kubectl("rollout", "status", "deployment/web", "-n", "default", f"--timeout={WAIT_S:.0f}s")
        yield started


def ready_pods(cluster: Cluster) -> set[str]:
    """The names of the server's Pods that would get requests."""
    return {
        pod["metadata"]["name"]
        for pod in cluster.kubectl.list("pods", "default", "app=web")
        if "deletionTimestamp" not in pod["metadata"]
        and any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))
    }


def phase(cluster: Cluster, pod: str) -> str:
    return str(cluster.kubectl.get("pod", pod, "default")["status"]["phase"])


def test_a_pod_reaches_others_by_the_name_of_their_service(cluster: Cluster) -> None:
    """Names, Services and Pods' networks together, as a program in a Pod sees them."""
    kubectl = cluster.kubectl
    kubectl.apply(asking("client", "http://web.default.svc.cluster.local/"))
    kubectl.until(lambda: phase(cluster, "client") in ("Succeeded", "Failed"), WAIT_S, "the client ends")
    said = kubectl("logs", "client", "-n", "default").strip()
    assert (phase(cluster, "client"), said in ready_pods(cluster)) == ("Succeeded", True), said


def test_a_killed_container_is_started_again(cluster: Cluster) -> None:
    kubectl = cluster.kubectl
    victim = min(ready_pods(cluster))
    address = kubectl.get("pod", victim, "default")["status"]["podIP"]
    assert cluster.machine.run([sys.executable, "-c", ASK, f"http://{address}:8000/"]).strip() == victim
    serving = cluster.machine.run(["pgrep", "-f", "ThreadingHTTPServer"]).split()
    cluster.machine.run(["kill", "-KILL", *serving])

    def restarted() -> bool:
        states = kubectl.get("pod", victim, "default")["status"]["containerStatuses"]
        return all(state["restartCount"] >= 1 and state["ready"] for state in states)

    kubectl.until(restarted, WAIT_S, "the container is started again and ready")


def test_scaling_changes_what_runs(cluster: Cluster) -> None:
    kubectl = cluster.kubectl
    kubectl("scale", "deployment/web", "-n", "default", "--replicas=3")
    kubectl.until(lambda: len(ready_pods(cluster)) == 3, WAIT_S, "three Pods are ready")
    kubectl("scale", "deployment/web", "-n", "default", "--replicas=1")
    kubectl.until(lambda: len(kubectl.list("pods", "default", "app=web")) == 1, WAIT_S, "one Pod is left")


def test_an_image_that_is_not_there_is_said_so(cluster: Cluster) -> None:
    kubectl = cluster.kubectl
    kubectl("run", "unknown", "-n", "default", "--image=registry.test/unknown:1")

    def reasons() -> set[str]:
        states = kubectl.get("pod", "unknown", "default")["status"].get("containerStatuses", ())
        return {state["state"].get("waiting", {}).get("reason", "") for state in states}

    kubectl.until(lambda: bool(reasons() & {"ErrImagePull", "ImagePullBackOff"}), WAIT_S, "the reason is given")


def test_nothing_of_it_is_mounted_outside(cluster: Cluster) -> None:
    """Though volumes of Pods and roots of containers are mounted inside."""
    folder = str(cluster.folder)
    assert folder in cluster.machine.run(["cat", "/proc/mounts"])
    assert folder not in Path("/proc/mounts").read_text()
