"""What must hold of the repository as a whole: nothing shadows, nothing generated is stale, nothing strays in."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from igw_api.inferencepoolpolicy import EndpointPolicy, SchedulingPolicy
from igw_extproc.scheduling.policies import POLICIES, SPLITS

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "operator/igw_operator",
    "operator/igw_inspect",
    "extproc/igw_extproc",
    "extproc/igw_sidecar",
    "crds/igw_api",
    "examples/igw_sim",
    "examples/igw_bench",
)
PROTOS = ROOT / "protos"
LONGEST = 400  # lines of a source file
LARGEST = 1_000_000  # bytes of any file
# Written so that they do not match themselves.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|root|tmp)/")
REGISTRY = re.compile(
    r"\b(?:pypi|pythonhosted|(?:proxy|sum)\.golang|registry\.npmjs)\.org\b|artifac[t]ory|index-url *=? *\w+:"
)
MARKER = re.compile(r"\b(?:TO[D]O|FI[X]ME|X[X]X)\b")
VAGUE = frozenset({"utils", "util", "helpers", "helper", "common", "misc"})


def sources() -> Iterator[Path]:
    """Every module of ours that somebody wrote."""
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def tracked() -> list[Path]:
    """All files under version control that are there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=30)
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def text(path: Path) -> str:
    """What it says; nothing if it is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def matches(pattern: re.Pattern[str]) -> list[str]:
    """Where `pattern` stands in tracked files, as `file:line: text`."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked()
        for number, line in enumerate(text(path).splitlines(), 1)
        if pattern.search(line)
    ]


def test_the_folder_operator_is_no_package() -> None:
    """It would shadow the standard library's `operator` for everything that is run from the repository."""
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_operator_is_the_standard_librarys_in_the_repository_too() -> None:
    """With `-c`, Python puts the current folder first on its path."""
    command = [sys.executable, "-c", "import sys, operator; print(sys.path[0] == '', operator.__file__)"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    first, _, path = found.stdout.strip().partition(" ")
    assert first == "True"
    assert Path(path).name == "operator.py"
    assert not Path(path).is_relative_to(ROOT / "operator")


def test_the_compiled_protobuf_files_are_fresh(tmp_path: Path) -> None:
    """`make protos` was run after the last change of a .proto file."""
    protos = [str(path.relative_to(PROTOS)) for path in sorted(PROTOS.glob("igw_protos/*.proto"))]
    assert protos
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, *protos], cwd=PROTOS, check=True, timeout=60)
    fresh = {path.name: path.read_text() for path in (tmp_path / "igw_protos").iterdir()}
    committed = {path.name: path.read_text() for path in PROTOS.glob("igw_protos/*_pb2.py*")}
    assert committed == fresh


def test_the_command_that_writes_the_crds_writes_those_in_the_repository(tmp_path: Path) -> None:
    """As `make crds` calls it."""
    subprocess.run([sys.executable, "-m", "igw_api.crdgen", str(tmp_path)], check=True, timeout=60)
    fresh = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {path.name: path.read_text() for path in (ROOT / "crds").glob("*.yaml")} == fresh


def test_manifests_may_name_every_policy_and_no_other() -> None:
    """The API cannot import the picker's table, so it repeats the names."""
    assert sorted(get_args(EndpointPolicy)) == sorted(POLICIES)
    assert sorted(get_args(SchedulingPolicy)) == sorted([*POLICIES, *SPLITS])


def test_every_policy_is_explained() -> None:
    """Each has a section; other names for it stand in the table."""
    page = (ROOT / "docs" / "policies.md").read_text()
    headings = " ".join(re.findall(r"^## (.+)$", page, re.MULTILINE)).split()
    assert {policy.name for policy in POLICIES.values()} <= set(headings)
    assert not [name for name in POLICIES if f"`{name}`" not in page]


def test_the_licence_is_there_and_is_the_one_declared() -> None:
    """pyproject.toml says Apache-2.0."""
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_no_path_of_a_developers_machine_is_in_a_file() -> None:
    """They would work for one person only."""
    assert matches(MACHINE_PATH) == []


def test_no_registry_is_named() -> None:
    """Where packages come from is the user's configuration, not ours."""
    assert matches(REGISTRY) == []


def test_no_file_is_large() -> None:
    """Recordings and binaries belong elsewhere."""
    assert [f"{path.relative_to(ROOT)}" for path in tracked() if path.stat().st_size > LARGEST] == []


def test_nothing_is_left_for_later() -> None:
    """What is not done is an issue or said in the documentation."""
    assert matches(MARKER) == []


def test_every_module_says_what_it_is_for() -> None:
    """A docstring comes first."""
    silent = [str(path.relative_to(ROOT)) for path in sources() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_every_test_module_says_what_it_is_for() -> None:
    """Likewise."""
    paths = sorted((ROOT / "tests").rglob("*.py"))
    assert [path.name for path in paths if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_no_source_file_is_long() -> None:
    """Who reads it should see it whole; beyond this it is two things."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST} == {}


def test_no_module_is_a_place_for_whatever() -> None:
    """A name must say what belongs in it."""
    assert [str(path.relative_to(ROOT)) for path in sources() if path.stem in VAGUE or path.parent.name in VAGUE] == []
