"""The process that keeps a Pod's namespaces (network, UTS, IPC) in being while its containers come and go.

Forked by the zygote, one per Pod; the runtime kills it when the sandbox is stopped.
"""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from igw_cluster.cri import linux, process

_IP_S = 20.0


def run(request: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
    """Makes the namespaces, answers with the process, and waits to be killed.

    `request`: `hostname`, `sysctls` (name to value), and `links`, lines of `ip -batch` run inside, where `{outside}`
    stands for the node's network as a PID; no lines for a Pod in the node's own network.
    """
    links: list[str] = request["links"]
    own_network = linux.CLONE_NEWNET | linux.CLONE_NEWUTS if links else 0
    linux.unshare(linux.CLONE_NEWIPC | own_network)
    linux.set_process_name("cri-pod")
    if links:
        linux.set_hostname(request["hostname"])
        ip("\n".join(links))
    for name, value in request["sysctls"].items():
        Path("/proc/sys", name.replace(".", "/")).write_text(value, encoding="ascii")
    answer({"process": process.own()})
    while True:
        signal.pause()


def ip(batch: str) -> str:
    """Runs lines of iproute2; raises OSError with its message."""
    command = ["ip", "-batch", "-"]
    done = subprocess.run(command, input=batch + "\n", capture_output=True, text=True, timeout=_IP_S, check=False)
    if done.returncode:
        raise OSError(f"ip: {done.stderr.strip()} in: {batch}")
    return done.stdout
