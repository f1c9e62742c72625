"""Capability names and the sets that containers get. Numbers as in linux/capability.h."""

from collections.abc import Iterable

_NAMES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)
_NUMBERS = {name: number for number, name in enumerate(_NAMES.split())}
ALL = frozenset(_NUMBERS.values())
# What container runtimes grant when nothing is said.
_DEFAULT = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)
DEFAULT = frozenset(_NUMBERS[name] for name in _DEFAULT.split())


def numbers(names: Iterable[str]) -> frozenset[int]:
    """The capabilities named, with or without CAP_ in front, `ALL` for all; raises ValueError for an unknown one."""
    found: set[int] = set()
    for name in names:
        plain = name.upper().removeprefix("CAP_")
        if plain == "ALL":
            found |= ALL
        elif plain in _NUMBERS:
            found.add(_NUMBERS[plain])
        else:
            raise ValueError(f"unknown capability {name}")
    return frozenset(found)


def granted(add: Iterable[str], drop: Iterable[str], privileged: bool) -> frozenset[int]:
    """The capabilities of a container. As in containerd: `ALL` first, then those added, then those dropped by name."""
    if privileged:
        return ALL
    added, dropped = ({name.upper().removeprefix("CAP_") for name in names} for names in (add, drop))
    have = frozenset() if "ALL" in dropped else ALL if "ALL" in added else DEFAULT
    return (have | numbers(added - {"ALL"})) - numbers(dropped - {"ALL"})
