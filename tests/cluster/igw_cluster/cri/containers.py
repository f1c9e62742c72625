"""Containers: created, started, stopped and removed; what they are doing is read from their launcher's records.

Each has a folder, `containers/ID` below the root, from which a restarted runtime takes it over.
"""

import base64
import json
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igw_cluster.cri import launcher, translation
from igw_cluster.cri.errors import Failed, NotFound
from igw_cluster.cri.images import Found
from igw_cluster.cri.process import Process
from igw_cluster.cri.sandboxes import Sandbox
from igw_cluster.cri.wire import cri_pb2 as pb
from igw_cluster.cri.zygote import TaskFailed, Zygote

_CONFIG, _RECORD = "config.pb", "record.json"
_START_S = 60.0
_REOPEN_S = 2.0
_KILLED = 128 + signal.SIGKILL


class TimedOut(Exception):
    """A command took longer than its timeout."""


@dataclass(frozen=True, slots=True)
class Ended:
    """`finished` in nanoseconds since 1970."""

    code: int
    finished: int
    reason: str
    message: str


@dataclass(slots=True)
class Container:
    """`running` is set when it was started, `ended` when it has ended."""

    id: str
    sandbox_id: str
    config: pb.ContainerConfig
    image_id: str
    image_name: str
    created: int
    log: str
    directory: Path
    started: int = 0
    launcher: Process | None = None
    program: Process | None = None
    ended: Ended | None = None
    # Held while it is being started.
    starting: threading.Lock = field(default_factory=threading.Lock)

    def write(self) -> None:
        """Records it for the next runtime; the launcher records the rest."""
        names = ("sandbox_id", "image_id", "image_name", "created", "log")
        (self.directory / _CONFIG).write_bytes(self.config.SerializeToString())
        (self.directory / _RECORD).write_text(json.dumps({name: getattr(self, name) for name in names}))

    def started_with(self, running: dict[str, Any]) -> None:
        """Takes in what the launcher says of the start."""
        self.started = running["started"]
        self.launcher = Process(**running["launcher"])
        self.program = Process(**running["program"])

    def refresh(self) -> "pb.ContainerState":
        """Its state now."""
        if self.launcher is None:
            self._look_for_start()
        if self.ended is None:
            self.ended = self._recorded_end()
        if self.ended is None and self.launcher and not self.launcher.alive():
            # It may have written its record between the two looks.
            self.ended = self._recorded_end() or self._end_without_record()
        if self.ended:
            return pb.CONTAINER_EXITED
        return pb.CONTAINER_RUNNING if self.launcher else pb.CONTAINER_CREATED

    def _look_for_start(self) -> None:
        """The record of a start whose answer never came: before a restart of the runtime, or too late."""
        with suppress(FileNotFoundError):
            self.started_with(json.loads((self.directory / launcher.RUNNING).read_text(encoding="utf-8")))

    def _recorded_end(self) -> Ended | None:
        try:
            return Ended(**json.loads((self.directory / launcher.ENDED).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def _end_without_record(self) -> Ended:
        if self.program:
            self.program.kill()
        return Ended(_KILLED, time.time_ns(), "Error", "the process that kept the container was killed")


def read(directory: Path) -> Container:
    """A recorded one; raises OSError or ValueError for an incomplete record."""
    record = json.loads((directory / _RECORD).read_text(encoding="utf-8"))
    config = pb.ContainerConfig.FromString((directory / _CONFIG).read_bytes())
    return Container(id=directory.name, config=config, directory=directory, **record)


class Containers:
    """All of the node. Safe for threads."""

    def __init__(self, root: Path, zygote: Zygote) -> None:
        self._root = root / "containers"
        self._root.mkdir(parents=True, exist_ok=True)
        self._zygote = zygote
        self._lock = threading.Lock()
        self._by_id: dict[str, Container] = {}

    def take_over(self) -> None:
        """Knows again what an earlier runtime recorded."""
        for directory in self._root.iterdir():
            try:
                found = read(directory)
            except (OSError, ValueError):
                shutil.rmtree(directory)
                continue
            self._by_id[found.id] = found

    def all(self) -> list[Container]:
        """A list of its own."""
        with self._lock:
            return list(self._by_id.values())

    def of(self, sandbox_id: str) -> list[Container]:
        """Those of one Pod."""
        return [container for container in self.all() if container.sandbox_id == sandbox_id]

    def get(self, container_id: str) -> Container:
        """Raises NotFound."""
        with self._lock:
            try:
                return self._by_id[container_id]
            except KeyError:
                raise NotFound(f"no container {container_id}") from None

    def create(self, sandbox: Sandbox, config: pb.ContainerConfig, image: Found) -> Container:
        """Described and recorded, not started; raises Failed or Unsupported."""
        if not sandbox.ready():
            raise Failed(f"sandbox {sandbox.id} is not ready")
        container_id = uuid.uuid4().hex
        directory = self._root / container_id
        description = translation.container(directory, sandbox, config, image.image)
        log = translation.log_path(sandbox, config)
        made = Container(container_id, sandbox.id, config, image.id, image.name, time.time_ns(), log, directory)
        try:
            directory.mkdir()
            description.write(directory / launcher.SPEC)
            if log:
                Path(log).parent.mkdir(parents=True, exist_ok=True)
            made.write()
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            raise Failed(f"container: {error}") from error
        with self._lock:
            self._by_id[container_id] = made
        return made

    def start(self, container_id: str) -> None:
        """Starts its program; raises Failed when that cannot be done, and the container has ended then."""
        container = self.get(container_id)
        with container.starting:
            if container.refresh() != pb.CONTAINER_CREATED:
                raise Failed(f"container {container_id} was started before")
            try:
                request = {"directory": str(container.directory)}
                container.started_with(self._zygote.call("launch", request, _START_S))
            except TaskFailed as error:
                raise Failed(str(error)) from None

    def stop(self, container_id: str, grace: float) -> None:
        """Asks it to end, and ends it after `grace` seconds; at once with 0. Does nothing to one that does not run."""
        container = self.get(container_id)
        with container.starting:
            state = container.refresh()
        if state != pb.CONTAINER_RUNNING or container.launcher is None or container.program is None:
            return
        if grace > 0:
            container.program.send(stop_signal(container.config))
            if container.launcher.wait(grace):
                return
        # The launcher ends when it has recorded the end. One that does not would keep nothing but its own memory.
        container.program.kill()
        container.launcher.wait(_REOPEN_S)

    def remove(self, container_id: str) -> None:
        """Ends and forgets it. Does nothing for one that is not there."""
        try:
            self.stop(container_id, 0)
        except NotFound:
            return
        with self._lock:
            container = self._by_id.pop(container_id, None)
        if container:
            shutil.rmtree(container.directory, ignore_errors=True)

    def execute(self, container_id: str, argv: Sequence[str], timeout: float) -> tuple[bytes, bytes, int]:
        """Output, errors and exit code of a command in a running container; raises Failed or TimedOut."""
        container = self.get(container_id)
        if container.refresh() != pb.CONTAINER_RUNNING or container.program is None:
            raise Failed(f"container {container_id} is not running")
        request = {
            "directory": str(container.directory),
            "pid": container.program.pid,
            "argv": list(argv),
            "timeout": timeout,
        }
        try:
            said = self._zygote.call("execute", request, timeout + _START_S)
        except TaskFailed as error:
            raise Failed(str(error)) from None
        if "timeout" in said:
            raise TimedOut(f"command {argv[0]!r} took longer than {timeout:g} s")
        return base64.b64decode(said["stdout"]), base64.b64decode(said["stderr"]), said["code"]

    def reopen_log(self, container_id: str) -> None:
        """Lets the launcher go on in a new file after the kubelet has renamed the old one; raises Failed."""
        container = self.get(container_id)
        if container.refresh() != pb.CONTAINER_RUNNING or container.launcher is None:
            raise Failed(f"container {container_id} is not running")
        container.launcher.send(signal.SIGUSR1)
        deadline = time.monotonic() + _REOPEN_S
        while container.log and not Path(container.log).exists():
            if time.monotonic() > deadline:
                raise Failed(f"container {container_id} does not reopen its log")
            time.sleep(0.005)


def stop_signal(config: pb.ContainerConfig) -> int:
    """The number for the kernel of the signal that asks the container to end; SIGTERM unless the Pod says another."""
    names = _SIGNALS.split()
    asked = config.stop_signal
    if 0 < asked <= len(names):
        return int(getattr(signal, f"SIG{names[asked - 1]}"))
    return signal.SIGTERM


# The interface numbers them by the alphabet.
_SIGNALS = (
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP "
    "TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN"
)
