"""Compiles the parts of the cluster that exist only as Go modules, once, into a cache outside the repository.

A program's place in the cache is named by a hash of its sources, versions and flags, so that a change of any builds it
anew and nothing else does. Two processes that ask at the same time do not compile twice: one waits for the other.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from igw_cluster import toolchain
from igw_cluster.toolchain import Say

KUBERNETES: Final = "v1.36.3"
ENVOY_GATEWAY: Final = "v1.9.1"
HELM: Final = "v3.19.4"
COREDNS: Final = "v1.15.0"

_SOURCES: Final = Path(__file__).parent / "go"
_STRIP: Final = "-s -w"
_VERSION: Final = "k8s.io/component-base/version"
_KUBERNETES_FLAGS: Final = (
    f"{_STRIP} -X {_VERSION}.gitVersion={KUBERNETES} -X {_VERSION}.gitMajor=1 -X {_VERSION}.gitMinor=36"
    f" -X {_VERSION}.gitTreeState=clean"
)
_EG_MODULE: Final = "github.com/envoyproxy/gateway"
_EG_FLAGS: Final = f"{_STRIP} -X {_EG_MODULE}/internal/cmd/version.envoyGatewayVersion={ENVOY_GATEWAY}"
_CHART_PLACEHOLDERS: Final = {
    "${GatewayImage}": f"docker.io/envoyproxy/gateway:{ENVOY_GATEWAY}",
    "${GatewayImagePullPolicy}": "IfNotPresent",
}
_GO_ENVIRONMENT: Final = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
# Two compilations fill the pauses of each other (downloads, links); more would only take memory.
_AT_ONCE: Final = 2
_PROGRESS_S: Final = 10.0


class BuildFailed(Exception):
    """The compiler's last words, and where the whole log lies."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How programs are made in one call of Go: `module` is a folder of ours, else `packages` have their versions."""

    programs: tuple[str, ...]
    link_flags: str
    packages: tuple[str, ...]
    module: Path | None = None

    def key(self) -> str:
        """Changes with all that the programs are made of."""
        digest = hashlib.sha256(json.dumps([self.link_flags, self.packages, _GO_ENVIRONMENT]).encode())
        for file in sorted(self.module.rglob("*")) if self.module else ():
            if file.is_file():
                digest.update(str(file.relative_to(_SOURCES)).encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()[:12]

    def only(self, programs: Sequence[str]) -> "Recipe":
        """The same for some of its programs."""
        kept = [(name, package) for name, package in zip(self.programs, self.packages, strict=True) if name in programs]
        return Recipe(tuple(n for n, _ in kept), self.link_flags, tuple(p for _, p in kept), self.module)


_KUBERNETES_PROGRAMS: Final = (
    *("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"),
)
# The order is the one in which they are started: the longest first.
RECIPES: Final = (
    Recipe(
        _KUBERNETES_PROGRAMS,
        _KUBERNETES_FLAGS,
        tuple(f"./cmd/{program}" for program in _KUBERNETES_PROGRAMS),
        _SOURCES / "kubernetes",
    ),
    Recipe(("envoy-gateway",), _EG_FLAGS, (f"{_EG_MODULE}/cmd/envoy-gateway@{ENVOY_GATEWAY}",)),
    Recipe(("coredns",), _STRIP, (f"github.com/coredns/coredns@{COREDNS}",)),
    Recipe(("helm",), _STRIP, (f"helm.sh/helm/v3/cmd/helm@{HELM}",)),
)
PROGRAMS: Final = tuple(program for recipe in RECIPES for program in recipe.programs)


def path(program: str) -> Path:
    """Where a program lies once it is built."""
    recipe = next(recipe for recipe in RECIPES if program in recipe.programs)
    return toolchain.cache() / "bin" / f"{program}-{recipe.key()}"


def missing(programs: Iterable[str] = PROGRAMS) -> list[str]:
    """Those that are not built yet."""
    return [program for program in programs if not path(program).exists()]


def ensure(programs: Iterable[str] = PROGRAMS, say: Say = print) -> dict[str, Path]:
    """The programs' paths, after building what is missing. `say` gets a line for each step and every ten seconds of
    work. Raises BuildFailed, toolchain.Missing."""
    paths = {program: path(program) for program in programs}
    if not missing(paths):
        return paths
    with _lock("build", say):
        left = missing(paths)  # the process that had the lock may have built them
        jobs = [job for recipe in RECIPES if (job := recipe.only(left)).programs]
        if jobs:
            go = toolchain.go(say)
            say(f"building {', '.join(name for job in jobs for name in job.programs)}; kept in {toolchain.cache()}")
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda job: _Build(job, go, say).run(), jobs))
    return paths


