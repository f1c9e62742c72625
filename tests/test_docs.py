"""The documentation says what is so: commands run, links lead somewhere, layers and words are those of the code."""

import ast
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from igw_testing.pages import blocks, commands, of_clusters

ROOT = Path(__file__).parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))
START_TIMEOUT = 40.0


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def section(page: str, heading: str) -> str:
    """The text under a heading, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no heading {heading!r}"
    return found.group(1)


# ------------------------------------------------------------------------------------------------ commands


@dataclass
class Terminal:
    """Runs the README's commands as a reader would, on ports from the system."""

    folder: Path
    servers: ExitStack
    ports: dict[str, str] = field(default_factory=dict)  # as written -> as they are

    def run(self, words: Sequence[str]) -> str:
        """What a command prints; for one that serves, until it is ready."""
        if words[0] == "make":
            return self._finish(["make", "--dry-run", "-C", str(ROOT), *words[1:]])
        if words[0] == "curl":
            return self._finish(["curl", "--silent", "--fail-with-body", *map(self._with_ports, words[1:])])
        assert words[0] == ".venv/bin/igw", words
        program = [sys.executable, "-m", "igw_operator", words[1]]
        return {"sim": self._simulate, "up": self._up}[words[1]](program, words[2:])

    def _simulate(self, program: list[str], options: Sequence[str]) -> str:
        first = int(options[options.index("--port") + 1])
        count = int(options[options.index("--count") + 1])
        command = [*program, *("0" if word == str(first) else word for word in options)]
        output = self.servers.enter_context(serving(command, self.folder, r"igw sim listening .*", count))
        found = re.findall(r"address=\S+:(\d+)$", output, re.MULTILINE)
        self.ports |= {str(first + at): port for at, port in enumerate(found)}
        return output

    def _up(self, program: list[str], options: Sequence[str]) -> str:
        manifest = self.folder / "gateway.yaml"
        manifest.write_text(self._with_ports(manifest.read_text()))
        command = [*program, *options, "--listen", "8080=127.0.0.1:0"]
        output = self.servers.enter_context(serving(command, self.folder, r"igw up ready .*", 1))
        self.ports |= dict(re.findall(r"port=(\d+) address=\S+:(\d+)$", output, re.MULTILINE))
        return output

    def _with_ports(self, written: str) -> str:
        return re.sub(r"(?<=[: ])80\d\d\b", lambda match: self.ports.get(match.group(), match.group()), written)

    def _finish(self, command: list[str]) -> str:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
        return done.stdout


@contextmanager
def serving(command: list[str], folder: Path, line: str, count: int) -> Iterator[str]:
    """A process that runs for as long as the context lasts, once it has printed `count` such lines; its output."""
    with (folder / f"{command[3]}.log").open("w+") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield _ready(process, Path(log.name), re.compile(f"^{line}$", re.MULTILINE), count)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(process: subprocess.Popen[bytes], log: Path, line: re.Pattern[str], count: int) -> str:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        output = log.read_text()
        if len(line.findall(output)) >= count:
            return output
        time.sleep(0.05)
    raise AssertionError(f"it did not get ready: {log.read_text()}")


@pytest.mark.skipif(not shutil.which("curl"), reason="the README asks the gateway with curl")
def test_every_command_of_the_readme_works(tmp_path: Path) -> None:
    """In order, with its manifests, simulated engines and other ports. Of make, only that it knows what to do.

    Those for a cluster are run by tests/cluster_e2e.
    """
    (manifests,) = blocks(README, "yaml")
    (tmp_path / "gateway.yaml").write_text(manifests)
    with ExitStack() as servers:
        terminal = Terminal(tmp_path, servers)
        printed = [terminal.run(words) for words in commands(README) if not of_clusters(words)]
    assert '"choices"' in printed[-1]


@pytest.mark.parametrize("words", commands(CONTRIBUTING), ids=" ".join)
def test_every_command_for_contributors_is_known_to_make(words: list[str], tmp_path: Path) -> None:
    """Not run here: they would run this test."""
    with ExitStack() as servers:
        Terminal(tmp_path, servers).run(words)


