"""What Pods ask of the container runtime through the real kubelet: volumes, rights, hooks, probes, orders and ends."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from igw_cluster.cluster import Cluster, running_cluster
from igw_cluster.cri.images import host_image, write_images
from igw_cluster.node import Command
from igw_testing.kube import require_built

WAIT_S = 60.0
# Ends at once when asked to, and lives on otherwise.
STAY = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
CLOSED = {
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def runtime_command(images: Path, socket: Path, state: Path) -> Command:
    return [sys.executable, "-m", "igw_cluster.cri", "--socket", socket, "--root", state, "--images", images]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "images.json"
    shell = ["/bin/sh", "-c"]
    write_images(path, {"test/shell": host_image(shell), "test/user": host_image(shell, user="65532")})
    return path


@pytest.fixture(scope="module")
def cluster(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_built("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "coredns")
    folder = tmp_path_factory.mktemp("cluster")
    with running_cluster(folder, lambda socket, state: runtime_command(images, socket, state)) as booted:
        yield booted


def container(script: str, name: str = "main", image: str = "test/shell", **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": image, "args": [script], **fields}


def run(cluster: Cluster, name: str, *containers: dict[str, Any], **spec: Any) -> None:
    """A Pod; without more said, it is not restarted and has five seconds to end."""
    whole = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": containers, **spec}
    metadata = {"name": name, "namespace": "default", "labels": {"app": name}}
    cluster.kubectl.apply(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole}))


def status(cluster: Cluster, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster.kubectl.get("pod", name, "default")["status"]
    return found


def first(cluster: Cluster, name: str) -> dict[str, Any]:
    """The status of the Pod's first container; as one that waits while the kubelet has said nothing yet."""
    unknown = {"restartCount": 0, "state": {"waiting": {}}}
    found: dict[str, Any] = next(iter(status(cluster, name).get("containerStatuses", ())), unknown)
    return found


def ended(cluster: Cluster, name: str) -> dict[str, Any]:
    """How the first container of a Pod ended that is not restarted."""
    cluster.kubectl.until(lambda: status(cluster, name)["phase"] in ("Succeeded", "Failed"), WAIT_S, f"{name} ends")
    found: dict[str, Any] = first(cluster, name)["state"]["terminated"]
    return found


def log(cluster: Cluster, name: str, *words: str) -> str:
    return cluster.kubectl("logs", name, "-n", "default", *words)


def running(cluster: Cluster, name: str) -> None:
    cluster.kubectl.until(lambda: status(cluster, name)["phase"] == "Running", WAIT_S, f"{name} runs")


