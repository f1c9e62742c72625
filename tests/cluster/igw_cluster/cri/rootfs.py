"""A container's file tree: the image's layers under a writable top, then kernel file systems, volumes and masks.

Runs in the container's first process, in its own mount namespace: when the container ends, the kernel takes all of
this away, whatever happened to the runtime. What is written goes to memory (a tmpfs) and ends with the container.
"""

import os
from pathlib import Path

from igw_cluster.cri import linux
from igw_cluster.cri.spec import Mount, Root

# The machine's root during the set-up. Targets of mounts are looked up in the container's root, so that links in the
# image (/var/run -> /run) lead where they should; sources in the machine's.
_HOST = "/.machine"
_QUIET = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_PROPAGATION = {"private": linux.MS_PRIVATE, "slave": linux.MS_SLAVE, "shared": linux.MS_SHARED}
_OPAQUE = "trusted.overlay.opaque"


def enter(root: Root, scratch: str) -> None:
    """Builds the tree and makes it this process's root; `scratch` is an empty folder of the machine."""
    mounts = [(_real(mount.source), mount) for mount in root.mounts]
    _stack(root, scratch)
    linux.pivot_root(f"{scratch}/root", f"{scratch}/root{_HOST}")
    os.chdir("/")
    _kernel_file_systems(root.privileged)
    # The outer ones first, so that none hides another.
    for source, mount in sorted(mounts, key=lambda pair: os.path.normpath(pair[1].target).count("/")):
        _show(source, mount)
    _leave_machine()
    if not root.privileged:
        _restrict(root)
    if root.readonly:
        linux.mount("none", "/", flags=linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY)


def _real(source: str) -> str:
    """A folder that is missing is made, as other runtimes do for a hostPath without a type."""
    if not os.path.exists(source):
        os.makedirs(source)
    return os.path.realpath(source)


def _stack(root: Root, scratch: str) -> None:
    # Nothing that is mounted in here may show on the machine; what the machine mounts later may show in here.
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_SLAVE)
    # The upper folder must not lie below a layer, and the machine's root may be one: it gets its own file system.
    linux.mount("scratch", scratch, "tmpfs", 0, "mode=0755")
    for name in ("upper", "work", "root"):
        os.mkdir(f"{scratch}/{name}", 0o755)
    upper = f"{scratch}/upper"
    for path, mode in root.directories.items():
        _make(upper, path, root.layers, mode)
    for path in root.hide:
        made = _make(upper, path, root.layers, root.directories.get(path, 0o755))
        os.setxattr(made, _OPAQUE, b"y")
    os.makedirs(upper + _HOST)
    layers = ":".join(reversed(root.layers))
    options = f"lowerdir={layers},upperdir={upper},workdir={scratch}/work"
    linux.mount("overlay", f"{scratch}/root", "overlay", 0, options)


def _make(upper: str, path: str, layers: tuple[str, ...], mode: int) -> str:
    """A folder in the upper layer; its parents keep the modes and owners that they have in the layers."""
    made = upper
    for part in Path(path).parts[1:]:
        made = f"{made}/{part}"
        if os.path.isdir(made):
            continue
        os.mkdir(made)
        below = (layer + made.removeprefix(upper) for layer in reversed(layers))
        original = next((os.stat(folder) for folder in below if os.path.isdir(folder)), None)
        os.chmod(made, original.st_mode & 0o7777 if original else 0o755)
        if original:
            os.chown(made, original.st_uid, original.st_gid)
    os.chmod(made, mode)
    return made


def _kernel_file_systems(privileged: bool) -> None:
    for path in ("/proc", "/sys", "/dev"):
        os.makedirs(path, exist_ok=True)
    linux.mount("proc", "/proc", "proc", _QUIET)
    linux.mount("sysfs", "/sys", "sysfs", _QUIET | (0 if privileged else linux.MS_RDONLY))
    if privileged:
        linux.bind(f"{_HOST}/dev", "/dev")
        return
    linux.mount("tmpfs", "/dev", "tmpfs", linux.MS_NOSUID, "mode=0755,size=64k")
    for path, mode in (("/dev/pts", 0o755), ("/dev/shm", 0o1777)):
        os.mkdir(path, mode)
    linux.mount("devpts", "/dev/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    linux.mount("tmpfs", "/dev/shm", "tmpfs", _QUIET, "mode=1777,size=64m")
    for device in _DEVICES:
        Path(f"/dev/{device}").touch()
        linux.bind(f"{_HOST}/dev/{device}", f"/dev/{device}")
    for name, target in _LINKS.items():
        os.symlink(target, f"/dev/{name}")


def _show(source: str, mount: Mount) -> None:
    origin = _HOST + source
    _make_target(mount.target, os.path.isdir(origin))
    linux.bind(origin, mount.target, mount.readonly)
    linux.mount("none", mount.target, flags=linux.MS_REC | _PROPAGATION[mount.propagation])


def _make_target(target: str, folder: bool) -> None:
    if os.path.exists(target):
        return
    os.makedirs(target if folder else os.path.dirname(target), exist_ok=True)
    if not folder:
        # A link that leads nowhere in the image (/etc/resolv.conf -> /run/...) is replaced by a file.
        if os.path.islink(target):
            os.unlink(target)
        Path(target).touch()


def _leave_machine() -> None:
    linux.mount("none", _HOST, flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.unmount(_HOST)
    os.rmdir(_HOST)


def _restrict(root: Root) -> None:
    """The masks that the kubelet asks for. A path that is not there needs none."""
    for path in root.masked:
        if os.path.isdir(path):
            linux.mount("tmpfs", path, "tmpfs", linux.MS_RDONLY, "size=0")
        elif os.path.exists(path):
            linux.bind("/dev/null", path)
    for path in root.readonly_paths:
        if os.path.exists(path):
            linux.bind(path, path, readonly=True)
