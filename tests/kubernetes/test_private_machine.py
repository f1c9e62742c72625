"""The private machine of the cluster: reachable from outside only where asked for, and gone as a whole."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from igw_cluster import private
from igw_cluster.private import NODE_IP, Machine

WAIT_S = 10.0
# Echoes until the end of what it gets, then says so: only a connection that can be half closed hears that.
ECHO = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    while True:
        connection, _ = server.accept()
        with connection:
            while chunk := connection.recv(65536):
                connection.sendall(chunk)
            connection.sendall(b"end")
"""


@pytest.fixture
def machine() -> Iterator[Machine]:
    with private.machine() as made:
        yield made


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def exchange(port: int, sent: bytes) -> bytes:
    """What comes back for `sent` until the other end closes; nothing where nobody serves."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            received = b""
            while chunk := client.recv(65536):
                received += chunk
            return received
    except ConnectionError:
        return b""


def test_a_forwarded_port_carries_all_bytes_and_their_end(machine: Machine, tmp_path: Path) -> None:
    machine.start("echo", [sys.executable, "-c", ECHO, NODE_IP, "7000"], tmp_path / "echo.log")
    port = machine.forward(NODE_IP, 7000)
    until(lambda: exchange(port, b"x") == b"xend")
    sent = bytes(range(256)) * 8000
    assert exchange(port, sent) == sent + b"end"


def test_a_forwarded_port_with_nobody_behind_it_closes(machine: Machine) -> None:
    assert exchange(machine.forward(NODE_IP, 7001), b"x") == b""


def test_its_network_is_not_the_outer_one(machine: Machine) -> None:
    """A port that is taken outside is free inside, and the other way round."""
    with socket.create_server(("127.0.0.1", 0)) as outside:
        port = outside.getsockname()[1]
        bind = "import socket, sys; socket.create_server(('127.0.0.1', int(sys.argv[1]))).close()"
        machine.run([sys.executable, "-c", bind, str(port)])


def test_its_mounts_are_not_seen_outside(machine: Machine, tmp_path: Path) -> None:
    machine.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path])
    machine.run(["touch", tmp_path / "inside"])
    assert list(tmp_path.iterdir()) == []


def test_all_that_was_started_in_it_ends_with_it(tmp_path: Path) -> None:
    with private.machine() as made:
        # It ignores the polite signals, and has a child that left its session.
        script = "trap '' TERM INT HUP; setsid sleep 1000 & echo started; wait; sleep 1000"
        process = made.start("stubborn", ["sh", "-c", script], tmp_path / "log")
        until(lambda: "started" in (tmp_path / "log").read_text())
        assert "sleep 1000" in made.run(["ps", "ax", "-o", "args"])
    assert not made.alive()
    assert process.popen.poll() is not None


def test_it_ends_when_the_process_that_started_it_is_killed() -> None:
    program = (
        "import sys; from igw_cluster import private; made = private.start(); "
        "print(made.pid, made.holder, flush=True); sys.stdin.read()"
    )
    package = Path(private.__file__).parents[1]
    starter = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=package, text=True
    )
    with starter:
        assert starter.stdout is not None
        pid, holder = map(int, starter.stdout.readline().split())
        made = Machine(pid, holder)
        assert made.alive()
        starter.kill()
    until(lambda: not made.alive())
