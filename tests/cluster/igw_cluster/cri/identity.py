"""Who a container's processes are: user and groups looked up in the image, capabilities, no_new_privs.

Called inside the container's root by the process that becomes the container's program, just before it starts it.
"""

import os
from dataclasses import dataclass

from igw_cluster.cri import linux
from igw_cluster.cri.spec import Identity

PASSWD, GROUP = "/etc/passwd", "/etc/group"


@dataclass(frozen=True, slots=True)
class User:
    """Numbers for the kernel, and the home for HOME."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def _entries(path: str, least: int) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip("\n").split(":") for line in file]
    except OSError:
        return []
    return [fields for fields in lines if len(fields) >= least]


def _number(text: str, entries: list[list[str]], what: str) -> int:
    """A number as it is, or the number of a name in third place of its entry."""
    if text.isdigit():
        return int(text)
    for fields in entries:
        if fields[0] == text:
            return int(fields[2])
    raise LookupError(f"the image has no {what} {text}")


def look_up(identity: Identity) -> User:
    """The user in this root's passwd and group files; LookupError for a name that they lack."""
    users, groups = _entries(PASSWD, 6), _entries(GROUP, 4)
    name, _, group = identity.user.partition(":")
    uid = _number(name or "0", users, "user")
    entry = next((fields for fields in users if fields[2] == str(uid)), None)
    gid = int(entry[3]) if entry else 0
    if group:
        gid = _number(group, groups, "group")
    if identity.group is not None:
        gid = identity.group
    member = set() if identity.strict or not entry else {int(f[2]) for f in groups if entry[0] in f[3].split(",")}
    also = tuple(sorted(member | set(identity.groups) | {gid}))
    return User(uid, gid, also, entry[5] if entry else "/")


def assume(identity: Identity, user: User) -> None:
    """Becomes that user for good, with no more capabilities than granted."""
    granted = frozenset(identity.capabilities) & linux.bounding_capabilities()
    for capability in linux.bounding_capabilities() - granted:
        linux.drop_from_bounding(capability)
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    ambient = frozenset(identity.ambient) & granted
    if user.uid and not ambient:
        os.setresuid(user.uid, user.uid, user.uid)
        linux.set_capabilities(frozenset())
    else:
        if user.uid:
            linux.keep_capabilities()
            os.setresuid(user.uid, user.uid, user.uid)
        linux.set_capabilities(granted, inheritable=ambient)
        for capability in ambient:
            linux.raise_ambient(capability)
    if identity.no_new_privileges:
        linux.set_no_new_privileges()
