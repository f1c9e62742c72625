"""The system calls that Python 3.11 does not offer: namespaces, mounts and privileges, each as one function.

Every function raises OSError with the call's name when the kernel refuses. No policy here.
"""

import ctypes
import os
import platform
from collections.abc import Iterable

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000

MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_NAME = 15
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}


def _checked(call: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def _number(call: str, numbers: dict[str, int]) -> int:
    try:
        return numbers[platform.machine()]
    except KeyError:
        raise OSError(f"{call}: no system call number known for {platform.machine()}") from None


def unshare(flags: int) -> None:
    """Leaves namespaces for new ones; a new PID namespace begins with the next child."""
    _checked("unshare", _libc.unshare(flags))


def setns(paths: Iterable[str]) -> None:
    """Enters the namespaces that the paths (as in /proc/PID/ns) name, in their order; a PID namespace is entered by
    the next child. All are opened before the first is entered, since the paths may mean something else in there."""
    opened = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
    for descriptor in opened:
        _checked("setns", _libc.setns(descriptor, 0))
        os.close(descriptor)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2), with the paths in its error."""
    arguments = (source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None)
    _checked(f"mount {source} on {target}", _libc.mount(*arguments))


def bind(source: str, target: str, readonly: bool = False, recursive: bool = True) -> None:
    """Shows `source` at `target`; read-only takes a second call, which keeps the flags that the source has."""
    mount(source, target, flags=MS_BIND | (MS_REC if recursive else 0))
    if readonly:
        mount("none", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | kept_flags(target))


def kept_flags(path: str) -> int:
    """nosuid, nodev and noexec of the mount at `path`: a remount that leaves them out would lift them."""
    flags = os.statvfs(path).f_flag
    pairs = ((os.ST_NOSUID, MS_NOSUID), (os.ST_NODEV, MS_NODEV), (os.ST_NOEXEC, MS_NOEXEC))
    return sum(mounted for reported, mounted in pairs if flags & reported)


def unmount(target: str) -> None:
    """Takes the mount away at once, and all below it; those that use it keep it until they are done."""
    _checked(f"umount {target}", _libc.umount2(target.encode(), MNT_DETACH))


def pivot_root(new_root: str, put_old: str) -> None:
    """Makes `new_root` the root; the old one is then seen at `put_old`, a path below `new_root`."""
    number = _number("pivot_root", _PIVOT_ROOT)
    _checked("pivot_root", _libc.syscall(number, new_root.encode(), put_old.encode()))


def set_hostname(name: str) -> None:
    """The name of the UTS namespace."""
    encoded = name.encode()
    _checked("sethostname", _libc.sethostname(encoded, len(encoded)))


def die_with_parent(signal: int) -> None:
    """Asks for `signal` when the parent thread ends. Reset by a change of user: call it after that."""
    _checked("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0))


def set_process_name(name: str) -> None:
    """What `ps` shows as the command, at most 15 bytes."""
    _checked("prctl", _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0))


def keep_capabilities() -> None:
    """Lets the permitted capabilities outlive the coming change from root to another user."""
    _checked("prctl", _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))


def set_no_new_privileges() -> None:
    """From now on no program gains privileges by being run."""
    _checked("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def bounding_capabilities() -> frozenset[int]:
    """The capabilities that may ever be had by this process."""
    return frozenset(number for number in range(64) if _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1)


def drop_from_bounding(capability: int) -> None:
    """Gives up a capability for this process and all its children."""
    _checked("prctl", _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0))


def raise_ambient(capability: int) -> None:
    """Keeps a capability, permitted and inheritable, over the start of a program as a user other than root."""
    _checked("prctl", _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0))


def set_capabilities(effective: frozenset[int], inheritable: frozenset[int] = frozenset()) -> None:
    """Sets effective and permitted alike."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    have, inherit = (sum(1 << number for number in numbers) for numbers in (effective, inheritable))
    # Effective, permitted, inheritable: first the lower halves, then the upper ones.
    sets = (have, have, inherit)
    data = (ctypes.c_uint32 * 6)(*(bits & 0xFFFFFFFF for bits in sets), *(bits >> 32 for bits in sets))
    _checked("capset", _libc.syscall(_number("capset", _CAPSET), header, data))
