"""The command line of the runtime: checks that this machine can do it, forks the zygote, then serves.

gRPC is imported only after the fork: the zygote and all containers' parents are made without it.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
import threading
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from igw_cluster.cri import linux
from igw_cluster.cri.zygote import Zygote

if TYPE_CHECKING:
    from igw_cluster.cri.runtime_service import Runtime

log = logging.getLogger("igw_cluster.cri")

# Stopping a container takes a thread for as long as the container's grace period.
_THREADS = 256
# A Unix socket's path has at most 107 bytes.
_LONGEST_SOCKET = 107
_DRAIN_S = 1.0


def main() -> None:
    """Entry point. Ends with code 2 and one line for what makes serving impossible."""
    options = _parser().parse_args()
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    if problem := _problem(options):
        print(f"igw_cluster.cri: {problem}", file=sys.stderr)
        sys.exit(2)
    options.root.mkdir(parents=True, exist_ok=True)
    zygote = Zygote.start()
    runtime = _runtime(options, zygote)
    if options.clean:
        runtime.remove_all()
        return
    _serve(options, runtime)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m igw_cluster.cri", description="CRI runtime with local processes")
    parser.add_argument("--socket", type=Path, required=True, help="the Unix socket to serve on")
    parser.add_argument("--root", type=Path, required=True, help="the folder for the state of Pods and containers")
    parser.add_argument("--images", type=Path, required=True, help="the JSON file with the images")
    parser.add_argument("--bridge", default="igw0", help="the Pods' bridge; made when it is not there")
    parser.add_argument("--pod-cidr", type=IPv4Network, default="10.244.0.0/16", help="the Pods' addresses")
    parser.add_argument("--leave-running", action="store_true", help="let containers run on after SIGTERM")
    parser.add_argument("--clean", action="store_true", help="end and remove all that --root records, then exit")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser


def _problem(options: argparse.Namespace) -> str:
    if os.geteuid():
        return "it needs root, to make namespaces"
    if len(os.fsencode(options.socket)) > _LONGEST_SOCKET:
        return f"the path of the socket is longer than {_LONGEST_SOCKET} bytes: {options.socket}"
    return _overlay_problem()


def _overlay_problem() -> str:
    """Tried in a mount namespace of a child, so that nothing is left over."""
    with tempfile.TemporaryDirectory() as folder:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _try_overlay(folder)
                code = 0
            except OSError as error:
                print(f"igw_cluster.cri: {error}", file=sys.stderr)
            finally:
                os._exit(code)
        failed = os.waitpid(pid, 0)[1]
    return (
        "containers need mount namespaces, tmpfs and overlayfs, and this machine refuses one of them" if failed else ""
    )


def _try_overlay(folder: str) -> None:
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("scratch", folder, "tmpfs")
    for name in ("upper", "work", "root"):
        os.mkdir(f"{folder}/{name}")
    linux.mount("overlay", f"{folder}/root", "overlay", 0, f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work")


def _runtime(options: argparse.Namespace, zygote: Zygote) -> "Runtime":
    from igw_cluster.cri.images import ImageFile
    from igw_cluster.cri.network import Network
    from igw_cluster.cri.runtime_service import Runtime

    network = Network(options.bridge, options.pod_cidr)
    network.set_up()
    runtime = Runtime(options.root, zygote, network, ImageFile(options.images))
    runtime.take_over()
    return runtime


def _serve(options: argparse.Namespace, runtime: "Runtime") -> None:
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    from igw_cluster.cri.grpc_table import service
    from igw_cluster.cri.image_service import Images
    from igw_cluster.cri.images import ImageFile
    from igw_cluster.cri.statistics_service import Statistics

    calls = runtime.calls() | Statistics(runtime.sandboxes, runtime.containers).calls()
    images = Images(options.root, ImageFile(options.images)).calls()
    server = grpc.server(ThreadPoolExecutor(_THREADS))
    server.add_generic_rpc_handlers(
        (service("runtime.v1.RuntimeService", calls), service("runtime.v1.ImageService", images))
    )
    options.socket.parent.mkdir(parents=True, exist_ok=True)
    options.socket.unlink(missing_ok=True)
    server.add_insecure_port(f"unix://{options.socket.absolute()}")
    server.start()
    print("cri ready", file=sys.stderr, flush=True)
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    asked.wait()
    server.stop(_DRAIN_S)
    if not options.leave_running:
        runtime.remove_all()
    # Not joined: a thread may wait for a container's grace period.
    options.socket.unlink(missing_ok=True)
    logging.shutdown()
    os._exit(0)
