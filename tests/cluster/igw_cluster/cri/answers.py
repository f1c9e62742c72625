"""Sandboxes, containers and images as the messages that the kubelet reads. Pure."""

from collections.abc import Mapping

from igw_cluster.cri.containers import Container
from igw_cluster.cri.images import Found
from igw_cluster.cri.sandboxes import Sandbox
from igw_cluster.cri.wire import cri_pb2 as pb
from igw_cluster.cri.wire import node_pb2 as node


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether all that is wanted is there."""
    return all(labels.get(name) == value for name, value in wanted.items())


def sandbox_state(sandbox: Sandbox) -> "pb.PodSandboxState":
    """Ready or not: there is nothing else."""
    return pb.SANDBOX_READY if sandbox.ready() else pb.SANDBOX_NOTREADY


def sandbox_item(sandbox: Sandbox) -> pb.PodSandbox:
    """For lists."""
    return pb.PodSandbox(
        id=sandbox.id,
        metadata=sandbox.config.metadata,
        state=sandbox_state(sandbox),
        created_at=sandbox.created,
        labels=sandbox.config.labels,
        annotations=sandbox.config.annotations,
    )


def sandbox_status(sandbox: Sandbox) -> pb.PodSandboxStatus:
    """All that is known of it. In the node's own network it has no address of its own."""
    options = sandbox.config.linux.security_context.namespace_options
    return pb.PodSandboxStatus(
        id=sandbox.id,
        metadata=sandbox.config.metadata,
        state=sandbox_state(sandbox),
        created_at=sandbox.created,
        network=pb.PodSandboxNetworkStatus(ip=str(sandbox.address or "")),
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespaces(options=options)),
        labels=sandbox.config.labels,
        annotations=sandbox.config.annotations,
    )


def sandbox_matches(item: pb.PodSandbox, wanted: pb.PodSandboxFilter) -> bool:
    """Whether the filter lets it through."""
    if wanted.id and item.id != wanted.id:
        return False
    if wanted.HasField("state") and item.state != wanted.state.state:
        return False
    return has_labels(item.labels, wanted.label_selector)


def container_item(container: Container) -> pb.Container:
    """For lists."""
    return pb.Container(
        id=container.id,
        pod_sandbox_id=container.sandbox_id,
        metadata=container.config.metadata,
        image=container.config.image,
        image_ref=container.image_id,
        image_id=container.image_id,
        state=container.refresh(),
        created_at=container.created,
        labels=container.config.labels,
        annotations=container.config.annotations,
    )


def container_status(container: Container) -> pb.ContainerStatus:
    """All that is known of it."""
    state, config = container.refresh(), container.config
    status = pb.ContainerStatus(
        id=container.id,
        metadata=config.metadata,
        state=state,
        created_at=container.created,
        started_at=container.started,
        image=pb.ImageSpec(image=container.image_name),
        image_ref=container.image_id,
        image_id=container.image_id,
        labels=config.labels,
        annotations=config.annotations,
        mounts=config.mounts,
        log_path=container.log,
        resources=pb.ContainerResources(linux=config.linux.resources),
        stop_signal=config.stop_signal,
    )
    if ended := container.ended:
        status.finished_at, status.exit_code = ended.finished, ended.code
        status.reason, status.message = ended.reason, ended.message
    return status


def container_matches(item: pb.Container, wanted: pb.ContainerFilter) -> bool:
    """Whether the filter lets it through."""
    if wanted.id not in ("", item.id) or wanted.pod_sandbox_id not in ("", item.pod_sandbox_id):
        return False
    if wanted.HasField("state") and item.state != wanted.state.state:
        return False
    return has_labels(item.labels, wanted.label_selector)


def image(found: Found) -> node.Image:
    """An image. The kubelet reads from it whether it runs as root."""
    name, _, _ = found.image.user.partition(":")
    made = node.Image(
        id=found.id,
        repo_tags=[found.name],
        repo_digests=[f"{found.name.partition('@')[0]}@{found.id}"],
        size=1,
        spec=pb.ImageSpec(image=found.name),
        # Never to be collected as garbage: there is nothing to fetch it from again, and nothing to free.
        pinned=True,
    )
    if name and not name.isdigit():
        made.username = name
    else:
        made.uid.value = int(name or "0")
    return made
