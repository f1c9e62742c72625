"""One container's parent: builds it, keeps its log and records how it ended.

Forked by the zygote, one per container, with a single thread that lives as long as the container (some programs end
with the thread that started them). The container's program is PID 1 of its own PID namespace, so its end is the end
of all that it started. Outlives the runtime; says what happened in files of the container's folder.
"""

import json
import os
import selectors
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from igw_cluster.cri import identity, linux, process, rootfs
from igw_cluster.cri.logs import Log
from igw_cluster.cri.spec import Container, read

SPEC, RUNNING, ENDED = "spec.json", "running.json", "ended.json"
_CHUNK = 65536
# The end of a program that could not be started, as containerd records it.
_START_ERROR = 128


def run(request: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
    """Starts the container described in the folder `directory`, answers when its program runs, and stays until it ends.

    The program's failure to start is an error in the answer and recorded as an end with code 128.
    """
    container = read(Path(request["directory"], SPEC))
    linux.set_process_name("cri-container")
    started = time.time_ns()
    try:
        log = Log(container.log)
        _catch_reopen(log)
        pid, outputs = _start(container)
    except (OSError, LookupError) as error:
        record(container, _START_ERROR, "StartError", str(error))
        answer({"error": str(error)})
        return
    running = {"launcher": process.own(), "program": process.described(pid), "started": started}
    _write(container, RUNNING, running)
    answer(running)
    code = _attend(pid, outputs, log)
    if not container.own_pids:
        # No namespace ends with the program here, but its session does.
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    record(container, code, "Error" if code else "Completed", "")


def record(container: Container, code: int, reason: str, message: str) -> None:
    """How it ended. `code` is 128 plus the signal's number for a program that a signal ended."""
    _write(container, ENDED, {"code": code, "finished": time.time_ns(), "reason": reason, "message": message})


def _write(container: Container, name: str, values: dict[str, Any]) -> None:
    beside = Path(container.directory, name + ".new")
    beside.write_text(json.dumps(values), encoding="utf-8")
    beside.replace(Path(container.directory, name))


def _catch_reopen(log: Log) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: log.reopen())


def _start(container: Container) -> tuple[int, dict[int, str]]:
    """The program's PID and its outputs by descriptor; raises OSError with what the child says went wrong."""
    (out, out_end), (err, err_end), (said, say) = os.pipe(), os.pipe(), os.pipe()
    Path(container.directory, "scratch").mkdir(exist_ok=True)
    Path("/proc/self/oom_score_adj").write_text(str(container.oom_score), encoding="ascii")
    if container.own_pids:
        linux.unshare(linux.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        _become(container, out_end, err_end, say)
    for descriptor in (out_end, err_end, say):
        os.close(descriptor)
    with os.fdopen(said, "rb") as file:
        if problem := file.read():
            os.waitpid(pid, 0)
            raise OSError(problem.decode(errors="replace"))
    return pid, {out: "stdout", err: "stderr"}


def _become(container: Container, out: int, err: int, say: int) -> None:
    """The child: never returns. Descriptors are closed on exec, but for the three standard ones."""
    try:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        os.setsid()
        linux.setns(container.namespaces)
        linux.unshare(linux.CLONE_NEWNS)
        rootfs.enter(container.root, f"{container.directory}/scratch")
        standard_streams(out, err)
        start_program(container, container.argv)
    except BaseException as error:
        os.write(say, (str(error) or repr(error)).encode())
    finally:
        os._exit(127)


def standard_streams(out: int, err: int) -> None:
    """Nothing to read; what is written goes to the pipes."""
    nothing = os.open("/dev/null", os.O_RDONLY)
    for number, descriptor in enumerate((nothing, out, err)):
        os.dup2(descriptor, number, inheritable=True)


def start_program(container: Container, argv: tuple[str, ...]) -> None:
    """Becomes the program, in a process that is inside the container already. Raises OSError or LookupError."""
    user = identity.look_up(container.identity)
    env = {"HOME": user.home, **container.env}
    if not os.path.isdir(container.workdir):
        os.makedirs(container.workdir)
    os.umask(0o022)
    if container.init and os.getpid() == 1:
        _reap(os.fork())
    for stream in (1, 2):
        # Its own, so that it may open /dev/stdout, as Envoy does for its access log.
        os.fchown(stream, user.uid, user.gid)
    identity.assume(container.identity, user)
    linux.die_with_parent(signal.SIGKILL)
    os.chdir(container.workdir)
    # Python ignores it, and programs would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        raise OSError(error.errno, f"cannot start {argv[0]!r}: {error.strerror}") from None


def _reap(child: int) -> None:
    """In the child returns at once; in the parent is the init: passes signals on, collects orphans, ends as it does."""
    if child == 0:
        return
    linux.die_with_parent(signal.SIGKILL)
    os.closerange(3, 1024)
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        if number < signal.SIGRTMIN:
            signal.signal(number, lambda received, _: os.kill(child, received))
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(exit_code(status))


def exit_code(status: int) -> int:
    """What a shell would call it: 128 plus the signal's number if a signal ended the process."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _attend(pid: int, outputs: dict[int, str], log: Log) -> int:
    """Copies the outputs to the log until the program has ended and all that it said is written; its exit code."""
    with selectors.DefaultSelector() as selector:
        ended = os.pidfd_open(pid)
        selector.register(ended, selectors.EVENT_READ)
        for descriptor in outputs:
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        running = True
        while running:
            for key, _ in selector.select():
                if key.fd == ended:
                    running = False
                elif not _copy(key.fd, outputs[key.fd], log):
                    selector.unregister(key.fd)
    code = exit_code(os.waitpid(pid, 0)[1])
    for descriptor, stream in outputs.items():
        while _copy(descriptor, stream, log):
            pass
        log.end(stream)
    return code


def _copy(descriptor: int, stream: str, log: Log) -> bool:
    """Whether there may be more."""
    try:
        data = os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return False
    if data:
        log.write(stream, data)
    return bool(data)
