"""What a container is told to be: the runtime writes it, the processes that build and enter the container read it.

Values only, and JSON of them; everything the kubelet and the image ask for is already decided here.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Mount:
    """`source` of the machine shown at `target`. `propagation`: `private`, `slave` or `shared`."""

    source: str
    target: str
    readonly: bool
    propagation: str = "private"


@dataclass(frozen=True, slots=True)
class Root:
    """The file tree. `layers` lowest first; `directories` maps paths to modes."""

    layers: tuple[str, ...]
    hide: tuple[str, ...]
    directories: dict[str, int]
    mounts: tuple[Mount, ...]
    masked: tuple[str, ...]
    readonly_paths: tuple[str, ...]
    readonly: bool
    privileged: bool


@dataclass(frozen=True, slots=True)
class Identity:
    """Who runs it. `user` is `uid`, `name`, `uid:gid` or ``; `group` replaces the user's own group; `capabilities`
    are numbers; with `strict` the image's group file adds no groups."""

    user: str
    group: int | None
    groups: tuple[int, ...]
    strict: bool
    capabilities: tuple[int, ...]
    ambient: tuple[int, ...]
    no_new_privileges: bool


@dataclass(frozen=True, slots=True)
class Container:
    """All of it. `namespaces` are paths of /proc/PID/ns that it joins; `oom_score` is the kernel's adjustment."""

    directory: str
    namespaces: tuple[str, ...]
    own_pids: bool
    root: Root
    identity: Identity
    argv: tuple[str, ...]
    env: dict[str, str]
    workdir: str
    init: bool
    log: str
    oom_score: int

    def write(self, path: Path) -> None:
        """Writes it for `read`."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def read(path: Path) -> Container:
    """The container that `Container.write` wrote."""
    given = json.loads(path.read_text(encoding="utf-8"))
    root, identity = given.pop("root"), given.pop("identity")
    mounts = tuple(Mount(**mount) for mount in root.pop("mounts"))
    return Container(
        root=Root(**_tuples(root), mounts=mounts),
        identity=Identity(**_tuples(identity)),
        **_tuples(given),
    )


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
