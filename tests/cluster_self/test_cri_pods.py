"""Pods of the test cluster's runtime: their network, what is refused, and that nothing stays behind."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from igw_cluster.cri.wire import cri_pb2 as cri
from igw_cluster.cri.wire import node_pb2 as node
from igw_testing.container_runtime import Pod, Runtime, running_runtime, until

SLEEP = ["sleep", "1000"]
# Answers with the address of the one who asks.
SERVE = """\
import socket
with socket.create_server(("0.0.0.0", 80)) as server:
    print("serving", flush=True)
    while True:
        connection, peer = server.accept()
        connection.sendall(peer[0].encode())
        connection.close()
"""
ASK = "import socket, sys; print(socket.create_connection((sys.argv[1], 80), timeout=5).recv(100).decode())"
SERVER = [sys.executable, "-c", SERVE]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    with running_runtime(tmp_path_factory.mktemp("cri")) as running:
        yield running


def serving(runtime: Runtime, name: str, image: str) -> tuple[Pod, str]:
    pod = runtime.pod(name)
    container = runtime.run(pod, SERVER, image=image)
    until(lambda: "serving" in runtime.log(pod), "the server")
    return pod, container


def test_pods_reach_each_other_through_the_node_and_each_has_its_own_ports(runtime: Runtime) -> None:
    """Through the node, because its NAT must see both directions of a connection to a Service."""
    (first, asking), (second, _) = (serving(runtime, name, "test/user") for name in ("first", "second"))
    own, other = (runtime.address(pod) for pod in (first, second))
    assert own != other
    assert runtime.output(asking, sys.executable, "-c", ASK, other).strip() == own
    assert runtime.output(asking, sys.executable, "-c", ASK, "127.0.0.1").strip() == "127.0.0.1"
    assert f"{other} via 10.244.0.1 " in runtime.output(asking, "ip", "route", "get", other)
    asked_by_the_node = runtime.machine.run([sys.executable, "-c", ASK, other])
    assert asked_by_the_node.strip() == "10.244.0.1"


def test_containers_of_a_pod_share_its_network_but_not_its_processes(runtime: Runtime) -> None:
    pod, _ = serving(runtime, "shared", "test/host")
    beside = runtime.run(pod, SLEEP)
    assert runtime.output(beside, sys.executable, "-c", ASK, "127.0.0.1").strip() == "127.0.0.1"
    assert "python" not in runtime.output(beside, "ps", "-eo", "comm=")


def test_a_pod_on_the_nodes_network_sees_the_bridge_and_has_no_address(runtime: Runtime) -> None:
    pod = runtime.pod("on-node", network=cri.NODE)
    assert runtime.address(pod) == ""
    assert "igw0" in runtime.output(runtime.run(pod, SLEEP), "ip", "-br", "link")


def test_a_removed_pod_leaves_no_interface_process_or_file(runtime: Runtime) -> None:
    pod = runtime.pod("leaving")
    container = runtime.run(pod, ["sleep", "4713"])
    runtime.remove(pod)
    assert f"igwpod{pod.id[:9]}" not in runtime.machine.run(["ip", "link"])
    assert not any("sleep 4713" in process for process in runtime.processes())
    assert not list(runtime.folder.glob(f"root/*/{pod.id}"))
    assert not list(runtime.folder.glob(f"root/*/{container}"))


def test_stops_and_removals_can_be_repeated(runtime: Runtime) -> None:
    pod = runtime.pod("repeated")
    container = runtime.run(pod, SLEEP)
    for _ in range(2):
        runtime.stop(container, grace=0)
        runtime.call("StopPodSandbox", cri.PodSandboxId(pod_sandbox_id=pod.id))
    status = runtime.call("PodSandboxStatus", cri.PodSandboxId(pod_sandbox_id=pod.id), cri.PodSandboxStatusResponse)
    assert status.status.state == cri.SANDBOX_NOTREADY
    for _ in range(2):
        runtime.call("RemoveContainer", cri.ContainerId(container_id=container))
        runtime.remove(pod)
    with pytest.raises(grpc.RpcError) as missing:
        runtime.status(container)
    assert missing.value.code() == grpc.StatusCode.NOT_FOUND


def test_many_pods_start_and_stop_side_by_side(runtime: Runtime) -> None:
    def live(number: int) -> str:
        pod = runtime.pod(f"many-{number}")
        container = runtime.run(pod, SLEEP)
        address = runtime.address(pod)
        assert runtime.output(container, "hostname").strip() == f"many-{number}"
        assert runtime.stop(container, grace=0) < 20
        runtime.remove(pod)
        return address

    with ThreadPoolExecutor(40) as pool:
        addresses = list(pool.map(live, range(40)))
    assert len(set(addresses)) == 40


def test_lists_are_filtered_by_labels_state_and_pod(runtime: Runtime) -> None:
    pod = runtime.pod("listed")
    running, created = runtime.run(pod, SLEEP), runtime.create(pod, SLEEP)

    def containers(**wanted: object) -> list[str]:
        request = cri.ListContainersRequest(filter=cri.ContainerFilter(pod_sandbox_id=pod.id, **wanted))  # type: ignore[arg-type]
        return [item.id for item in runtime.call("ListContainers", request, cri.ListContainersResponse).containers]

    assert sorted(containers()) == sorted([running, created])
    assert containers(state=cri.ContainerStateValue(state=cri.CONTAINER_RUNNING)) == [running]
    wanted = cri.PodSandboxFilter(label_selector={"app": "listed"})
    items = runtime.call("ListPodSandbox", cri.ListPodSandboxRequest(filter=wanted), cri.ListPodSandboxResponse).items
    assert [item.id for item in items] == [pod.id]


def test_use_of_processor_and_memory_is_counted(runtime: Runtime) -> None:
    pod = runtime.pod("counted")
    container = runtime.run(pod, [sys.executable, "-c", "while True: pass"])

    def stats() -> node.ContainerStats:
        request = cri.ContainerId(container_id=container)
        answer: node.ContainerStats = runtime.call("ContainerStats", request, node.ContainerStatsResponse).stats
        return answer

    until(lambda: stats().cpu.usage_core_nano_seconds.value > 100_000_000, "a tenth of a second of work")
    assert stats().memory.working_set_bytes.value > 1_000_000
    runtime.remove(pod)


@pytest.mark.parametrize("method", ["Exec", "Attach", "PortForward"])
def test_streaming_is_refused_by_name(runtime: Runtime, method: str) -> None:
    with pytest.raises(grpc.RpcError, match="not offered") as refused:
        runtime.call(method, cri.Empty())
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_images_are_the_entries_of_the_file(runtime: Runtime) -> None:
    def known(name: str) -> node.ImageStatusResponse:
        request = node.ImageRequest(image=cri.ImageSpec(image=name))
        answer: node.ImageStatusResponse = runtime.call(
            "ImageStatus", request, node.ImageStatusResponse, "ImageService"
        )
        return answer

    found = known("test/user:any").image
    assert (found.uid.value, list(found.repo_tags)) == (65532, ["test/user"])
    assert known(found.id).image.id == found.id
    assert known("test/tagged:1").HasField("image")
    for missing in ("test/tagged:2", "test/none", "test/broken"):
        assert not known(missing).HasField("image")
        with pytest.raises(grpc.RpcError, match=missing):
            runtime.call(
                "PullImage",
                node.ImageRequest(image=cri.ImageSpec(image=missing)),
                node.PullImageResponse,
                "ImageService",
            )


def test_a_restarted_runtime_takes_over_what_runs_and_what_ended_meanwhile(tmp_path: Path) -> None:
    with running_runtime(tmp_path) as runtime:
        pod = runtime.pod("kept")
        address = runtime.address(pod)
        lasting, ending = (
            runtime.run(pod, SLEEP),
            runtime.run(pod, ["sh", "-c", "until test -e /stop; do sleep 0.02; done; exit 6"]),
        )
        runtime.signal("KILL")
        assert any(process == "sleep 1000" for process in runtime.processes())
        runtime.start()
        assert runtime.address(pod) == address
        assert runtime.output(lasting, "hostname").strip() == "kept"
        # Its end may also be the end of the command that brings it about.
        runtime.execute(ending, "touch", "/stop")
        assert runtime.ended(ending).exit_code == 6
        assert runtime.address(runtime.pod("new")) != address
        runtime.stop(lasting, grace=0)
        assert runtime.ended(lasting).exit_code == 137


def test_a_pod_whose_namespaces_are_gone_is_not_ready(tmp_path: Path) -> None:
    with running_runtime(tmp_path) as runtime:
        pod = runtime.pod("lost")
        runtime.machine.run(["pkill", "-KILL", "-x", "cri-pod"])
        request = cri.PodSandboxId(pod_sandbox_id=pod.id)

        def lost() -> bool:
            status = runtime.call("PodSandboxStatus", request, cri.PodSandboxStatusResponse).status
            return bool(status.state == cri.SANDBOX_NOTREADY)

        until(lost, "the loss to be seen")
        runtime.remove(pod)


def test_what_a_killed_runtime_left_can_be_cleaned_away(tmp_path: Path) -> None:
    with running_runtime(tmp_path) as runtime:
        runtime.run(runtime.pod("left"), ["sleep", "4715"])
        runtime.signal("KILL")
        runtime.clean()
        until(lambda: not any("sleep 4715" in one or "cri" in one for one in runtime.processes()), "the end of all")
        assert "igwpod" not in runtime.machine.run(["ip", "link"])
        assert not list(tmp_path.glob("root/*/*"))


def test_without_its_zygote_the_runtime_is_not_ready(tmp_path: Path) -> None:
    with running_runtime(tmp_path) as runtime:

        def conditions() -> dict[str, bool]:
            answer = runtime.call("Status", cri.Empty(), node.StatusResponse)
            return {condition.type: condition.status for condition in answer.status.conditions}

        assert conditions() == {"RuntimeReady": True, "NetworkReady": True}
        runtime.machine.run(["pkill", "-KILL", "-x", "cri-zygote"])
        until(lambda: not conditions()["RuntimeReady"], "the end of the zygote to be seen")
        with pytest.raises(grpc.RpcError, match="hold"):
            runtime.pod("impossible")


def test_sigterm_ends_and_removes_everything(tmp_path: Path) -> None:
    with running_runtime(tmp_path) as runtime:
        runtime.run(runtime.pod("ended"), ["sleep", "4714"])
        runtime.signal("TERM")
        until(lambda: not any("sleep 4714" in one or "cri" in one for one in runtime.processes()), "the end of all")
        assert "igwpod" not in runtime.machine.run(["ip", "link"])
        assert not list(tmp_path.glob("root/*/*"))