# ------------------------------------------------------------------------------------------------ references


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_every_link_leads_to_a_file(path: Path) -> None:
    """Links within the repository, relative to their page."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_every_file_that_a_page_names_exists(path: Path) -> None:
    """Paths in backticks that begin at a folder of the repository. Patterns must match something."""
    names = re.findall(r"`((?:crds|docs|examples|extproc|operator|protos|tests)/[\w./*-]+)`", path.read_text())
    assert [name for name in names if not any(ROOT.glob(name.rstrip("/")))] == []


@pytest.mark.parametrize("path", DECISIONS, ids=page_name)
def test_a_decision_is_short_and_has_its_three_parts(path: Path) -> None:
    """Context, decision, consequences, in under a page."""
    page = path.read_text()
    assert page.startswith(f"# {path.name[:4]}: ")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert len(page.splitlines()) <= 50


def test_decisions_have_numbers_of_their_own() -> None:
    """A number names one decision for ever; it is taken when the work on it begins, so some are not in use yet."""
    numbers = [int(path.name[:4]) for path in DECISIONS]
    assert numbers == list(range(1, len(numbers) + 1))


# ------------------------------------------------------------------------------------------------ layers


def contracts() -> list[dict[str, Any]]:
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found: list[dict[str, Any]] = settings["tool"]["importlinter"]["contracts"]
    return found


def table(heading: str) -> list[list[str]]:
    """The layers in the table under a heading: each row's modules, top first."""
    rows = re.findall(r"^\|[^|]+\|([^|]+)\|$", section(ARCHITECTURE, heading), re.MULTILINE)
    return [modules for row in rows if (modules := re.findall(r"`(\w+)`", row)) and not row.startswith(" modules")]


LAYERED = {
    '"The data path is layered"': ROOT / "extproc" / "igw_extproc",
    '"Scheduling: policies are assembled from parts that ignore each other"': ROOT / "extproc/igw_extproc/scheduling",
    '"The sidecar is layered"': ROOT / "extproc" / "igw_sidecar",
    '"Asking is apart from showing"': ROOT / "operator" / "igw_inspect",
    '"The control path is layered"': ROOT / "operator" / "igw_operator",
}
headings = pytest.mark.parametrize("heading", LAYERED)


def children(package: Path) -> set[str]:
    """The modules and packages in a package."""
    names = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    return names - {"__init__", "__main__"}


def imported(package: Path, child: str) -> set[str]:
    """Which other children of its package a child imports."""
    paths = [*package.glob(f"{child}.py"), *package.glob(f"{child}/**/*.py")]
    base = ".".join(package.relative_to(ROOT).parts[1:])
    found: set[str] = set()
    for node in (node for path in paths for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.ImportFrom) and node.module and f"{node.module}.".startswith(f"{base}."):
            inside = node.module.removeprefix(base).lstrip(".")
            found |= {inside.partition(".")[0]} if inside else {alias.name for alias in node.names}
    return found & children(package) - {child}


def test_every_import_contract_is_explained() -> None:
    """By its name."""
    assert [one["name"] for one in contracts() if one["name"] not in " ".join(ARCHITECTURE.split())] == []


@headings
def test_every_module_has_its_layer_in_the_picture(heading: str) -> None:
    """And the picture has no others."""
    assert sorted(module for row in table(heading) for module in row) == sorted(children(LAYERED[heading]))


@headings
def test_modules_import_only_from_layers_below_theirs(heading: str) -> None:
    """What import-linter checks by pyproject.toml holds for the picture too."""
    rows = table(heading)
    rank = {module: at for at, row in enumerate(rows) for module in row}
    upward = [
        f"{module} imports {other}"
        for module in rank
        for other in imported(LAYERED[heading], module)
        if rank.get(other, -1) <= rank[module]
    ]
    assert upward == []


def test_layers_stand_in_the_picture_as_in_the_contracts() -> None:
    """Row by row."""
    for contract in contracts():
        if contract["type"] != "layers":
            continue
        expected = [sorted(layer.split(" | ")) for layer in contract["layers"]]
        known = {module for layer in expected for module in layer}
        name = contract["name"]
        rows = table(f'"{name}"')
        assert [found for row in rows if (found := sorted(known & set(row)))] == expected, name


# ------------------------------------------------------------------------------------------------ words


def avoided() -> set[str]:
    """The glossary's words marked with a star, in lower case."""
    return {word.lower() for word in re.findall(r"(?<!\*)\b(\w+)\*", (ROOT / "docs" / "glossary.md").read_text())}


def identifiers(path: Path) -> Iterator[str]:
    """Every name that a module gives to something."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_own(node.value):
            yield node.attr


def _is_own(node: ast.expr) -> bool:
    """Attributes of what is not `self` were named elsewhere, perhaps by others."""
    return isinstance(node, ast.Name) and node.id == "self"


def words(identifier: str) -> set[str]:
    """`_MaxScores` is about `max` and `score`."""
    return {part.lower().removesuffix("s") for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)}


def test_one_thing_has_one_name() -> None:
    """No identifier of the planes or the API has a part that the glossary avoids."""
    packages = (
        "operator/igw_operator",
        "operator/igw_inspect",
        "extproc/igw_extproc",
        "extproc/igw_sidecar",
        "crds/igw_api",
    )
    assert avoided()
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        for name in identifiers(path)
        if words(name) & avoided()
    }
    assert found == set()


def test_the_changelog_has_room_for_what_comes() -> None:
    """Keep a Changelog: the unreleased changes come first, under the format's own headings."""
    page = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (.+)$", page, re.MULTILINE)[0] == "[Unreleased]"
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", page, re.MULTILINE)) <= kinds