def test_a_closed_container_reads_all_kinds_of_volumes(cluster: Cluster) -> None:
    """As the product's own Pods are: a plain user, no rights, a read-only root."""
    kubectl = cluster.kubectl
    kubectl("create", "secret", "generic", "keys", "-n", "default", "--from-literal=key=hidden")
    kubectl("create", "configmap", "settings", "-n", "default", "--from-literal=one=1", "--from-literal=two=2")
    volumes = [
        {"name": "secret", "secret": {"secretName": "keys"}},
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {
            "name": "about",
            "downwardAPI": {"items": [{"path": "app", "fieldRef": {"fieldPath": "metadata.labels['app']"}}]},
        },
    ]
    mounts = [
        {"name": "secret", "mountPath": "/secret"},
        {"name": "settings", "mountPath": "/etc/settings/two", "subPath": "two"},
        {"name": "memory", "mountPath": "/memory"},
        {"name": "about", "mountPath": "/about"},
    ]
    script = (
        "id -u; id -G; cat /secret/key; echo; cat /etc/settings/two; echo; cat /about/app; echo; "
        "touch /memory/new && echo memory; touch /new 2>&1 || echo read-only; touch /secret/new 2>&1 || echo secret; "
        "test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token; "
        "grep -c closed /etc/hosts; grep CapBnd /proc/self/status; grep NoNewPrivs /proc/self/status; echo $FROM_KEY"
    )
    env = [{"name": "FROM_KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}}]
    main = container(script, image="test/user", securityContext=CLOSED, volumeMounts=mounts, env=env)
    run(cluster, "closed", main, volumes=volumes, securityContext={"fsGroup": 4000})
    assert ended(cluster, "closed")["exitCode"] == 0
    said = log(cluster, "closed").splitlines()
    assert said[:6] == ["65532", "0 4000", "hidden", "2", "closed", "memory"]
    assert {"read-only", "secret", "token", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} <= set(said)
    assert said[-4:][0] == "1"
    assert said[-1] == "hidden"


def test_a_container_that_would_be_root_is_refused_where_that_is_asked(cluster: Cluster) -> None:
    """The kubelet learns the user from the image."""
    run(cluster, "root", container("id", securityContext={"runAsNonRoot": True}))

    def reason() -> str:
        return str(first(cluster, "root")["state"].get("waiting", {}).get("reason"))

    cluster.kubectl.until(lambda: reason() == "CreateContainerConfigError", WAIT_S, "the refusal")


def test_the_last_words_and_the_code_are_in_the_status(cluster: Cluster) -> None:
    run(cluster, "words", container("echo on the screen; printf 'the reason' > /dev/termination-log; exit 7"))
    end = ended(cluster, "words")
    assert (end["exitCode"], end["reason"], end["message"]) == (7, "Error", "the reason")
    run(cluster, "screen", container("echo the screen; exit 8", terminationMessagePolicy="FallbackToLogsOnError"))
    assert ended(cluster, "screen")["message"].strip() == "the screen"


def test_a_program_that_is_not_there_is_said_so(cluster: Cluster) -> None:
    run(cluster, "missing", container("", command=["/no/such/program"]))
    end = ended(cluster, "missing")
    assert (end["reason"], end["exitCode"]) == ("StartError", 128)
    assert "cannot start '/no/such/program'" in end["message"]


def test_init_containers_run_in_order_and_a_sidecar_beside_the_others(cluster: Cluster) -> None:
    shared: dict[str, Any] = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    inits = [
        container("echo first >> /shared/order", "one", **shared),
        container(f"echo sidecar >> /shared/order; {STAY}", "beside", restartPolicy="Always", **shared),
        container("until grep sidecar /shared/order; do sleep 0.05; done; echo last >> /shared/order", "two", **shared),
    ]
    main = container("cat /shared/order", **shared)
    run(cluster, "ordered", main, initContainers=inits, volumes=[{"name": "shared", "emptyDir": {}}])
    assert ended(cluster, "ordered")["exitCode"] == 0
    assert log(cluster, "ordered", "-c", "main").split() == ["first", "sidecar", "last"]


def test_hooks_run_and_the_grace_is_kept(cluster: Cluster, tmp_path: Path) -> None:
    """After the start, and before the signal to end; what the program does with the signal is seen too."""
    hooks = {
        "postStart": {"exec": {"command": ["/bin/sh", "-c", "echo started >> /seen/order"]}},
        "preStop": {"exec": {"command": ["/bin/sh", "-c", "echo stopping >> /seen/order"]}},
    }
    script = "trap 'echo asked >> /seen/order; exit 0' TERM; while :; do sleep 0.05; done"
    volumes = [{"name": "seen", "hostPath": {"path": str(tmp_path)}}]
    mounts = [{"name": "seen", "mountPath": "/seen"}]
    run(cluster, "hooks", container(script, lifecycle=hooks, volumeMounts=mounts), volumes=volumes)
    running(cluster, "hooks")
    cluster.kubectl("delete", "pod", "hooks", "-n", "default", "--timeout=60s")
    assert (tmp_path / "order").read_text().split() == ["started", "stopping", "asked"]


def test_a_failing_liveness_command_restarts_the_container(cluster: Cluster) -> None:
    probe = {
        "exec": {"command": ["/bin/sh", "-c", "test ! -e /var/tmp/ill"]},
        "periodSeconds": 1,
        "failureThreshold": 1,
    }
    script = f"echo born; (sleep 1; touch /var/tmp/ill) & {STAY}"
    run(cluster, "ill", container(script, livenessProbe=probe), restartPolicy="Always")
    cluster.kubectl.until(lambda: first(cluster, "ill")["restartCount"] >= 1, WAIT_S, "the restart")
    assert log(cluster, "ill", "--previous").strip() == "born"
    cluster.kubectl("delete", "pod", "ill", "-n", "default", "--timeout=60s")


def test_pods_go_on_while_the_runtime_is_killed_and_started_again(cluster: Cluster, images: Path) -> None:
    run(cluster, "lasting", container(f"echo born; {STAY}"), restartPolicy="Always")
    running(cluster, "lasting")
    before = first(cluster, "lasting")["containerID"]
    # The oldest of its processes; the others are parents of containers.
    serving = cluster.machine.run(["pgrep", "-o", "-f", "igw_cluster.cri "]).strip()
    cluster.machine.run(["kill", "-KILL", serving])
    words = runtime_command(images, Path("/run/cri.sock"), cluster.folder / "cri")
    log_file = cluster.folder / "logs" / "cri-again.log"
    environment = {"PYTHONPATH": str(Path(__file__).parents[1] / "cluster")}
    again = cluster.machine.start("cri", words, log_file, environment)
    again.wait_ready(lambda: "cri ready" in log_file.read_text(), WAIT_S)
    assert serving not in cluster.machine.run(["pgrep", "-f", "igw_cluster.cri "]).split()
    run(cluster, "after", container("echo after"))
    assert ended(cluster, "after")["exitCode"] == 0
    assert first(cluster, "lasting")["restartCount"] == 0
    assert first(cluster, "lasting")["containerID"] == before
    cluster.kubectl("delete", "pod", "lasting", "-n", "default", "--timeout=60s")
