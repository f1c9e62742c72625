"""The process that all others of the node are forked from: small, with one thread, and loaded once.

Starting Python takes tens of milliseconds and forking a process with gRPC threads is unsafe, so the runtime forks this
one before it loads gRPC and asks it, over a socket, for a fork per task. What is forked outlives the runtime; the
zygote itself ends when the runtime does.
"""

import gc
import json
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from igw_cluster.cri import execution, holder, launcher, linux
from igw_cluster.cri.process import Process

Json = dict[str, Any]
# A task gets its request and a function that answers it; it may go on after it has answered.
Task = Callable[[Json, Callable[[Json], None]], None]
TASKS: dict[str, Task] = {"hold": holder.run, "launch": launcher.run, "execute": execution.run}


class TaskFailed(Exception):
    """The task could not be done; the message says why."""


class Zygote:
    """The runtime's end. Safe for threads: each call has a socket of its own."""

    def __init__(self, channel: socket.socket, process: Process) -> None:
        self._channel = channel
        self._process = process
        self._lock = threading.Lock()

    @classmethod
    def start(cls) -> "Zygote":
        """Forks it. Call this while the process has one thread only."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            _finish(lambda: _serve(theirs))
        theirs.close()
        return cls(ours, Process.of(pid))

    def alive(self) -> bool:
        """Whether it still serves; without it nothing new can be started."""
        return self._process.alive()

    def call(self, task: str, request: Json, timeout: float) -> Json:
        """The task's answer; raises TaskFailed for its error or when none comes within `timeout` seconds."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with ours:
            ours.settimeout(timeout)
            try:
                with theirs, self._lock:
                    socket.send_fds(self._channel, [task.encode()], [theirs.fileno()])
                ours.sendall(json.dumps(request).encode())
                ours.shutdown(socket.SHUT_WR)
                text = _read_all(ours)
            except OSError as error:
                raise TaskFailed(f"{task}: no answer: {error}") from None
        answer: Json = json.loads(text) if text else {"error": "its process ended without an answer"}
        if "error" in answer:
            raise TaskFailed(f"{task}: {answer['error']}")
        return answer


def _serve(channel: socket.socket) -> None:
    os.setsid()
    linux.set_process_name("cri-zygote")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Those that are forked are nobody's to wait for: the runtime watches them by PID.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # What is loaded by now is never freed, so collections in the forks leave its pages shared.
    gc.collect()
    gc.freeze()
    while True:
        task, descriptors, _, _ = socket.recv_fds(channel, 64, 1)
        if not task:
            return
        if os.fork() == 0:
            channel.close()
            _finish(partial(_do, task.decode(), descriptors[0]))
        for descriptor in descriptors:
            os.close(descriptor)


def _do(task: str, descriptor: int) -> None:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.set_inheritable(descriptor, False)
    connection = socket.socket(fileno=descriptor)

    def answer(values: Json) -> None:
        # From here on it is on its own, and must not keep open what its caller prints to.
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        connection.sendall(json.dumps(values).encode())
        connection.close()

    try:
        TASKS[task](json.loads(_read_all(connection)), answer)
    except (OSError, LookupError, ValueError) as error:
        answer({"error": str(error)})


def _finish(action: Callable[[], None]) -> None:
    """Ends a forked process here: it must never return into the code that forked it."""
    code = 1
    try:
        action()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)
