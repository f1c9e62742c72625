"""The command line: `python -m igw_cluster up | down | status | exec | forward | build`. One cluster per folder.

The cluster lives on after `up` has ended. Its folder (`--folder`, by default below `XDG_STATE_HOME`) has all that is
needed to find it again and, while it runs, its logs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from igw_cluster import builds, cluster, diagnostics, gateway
from igw_cluster.builds import BuildFailed
from igw_cluster.cluster import Cluster
from igw_cluster.cri.images import Image
from igw_cluster.helm import Helm, HelmFailed
from igw_cluster.images import gateway_images, runtime
from igw_cluster.kubectl import KubectlFailed
from igw_cluster.processes import StartFailed
from igw_cluster.toolchain import Missing, kubectl

_STATE: Final = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
DEFAULT_FOLDER: Final = _STATE / "igw" / "cluster"
_FAILURES: Final = (
    BuildFailed,
    HelmFailed,
    KubectlFailed,
    Missing,
    StartFailed,
    TimeoutError,
    subprocess.SubprocessError,
)


def main(words: Sequence[str] | None = None, images: Mapping[str, Image] = MappingProxyType({})) -> int:
    """Run one command and return its exit code. A failure is one message on standard error. `images`: more of them."""
    options = _parser().parse_args(words)
    options.images = images
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except _FAILURES as error:
        print(f"igw_cluster: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m igw_cluster", description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="where it keeps what it needs")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="start a cluster; builds what is missing first")
    up.add_argument("--without-gateway", action="store_true", help="no Envoy Gateway")
    up.set_defaults(command=_up)
    commands.add_parser("down", help="end it and all that runs in it").set_defaults(command=_down)
    commands.add_parser("status", help="say whether it runs, and how to reach it").set_defaults(command=_status)
    leads = commands.add_parser("forward", help="a loopback port that leads to a Service, until the cluster ends")
    leads.add_argument("service", metavar="NAMESPACE/SERVICE")
    leads.add_argument("port", type=int)
    leads.set_defaults(command=_forward)
    commands.add_parser("build", help="compile what is missing").set_defaults(command=_build)
    inside = commands.add_parser("exec", help="run a command inside its network, as on the node")
    inside.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    inside.set_defaults(command=_exec)
    return parser


def _up(options: argparse.Namespace) -> int:
    folder: Path = options.folder
    if (running := cluster.find(folder)) is not None:
        print("It runs already.")
        _tell(running)
        return 0
    shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
    folder.mkdir(parents=True, mode=0o700)
    began = time.monotonic()
    programs = builds.ensure()
    images = {**gateway_images(programs), **options.images}
    made = cluster.boot(folder, runtime(folder / "images.json", images), outlives_us=True)
    if not options.without_gateway:
        _install_gateway(made, programs["helm"])
    print(f"up after {time.monotonic() - began:.0f} s")
    _tell(made)
    return 0


def _install_gateway(made: Cluster, helm: Path) -> None:
    print("installing Envoy Gateway")
    try:
        gateway.install(Helm(helm, made.server.kubeconfig, made.folder / "helm"), builds.envoy_gateway_chart())
    except HelmFailed as error:
        dump = diagnostics.dump(made.kubectl, made.folder / "logs", made.folder / "dump")
        raise HelmFailed(f"{error}\nWhat the cluster says: {dump}. It still runs; `down` ends it.") from None


def _tell(made: Cluster) -> None:
    print(f"\nexport KUBECONFIG={made.server.kubeconfig}")
    print(f"{kubectl()} get pods -A")
    print(f"Logs: {made.folder / 'logs'}; inside its network: python -m igw_cluster exec -- curl ...; end: down")


def _down(options: argparse.Namespace) -> int:
    running = cluster.find(options.folder)
    if running is not None:
        running.stop()
    shutil.rmtree(options.folder, ignore_errors=True)
    print("ended" if running is not None else "nothing runs")
    return 0


def _status(options: argparse.Namespace) -> int:
    running = cluster.find(options.folder)
    if running is None:
        print("nothing runs")
        return 1
    print(running.kubectl("get", "nodes"))
    _tell(running)
    return 0


def _forward(options: argparse.Namespace) -> int:
    running = cluster.find(options.folder)
    namespace, _, service = options.service.partition("/")
    if running is None or not service:
        print("igw_cluster: nothing runs" if running is None else "igw_cluster: NAMESPACE/SERVICE", file=sys.stderr)
        return 1
    print(f"http://127.0.0.1:{running.forward(namespace, service, options.port)}")
    return 0


def _build(options: argparse.Namespace) -> int:
    builds.ensure()
    builds.envoy_gateway_chart()
    return 0


def _exec(options: argparse.Namespace) -> int:
    running = cluster.find(options.folder)
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if running is None or not words:
        print("igw_cluster: nothing runs" if running is None else "igw_cluster: which command?", file=sys.stderr)
        return 1
    return subprocess.call(running.machine.command(words))
