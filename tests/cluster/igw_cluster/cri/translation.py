"""From what the kubelet asks for and what the image says to the container's description: pure but for two paths.

The rules are those of containerd: `command` replaces entry point and arguments of the image, `args` its arguments.
"""

import os
from pathlib import Path

from igw_cluster.cri import capabilities
from igw_cluster.cri.errors import Failed, Unsupported
from igw_cluster.cri.images import DEFAULT_PATH, Image
from igw_cluster.cri.sandboxes import Sandbox
from igw_cluster.cri.spec import Container, Identity, Mount, Root
from igw_cluster.cri.wire import cri_pb2 as pb

_PROPAGATION = {pb.PRIVATE: "private", pb.HOST_TO_CONTAINER: "slave"}


def container(directory: Path, sandbox: Sandbox, config: pb.ContainerConfig, image: Image) -> Container:
    """The description; raises Failed or Unsupported for what cannot be built."""
    security = config.linux.security_context
    return Container(
        directory=str(directory),
        namespaces=sandbox.namespaces(),
        own_pids=security.namespace_options.pid != pb.NODE,
        root=_root(sandbox, config, image),
        identity=_identity(security, image),
        argv=_command(config, image),
        env=_environment(sandbox, config, image),
        workdir=config.working_dir or image.workdir,
        init=image.init,
        log=log_path(sandbox, config) or os.devnull,
        oom_score=config.linux.resources.oom_score_adj,
    )


def log_path(sandbox: Sandbox, config: pb.ContainerConfig) -> str:
    """The file that the kubelet wants the output in; nothing if it wants none."""
    directory = sandbox.config.log_directory
    return str(Path(directory, config.log_path)) if directory and config.log_path else ""


def _command(config: pb.ContainerConfig, image: Image) -> tuple[str, ...]:
    from_image = (*image.entrypoint, *(config.args or image.cmd))
    argv = (*config.command, *config.args) if config.command else from_image
    if not argv:
        raise Failed("neither the container nor its image has a command")
    return argv


def _environment(sandbox: Sandbox, config: pb.ContainerConfig, image: Image) -> dict[str, str]:
    hostname = sandbox.config.hostname or os.uname().nodename
    given = {entry.key: entry.value.decode(errors="surrogateescape") for entry in config.envs}
    return {"PATH": DEFAULT_PATH, "HOSTNAME": hostname, **image.env, **given}


def _root(sandbox: Sandbox, config: pb.ContainerConfig, image: Image) -> Root:
    security = config.linux.security_context
    ours = [Mount(str(sandbox.directory / name), f"/etc/{name}", security.readonly_rootfs) for name in _POD_FILES]
    binds = [Mount(bind.source, bind.target, not bind.writable) for bind in image.binds]
    asked = [_mount(mount) for mount in config.mounts]
    # What is asked for wins: the last one for a target.
    by_target = {mount.target.rstrip("/"): mount for mount in (*ours, *binds, *asked)}
    return Root(
        layers=image.layers,
        hide=image.hide,
        directories={path: int(mode, 8) for path, mode in image.directories.items()},
        mounts=tuple(by_target.values()),
        masked=tuple(security.masked_paths),
        readonly_paths=tuple(security.readonly_paths),
        readonly=security.readonly_rootfs,
        privileged=security.privileged,
    )


_POD_FILES = ("resolv.conf", "hostname")


def _mount(mount: pb.Mount) -> Mount:
    if mount.HasField("image"):
        raise Unsupported(f"{mount.container_path}: image volumes are not offered by the test cluster's runtime")
    if mount.propagation not in _PROPAGATION:
        raise Unsupported(f"{mount.container_path}: bidirectional mounts are not offered by the test cluster's runtime")
    # A relative path is meant from the root, as the kubelet's own tests have it.
    target = "/" + mount.container_path.lstrip("/")
    return Mount(mount.host_path, target, mount.readonly, _PROPAGATION[mount.propagation])


def _identity(security: pb.SecurityContext, image: Image) -> Identity:
    user = image.user
    if security.HasField("run_as_user"):
        user = str(security.run_as_user.value)
    elif security.run_as_username:
        user = security.run_as_username
    asked = security.capabilities
    try:
        granted = capabilities.granted(asked.add_capabilities, asked.drop_capabilities, security.privileged)
        ambient = capabilities.numbers(asked.add_ambient_capabilities)
    except ValueError as error:
        raise Failed(str(error)) from None
    return Identity(
        user=user,
        group=security.run_as_group.value if security.HasField("run_as_group") else None,
        groups=tuple(security.supplemental_groups),
        strict=security.supplemental_groups_policy == pb.STRICT,
        capabilities=tuple(sorted(granted)),
        ambient=tuple(sorted(ambient)),
        no_new_privileges=security.no_new_privs,
    )
