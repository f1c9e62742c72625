"""The calls of the runtime service that say what Pods and containers use."""

import time

from igw_cluster.cri import usage
from igw_cluster.cri.answers import has_labels
from igw_cluster.cri.containers import Container, Containers
from igw_cluster.cri.grpc_table import Call
from igw_cluster.cri.sandboxes import Sandbox, Sandboxes
from igw_cluster.cri.usage import Usage
from igw_cluster.cri.wire import cri_pb2 as pb
from igw_cluster.cri.wire import node_pb2 as node


class Statistics:
    """Reads /proc once per call."""

    def __init__(self, sandboxes: Sandboxes, containers: Containers) -> None:
        self._sandboxes = sandboxes
        self._containers = containers

    def calls(self) -> dict[str, Call]:
        """The methods by name."""
        return {
            "ContainerStats": Call(pb.ContainerId, self._container),
            "ListContainerStats": Call(node.ListContainerStatsRequest, self._list_containers),
            "PodSandboxStats": Call(pb.PodSandboxId, self._sandbox),
            "ListPodSandboxStats": Call(node.ListPodSandboxStatsRequest, self._list_sandboxes),
        }

    def _container(self, request: pb.ContainerId) -> node.ContainerStatsResponse:
        found = self._containers.get(request.container_id)
        return node.ContainerStatsResponse(stats=_container_stats(found, usage.by_namespace()))

    def _list_containers(self, request: node.ListContainerStatsRequest) -> node.ListContainerStatsResponse:
        wanted, used = request.filter, usage.by_namespace()
        chosen = (
            container
            for container in self._containers.all()
            if wanted.id in ("", container.id)
            and wanted.pod_sandbox_id in ("", container.sandbox_id)
            and has_labels(container.config.labels, wanted.label_selector)
        )
        running = (container for container in chosen if container.refresh() == pb.CONTAINER_RUNNING)
        return node.ListContainerStatsResponse(stats=[_container_stats(container, used) for container in running])

    def _sandbox(self, request: pb.PodSandboxId) -> node.PodSandboxStatsResponse:
        found = self._sandboxes.get(request.pod_sandbox_id)
        return node.PodSandboxStatsResponse(stats=self._sandbox_stats(found, usage.by_namespace()))

    def _list_sandboxes(self, request: node.ListPodSandboxStatsRequest) -> node.ListPodSandboxStatsResponse:
        wanted, used = request.filter, usage.by_namespace()
        chosen = (
            sandbox
            for sandbox in self._sandboxes.all()
            if wanted.id in ("", sandbox.id) and has_labels(sandbox.config.labels, wanted.label_selector)
        )
        return node.ListPodSandboxStatsResponse(stats=[self._sandbox_stats(sandbox, used) for sandbox in chosen])

    def _sandbox_stats(self, sandbox: Sandbox, used: dict[int, Usage]) -> node.PodSandboxStats:
        containers = self._containers.of(sandbox.id)
        running = [container for container in containers if container.refresh() == pb.CONTAINER_RUNNING]
        total = sum((_usage(container, used) for container in running), Usage())
        config, now = sandbox.config, time.time_ns()
        return node.PodSandboxStats(
            attributes=node.PodSandboxAttributes(
                id=sandbox.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
            ),
            linux=node.LinuxPodSandboxStats(
                cpu=_cpu(total, now),
                memory=_memory(total, now),
                process=node.ProcessUsage(timestamp=now, process_count=pb.UInt64Value(value=total.processes)),
                containers=[_container_stats(container, used) for container in running],
            ),
        )


def _usage(container: Container, used: dict[int, Usage]) -> Usage:
    """Nothing for one that has just ended; only the program's own use where it has no PID namespace of its own."""
    if container.program is None:
        return Usage()
    try:
        inode = usage.namespace(container.program.pid)
        return used.get(inode, Usage()) if inode != usage.namespace(1) else usage.of_process(container.program.pid)
    except OSError:
        return Usage()


def _container_stats(container: Container, used: dict[int, Usage]) -> node.ContainerStats:
    config, now = container.config, time.time_ns()
    use = _usage(container, used)
    return node.ContainerStats(
        attributes=node.ContainerAttributes(
            id=container.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
        ),
        cpu=_cpu(use, now),
        memory=_memory(use, now),
    )


def _cpu(use: Usage, now: int) -> node.CpuUsage:
    return node.CpuUsage(timestamp=now, usage_core_nano_seconds=pb.UInt64Value(value=use.cpu_ns))


def _memory(use: Usage, now: int) -> node.MemoryUsage:
    resident = pb.UInt64Value(value=use.memory)
    return node.MemoryUsage(timestamp=now, working_set_bytes=resident, usage_bytes=resident, rss_bytes=resident)
