"""A command inside a running container, with its output and exit code: exec probes and lifecycle hooks.

Forked by the zygote, one per command; enters the container's namespaces and has its user, environment and limits.
"""

import base64
import os
import selectors
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from igw_cluster.cri import launcher, linux
from igw_cluster.cri.spec import Container, read

# Output beyond this is thrown away, as the interface asks.
_MOST = 16 * 1024 * 1024
_CHUNK = 65536


def run(request: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
    """Runs `argv` in the container of folder `directory` whose PID 1 is `pid`, for at most `timeout` seconds.

    Answers `stdout` and `stderr` in base64 and `code`, or `timeout` when it was killed for taking too long.
    """
    container = read(Path(request["directory"], launcher.SPEC))
    linux.set_process_name("cri-exec")
    outputs, ends = {}, []
    for stream in ("stdout", "stderr"):
        read_end, write_end = os.pipe()
        outputs[read_end] = stream
        ends.append(write_end)
    pid = _enter(container, int(request["pid"]), tuple(request["argv"]), ends)
    for descriptor in ends:
        os.close(descriptor)
    said, in_time = _collect(pid, outputs, request["timeout"])
    if not in_time:
        os.killpg(pid, signal.SIGKILL)
    code = launcher.exit_code(os.waitpid(pid, 0)[1])
    encoded = {stream: base64.b64encode(data).decode() for stream, data in said.items()}
    answer({"code": code, **encoded} if in_time else {"timeout": True})


def _enter(container: Container, target: int, argv: tuple[str, ...], ends: list[int]) -> int:
    """The PID of the command's process. A PID namespace is entered by the next child only, hence before the fork."""
    linux.setns(f"/proc/{target}/ns/{kind}" for kind in ("net", "uts", "ipc", "pid", "mnt"))
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        launcher.standard_streams(*ends)
        launcher.start_program(container, argv)
    except BaseException as error:
        os.write(2, str(error).encode())
    finally:
        # As a shell says that a command cannot be run.
        os._exit(126)


def _collect(pid: int, outputs: dict[int, str], timeout: float) -> tuple[dict[str, bytes], bool]:
    """What it said until it ended or the time was over, and whether it ended in time. No limit without a timeout."""
    deadline = time.monotonic() + timeout if timeout else float("inf")
    said = {stream: bytearray() for stream in outputs.values()}
    with selectors.DefaultSelector() as selector:
        ended = os.pidfd_open(pid)
        for descriptor in (ended, *outputs):
            selector.register(descriptor, selectors.EVENT_READ)
            os.set_blocking(descriptor, False)
        while (left := deadline - time.monotonic()) > 0:
            ready = {key.fd for key, _ in selector.select(left if timeout else None)}
            for descriptor in ready - {ended}:
                if not _take(descriptor, said[outputs[descriptor]]):
                    selector.unregister(descriptor)
            # A child of the command may keep the pipes open: what is in them when the command ends is all.
            if ready == {ended}:
                return {stream: bytes(data) for stream, data in said.items()}, True
    return {}, False


def _take(descriptor: int, into: bytearray) -> bool:
    """Whether there may be more."""
    data = os.read(descriptor, _CHUNK)
    into += data[: max(0, _MOST - len(into))]
    return bool(data)
