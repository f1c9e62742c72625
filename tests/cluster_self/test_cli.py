"""The command line, as a person types it: a cluster that stays after the command has ended, until it is told to go."""

import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from igw_cluster import cluster
from igw_testing.kube import require_built

pytestmark = pytest.mark.timeout(180)
PACKAGES = str(Path(cluster.__file__).parents[1])


def typed(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """One command, with everything that it prints."""
    command = [sys.executable, "-m", "igw_cluster", "--folder", str(folder), *words]
    environment = os.environ | {"PYTHONPATH": PACKAGES}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=150, env=environment)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running cluster without Envoy Gateway."""
    require_built()
    folder = tmp_path_factory.mktemp("cli") / "cluster"
    done = typed(folder, "up", "--without-gateway")
    assert done.returncode == 0, done.stderr
    assert f"export KUBECONFIG={folder}" in done.stdout
    try:
        yield folder
    finally:
        typed(folder, "down")


@pytest.mark.parametrize("words", [("status",), ("exec", "--", "true"), ("forward", "default/kubernetes", "443")])
def test_without_a_cluster_it_says_so(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = typed(tmp_path, *words)
    assert done.returncode == 1
    assert "nothing runs" in done.stdout + done.stderr


def test_nothing_is_ended_where_nothing_runs(tmp_path: Path) -> None:
    assert typed(tmp_path, "down").stdout == "nothing runs\n"


def test_a_cluster_stays_and_is_found_again(up: Path) -> None:
    """Also by another `up`."""
    assert "Ready" in typed(up, "status").stdout
    assert "It runs already." in typed(up, "up").stdout


def test_commands_run_inside_its_network(up: Path) -> None:
    assert "172.30.0.1" in typed(up, "exec", "--", "ip", "address").stdout
    assert typed(up, "exec").stderr == "igw_cluster: which command?\n"


def test_a_service_can_be_reached_from_outside(up: Path) -> None:
    """The API server's own, which answers everybody that it lives."""
    url = typed(up, "forward", "default/kubernetes", "443").stdout.strip().replace("http", "https", 1)
    trusted = ssl.create_default_context(cafile=up / "credentials" / "ca.crt")
    with urllib.request.urlopen(f"{url}/livez", timeout=10, context=trusted) as answer:
        assert answer.read() == b"ok"


def test_a_cluster_that_was_killed_leaves_nothing_and_can_be_started_anew(tmp_path: Path) -> None:
    """Its first process ends all others, and takes the mounts along."""
    require_built()
    folder = tmp_path / "cluster"
    assert typed(folder, "up", "--without-gateway").returncode == 0
    found = cluster.find(folder)
    assert found is not None
    found.stop()
    assert typed(folder, "status").returncode == 1
    assert str(folder) not in Path("/proc/self/mountinfo").read_text()
    assert typed(folder, "down").stdout == "nothing runs\n"
    assert not folder.exists()
