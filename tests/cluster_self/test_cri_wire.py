"""The compiled messages of the container runtime interface are those of the .proto files beside them."""

import subprocess
import sys
from pathlib import Path

from igw_cluster.cri import wire

FOLDER = Path(wire.__file__).parent
PACKAGES = FOLDER.parents[2]


def test_the_compiled_messages_are_fresh(tmp_path: Path) -> None:
    """They were compiled after the last change of a .proto file."""
    sources = [str(path.relative_to(PACKAGES)) for path in sorted(FOLDER.glob("*.proto"))]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*command, *sources], cwd=PACKAGES, check=True, timeout=60)
    made = {path.name: path.read_text() for path in tmp_path.rglob("*_pb2.py*")}
    assert made == {path.name: path.read_text() for path in FOLDER.glob("*_pb2.py*")}
