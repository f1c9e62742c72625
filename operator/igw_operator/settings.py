"""What `igw up` can be told, as one frozen value. Units: seconds. No parsing of the command line here (`cli`)."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from igw_api.objects import Key, Member
from igw_operator.render.files import Address


def picker_module() -> tuple[str, ...]:
    """The picker as this installation has it, by the same interpreter."""
    return (sys.executable, "-m", "igw_extproc")


@dataclass(frozen=True, slots=True)
class UpSettings:
    """`igw up`. Ports that are 0 are chosen at the start and kept until the end."""

    manifests: tuple[Path, ...]
    state_dir: Path
    secrets: Mapping[Key, Path] = field(default_factory=dict)  # directories with a file for each of a Secret's keys
    members: tuple[Member, ...] = ()  # endpoints from the command line
    listen_host: str = "127.0.0.1"
    listens: Mapping[int, Address] = field(default_factory=dict)  # a Gateway's port -> where to bind it instead
    admin_port: int = 0
    picker_port: int = 0
    metrics_port: int = 0
    picker_transport: str = "http2"
    picker_tls: Path | None = None  # a directory with tls.crt, tls.key and ca.crt for Envoy and the picker
    picker_command: tuple[str, ...] = field(default_factory=picker_module)
    first_byte: bool = True
    access_log: str | None = None
    log_level: str = "info"
    concurrency: int | None = None  # Envoy's worker threads; None: one per core
    start_timeout: float = 20.0
    drain_timeout: float = 30.0  # how long requests may still run after SIGTERM
    listener_drain: float = 3600.0  # how long streams live on after their listener was changed
    debounce: float = 0.1
