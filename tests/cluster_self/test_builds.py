"""A build is redone when what it is made of changes, and only then."""

from pathlib import Path

import pytest

from igw_cluster import builds, toolchain
from igw_cluster.builds import BuildFailed, Recipe


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one; Go's own cache stays where it is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GOCACHE", str(tmp_path / "go"))
    return tmp_path / "cache"


def module(folder: Path, source: str) -> Path:
    """A module with one program, `hello`."""
    program = folder / "cmd" / "hello"
    program.mkdir(parents=True, exist_ok=True)
    (folder / "go.mod").write_text("module hello\n\ngo 1.26\n")
    (program / "main.go").write_text(source)
    return folder


def use(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let `hello` be all that there is to build."""
    monkeypatch.setattr(builds, "_SOURCES", folder)
    monkeypatch.setattr(builds, "RECIPES", (Recipe(("hello",), "-s", ("./cmd/hello",), folder),))


GOOD = "package main\n\nfunc main() {}\n"


def test_it_is_built_once_until_its_source_changes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, module(tmp_path / "source", GOOD))
    said: list[str] = []
    first = builds.ensure(["hello"], said.append)["hello"]
    assert first.is_relative_to(cache)
    assert said[-1].startswith("built hello in ")
    said.clear()
    assert builds.ensure(["hello"], said.append)["hello"] == first
    assert said == []
    module(tmp_path / "source", GOOD + "// changed\n")
    assert builds.missing(["hello"]) == ["hello"]


def test_the_compilers_words_are_in_the_error(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, module(tmp_path / "source", "package main\n\nfunc main() { missing() }\n"))
    with pytest.raises(BuildFailed, match="undefined: missing"):
        builds.ensure(["hello"], lambda line: None)
    assert builds.missing(["hello"]) == ["hello"]
    assert not list((cache / "igw" / "cluster").glob("draft-*"))


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(toolchain.Missing, match="`nft` is needed: install the package nftables"):
        toolchain.debian("nft", "nftables", lambda line: None)
