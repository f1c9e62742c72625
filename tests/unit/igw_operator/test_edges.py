"""The small parts at the edges: ports, files that are replaced, and words of the command line."""

import os
import socket
from pathlib import Path

import pytest

from igw_api.objects import Key
from igw_operator.cli import parse_endpoint, parse_listen
from igw_operator.ports import PortUnavailable, choose_places, claim
from igw_operator.render.files import Address
from igw_operator.state import replace, replace_all


def test_a_claimed_port_is_free_and_stays_so() -> None:
    """Envoy binds it again by number, at its start and at every restart."""
    address = claim(Address("127.0.0.1", 0))
    assert address.port > 0
    assert claim(address) == address


def test_a_port_that_another_program_listens_on_is_refused_by_name() -> None:
    """Also one that would let others share its port."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(PortUnavailable, match=f"127.0.0.1:{port} is in use by another program"):
            claim(Address("127.0.0.1", port))


def test_an_address_of_another_machine_is_refused() -> None:
    """203.0.113.1 is reserved for documentation, so it is nobody's."""
    with pytest.raises(PortUnavailable, match="is not an address of this machine"):
        claim(Address("203.0.113.1", 0))


def test_our_own_processes_get_ports_that_differ() -> None:
    """Chosen together, before any of them is bound."""
    for _ in range(20):
        places = choose_places(0, 0, 0)
        assert len({places.admin, places.picker, places.metrics}) == 3


def test_a_file_is_moved_into_place_and_left_alone_when_nothing_changed(tmp_path: Path) -> None:
    """Envoy and the picker react to the move."""
    path = tmp_path / "a.json"
    assert replace(path, b"1")
    first = os.stat(path)
    assert not replace(path, b"1")
    assert os.stat(path).st_ino == first.st_ino
    assert replace(path, b"2")
    assert os.stat(path).st_ino != first.st_ino
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


def test_only_changed_files_are_named(tmp_path: Path) -> None:
    """In the order in which they were written."""
    replace_all(tmp_path, {"a": "1", "b": "1", "c": "1"})
    assert replace_all(tmp_path, {"c": "2", "b": "1", "a": "2"}) == ("c", "a")


@pytest.mark.parametrize(
    ("text", "address", "port", "labels"),
    [
        ("app=vllm@127.0.0.1:8001", "127.0.0.1", 8001, {"app": "vllm"}),
        ("app=vllm,role=decode@10.0.0.1", "10.0.0.1", None, {"app": "vllm", "role": "decode"}),
        ("app=vllm@[::1]:8001", "::1", 8001, {"app": "vllm"}),
    ],
)
def test_an_endpoint_of_the_command_line_is_a_member(
    text: str, address: str, port: int | None, labels: dict[str, str]
) -> None:
    """With the labels by which pools select it."""
    member = parse_endpoint(text)
    assert (member.address, member.port, member.labels) == (address, port, labels)
    assert member.key.namespace == Key("default", "").namespace


@pytest.mark.parametrize("text", ["127.0.0.1:1", "app@127.0.0.1:1", "app=x@host:1", "app=x@127.0.0.1:99999", "=x@::1"])
def test_an_endpoint_that_makes_no_sense_is_refused_with_the_option(text: str) -> None:
    """One line."""
    with pytest.raises(ValueError, match="--endpoint"):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080=9090", (8080, Address("0.0.0.0", 9090))),
        ("8080=127.0.0.1:0", (8080, Address("127.0.0.1", 0))),
        ("8080=[::1]:90", (8080, Address("::1", 90))),
    ],
)
def test_a_port_can_be_opened_elsewhere(text: str, expected: tuple[int, Address]) -> None:
    """On the host of all others unless it says another."""
    assert parse_listen(text, "0.0.0.0") == expected


@pytest.mark.parametrize("text", ["8080", "x=1", "8080=127.0.0.1", "8080=host:1"])
def test_a_remapping_that_makes_no_sense_is_refused_with_the_option(text: str) -> None:
    """One line."""
    with pytest.raises(ValueError, match="--listen"):
        parse_listen(text, "127.0.0.1")
