"""The runtime service: sandboxes, containers and commands in them, for the kubelet.

Requests are translated and handed on; what is refused is refused here by name. Calls run in threads.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from google.protobuf.message import Message

from igw_cluster.cri import answers
from igw_cluster.cri.containers import Containers
from igw_cluster.cri.errors import NotFound, Unsupported
from igw_cluster.cri.grpc_table import Call
from igw_cluster.cri.images import ImageFile
from igw_cluster.cri.network import Network
from igw_cluster.cri.sandboxes import Sandboxes
from igw_cluster.cri.wire import cri_pb2 as pb
from igw_cluster.cri.wire import node_pb2 as node
from igw_cluster.cri.zygote import Zygote

log = logging.getLogger(__name__)

NAME, VERSION = "igw-test-cri", "1.0.0"
_REMOVERS = 16


class Runtime:
    """The node's Pods and containers, and the calls on them."""

    def __init__(self, root: Path, zygote: Zygote, network: Network, images: ImageFile) -> None:
        self.sandboxes = Sandboxes(root, zygote, network)
        self.containers = Containers(root, zygote)
        self._images = images
        self._zygote = zygote

    def take_over(self) -> None:
        """Goes on with what an earlier runtime left; removes what cannot go on."""
        foreign = self.sandboxes.take_over()
        self.containers.take_over()
        known = {sandbox.id for sandbox in self.sandboxes.all()}
        for container in self.containers.all():
            if container.sandbox_id not in known:
                self.containers.remove(container.id)
        for sandbox in foreign:
            self._remove_sandbox(sandbox.id)

    def remove_all(self) -> None:
        """Ends all containers and gives up all namespaces, without grace."""
        with ThreadPoolExecutor(_REMOVERS) as pool:
            for _ in pool.map(self._remove_sandbox, [sandbox.id for sandbox in self.sandboxes.all()]):
                pass

    def calls(self) -> dict[str, Call]:
        """The methods by name."""
        return {
            "Version": Call(pb.Empty, self._version),
            "Status": Call(pb.Empty, self._status),
            "RuntimeConfig": Call(pb.Empty, self._runtime_config),
            # The Pods' network is set by a flag.
            "UpdateRuntimeConfig": Call(pb.Empty, _nothing),
            "RunPodSandbox": Call(pb.RunPodSandboxRequest, self._run_sandbox),
            "StopPodSandbox": Call(pb.PodSandboxId, self._stop_pod_sandbox),
            "RemovePodSandbox": Call(pb.PodSandboxId, self._remove_pod_sandbox),
            "PodSandboxStatus": Call(pb.PodSandboxId, self._pod_sandbox_status),
            "ListPodSandbox": Call(pb.ListPodSandboxRequest, self._list_pod_sandbox),
            "CreateContainer": Call(pb.CreateContainerRequest, self._create_container),
            "StartContainer": Call(pb.ContainerId, self._start_container),
            "StopContainer": Call(pb.StopContainerRequest, self._stop_container),
            "RemoveContainer": Call(pb.ContainerId, self._remove_container),
            "ListContainers": Call(pb.ListContainersRequest, self._list_containers),
            "ContainerStatus": Call(pb.ContainerId, self._container_status),
            # Limits are not enforced, so there is nothing to change.
            "UpdateContainerResources": Call(pb.UpdateContainerResourcesRequest, self._update_resources),
            "ReopenContainerLog": Call(pb.ContainerId, self._reopen_log),
            "ExecSync": Call(pb.ExecSyncRequest, self._exec_sync),
            "Exec": Call(pb.Empty, _refused("kubectl exec")),
            "Attach": Call(pb.Empty, _refused("kubectl attach")),
            "PortForward": Call(pb.Empty, _refused("kubectl port-forward")),
        }

    def _version(self, _: pb.Empty) -> node.VersionResponse:
        return node.VersionResponse(
            version="0.1.0", runtime_name=NAME, runtime_version=VERSION, runtime_api_version="v1"
        )

    def _status(self, _: pb.Empty) -> node.StatusResponse:
        alive = self._zygote.alive()
        reason, message = ("", "") if alive else ("ZygoteEnded", "the runtime's zygote has ended: restart the runtime")
        ready = [
            node.RuntimeCondition(type="RuntimeReady", status=alive, reason=reason, message=message),
            node.RuntimeCondition(type="NetworkReady", status=True),
        ]
        features = node.RuntimeFeatures(supplemental_groups_policy=True)
        return node.StatusResponse(status=node.RuntimeStatus(conditions=ready), features=features)

    def _runtime_config(self, _: pb.Empty) -> node.RuntimeConfigResponse:
        return node.RuntimeConfigResponse(linux=node.LinuxRuntimeConfiguration(cgroup_driver=node.CGROUPFS))

    def _run_sandbox(self, request: pb.RunPodSandboxRequest) -> pb.PodSandboxId:
        sandbox = self.sandboxes.run(request.config)
        pod = request.config.metadata
        log.info("sandbox run pod=%s/%s id=%s address=%s", pod.namespace, pod.name, sandbox.id, sandbox.address)
        return pb.PodSandboxId(pod_sandbox_id=sandbox.id)

    def _stop_pod_sandbox(self, request: pb.PodSandboxId) -> pb.Empty:
        with suppress(NotFound):
            self._stop_sandbox(request.pod_sandbox_id)
        return pb.Empty()

    def _stop_sandbox(self, sandbox_id: str) -> None:
        for container in self.containers.of(sandbox_id):
            with suppress(NotFound):
                self.containers.stop(container.id, 0)
        self.sandboxes.stop(sandbox_id)

    def _remove_pod_sandbox(self, request: pb.PodSandboxId) -> pb.Empty:
        self._remove_sandbox(request.pod_sandbox_id)
        return pb.Empty()

    def _remove_sandbox(self, sandbox_id: str) -> None:
        try:
            for container in self.containers.of(sandbox_id):
                self.containers.remove(container.id)
            self.sandboxes.remove(sandbox_id)
        except NotFound:
            return
        log.info("sandbox removed id=%s", sandbox_id)

    def _pod_sandbox_status(self, request: pb.PodSandboxId) -> pb.PodSandboxStatusResponse:
        return pb.PodSandboxStatusResponse(status=answers.sandbox_status(self.sandboxes.get(request.pod_sandbox_id)))

    def _list_pod_sandbox(self, request: pb.ListPodSandboxRequest) -> pb.ListPodSandboxResponse:
        items = map(answers.sandbox_item, self.sandboxes.all())
        return pb.ListPodSandboxResponse(
            items=(item for item in items if answers.sandbox_matches(item, request.filter))
        )

    def _create_container(self, request: pb.CreateContainerRequest) -> pb.ContainerId:
        image = self._images.pull(request.config.image.image)
        sandbox = self.sandboxes.get(request.pod_sandbox_id)
        return pb.ContainerId(container_id=self.containers.create(sandbox, request.config, image).id)

    def _start_container(self, request: pb.ContainerId) -> pb.Empty:
        self.containers.start(request.container_id)
        name = self.containers.get(request.container_id).config.metadata.name
        log.info("container started name=%s id=%s", name, request.container_id)
        return pb.Empty()

    def _stop_container(self, request: pb.StopContainerRequest) -> pb.Empty:
        with suppress(NotFound):
            self.containers.stop(request.container_id, request.timeout)
        return pb.Empty()

    def _remove_container(self, request: pb.ContainerId) -> pb.Empty:
        self.containers.remove(request.container_id)
        return pb.Empty()

    def _list_containers(self, request: pb.ListContainersRequest) -> pb.ListContainersResponse:
        items = map(answers.container_item, self.containers.all())
        return pb.ListContainersResponse(
            containers=(item for item in items if answers.container_matches(item, request.filter))
        )

    def _container_status(self, request: pb.ContainerId) -> pb.ContainerStatusResponse:
        container = self.containers.get(request.container_id)
        return pb.ContainerStatusResponse(status=answers.container_status(container))

    def _update_resources(self, request: pb.UpdateContainerResourcesRequest) -> pb.Empty:
        self.containers.get(request.container_id)
        return pb.Empty()

    def _reopen_log(self, request: pb.ContainerId) -> pb.Empty:
        self.containers.reopen_log(request.container_id)
        return pb.Empty()

    def _exec_sync(self, request: pb.ExecSyncRequest) -> pb.ExecSyncResponse:
        out, err, code = self.containers.execute(request.container_id, request.cmd, request.timeout)
        return pb.ExecSyncResponse(stdout=out, stderr=err, exit_code=code)


def _nothing(_: Message) -> pb.Empty:
    return pb.Empty()


def _refused(what: str) -> Callable[[Message], Message]:
    def refuse(_: Message) -> Message:
        raise Unsupported(f"{what} is not offered by the test cluster's runtime; use kubectl logs or an exec probe")

    return refuse