def envoy_gateway_chart(say: Say = print) -> Path:
    """The folder of Envoy Gateway's Helm chart: its module's, with the placeholders of its values filled in.

    Raises BuildFailed, toolchain.Missing.
    """
    place = toolchain.cache() / f"envoy-gateway-chart-{ENVOY_GATEWAY}"
    if not place.exists():
        with _lock("chart", say):
            _copy_chart(place, toolchain.go(say))
    return place


def _copy_chart(place: Path, go: Path) -> None:
    if place.exists():
        return
    done = subprocess.run(
        [str(go), "mod", "download", "-json", f"{_EG_MODULE}@{ENVOY_GATEWAY}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=os.environ | _GO_ENVIRONMENT,
    )
    if done.returncode:
        raise BuildFailed(f"Envoy Gateway's module could not be had: {done.stderr.strip() or done.stdout.strip()}")
    draft = place.with_suffix(f".{os.getpid()}")
    # The module cache is read-only; the copy shall be removable.
    shutil.copytree(
        Path(json.loads(done.stdout)["Dir"]) / "charts" / "gateway-helm", draft, copy_function=shutil.copyfile
    )
    values = (draft / "values.tmpl.yaml").read_text()
    for placeholder, value in _CHART_PLACEHOLDERS.items():
        values = values.replace(placeholder, value)
    (draft / "values.yaml").write_text(values)
    for folder in [draft, *(entry for entry in draft.rglob("*") if entry.is_dir())]:
        folder.chmod(0o755)
    draft.rename(place)


class _Build:
    """One call of Go, with its progress."""

    def __init__(self, recipe: Recipe, go: Path, say: Say) -> None:
        self.recipe, self.go, self.say = recipe, go, say
        self.name = recipe.programs[0] if len(recipe.programs) == 1 else "the Kubernetes components"
        self.log = toolchain.cache() / "logs" / f"build-{recipe.programs[0]}.log"
        self.packages = 0
        self.last = ""

    def run(self) -> None:
        """Build, and put each program in its place at once when it is whole. Raises BuildFailed."""
        began = time.monotonic()
        draft = toolchain.cache() / f"draft-{os.getpid()}-{self.recipe.programs[0]}"
        draft.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._compile(draft, began)
            for program in self.recipe.programs:
                place = path(program)
                place.parent.mkdir(parents=True, exist_ok=True)
                (draft / program).replace(place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        self.say(f"built {self.name} in {time.monotonic() - began:.0f} s")

    def _command(self, draft: Path) -> list[str]:
        flags = ["-v", "-trimpath", "-ldflags", self.recipe.link_flags]
        if self.recipe.module is None:
            return [str(self.go), "install", *flags, *self.recipe.packages]
        return [str(self.go), "build", *flags, "-o", f"{draft}/", *self.recipe.packages]

    def _compile(self, draft: Path, began: float) -> None:
        environment = os.environ | _GO_ENVIRONMENT | {"GOBIN": str(draft)}
        process = subprocess.Popen(
            self._command(draft),
            cwd=self.recipe.module or draft,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        reader = threading.Thread(target=self._read, args=(process,))
        reader.start()
        try:
            while reader.is_alive():
                reader.join(_PROGRESS_S)
                if reader.is_alive():
                    self.say(f"{self.name}: {time.monotonic() - began:.0f} s, {self.packages} packages; {self.last}")
        except BaseException:
            process.terminate()
            raise
        if process.wait():
            words = "".join(self.log.read_text(errors="replace").splitlines(keepends=True)[-15:])
            raise BuildFailed(f"{self.name} could not be built:\n{words}The whole log: {self.log}")

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout as output, self.log.open("w") as log:
            for line in output:
                log.write(line)
                self.last = line.strip()
                self.packages += not line.startswith("go: ")


@contextmanager
def _lock(name: str, say: Say) -> Iterator[None]:
    """Held by one process of the machine; the kernel frees it when the process ends, however it ends."""
    file = toolchain.cache() / f"{name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is building; waiting for it")
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        ensure()
        envoy_gateway_chart()
    except (BuildFailed, toolchain.Missing) as error:
        sys.exit(f"igw_cluster: {error}")
