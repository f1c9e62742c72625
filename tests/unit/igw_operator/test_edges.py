"""The small parts at the edges: ports, files that are replaced, and words of the command line."""

import os
import socket
from pathlib import Path

import pytest

from igw_api.objects import Key, Secret
from igw_operator.cli import parse_endpoint, parse_listen, parse_secret
from igw_operator.ports import PortUnavailable, choose_places, claim
from igw_operator.render.files import Address
from igw_operator.sources import Manifests
from igw_operator.state import remove_others, replace, replace_all


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


def test_only_the_owner_may_read_a_private_file(tmp_path: Path) -> None:
    """Whatever the directory allows."""
    replace(tmp_path / "tls_default_web_1.pem", b"key", private=True)
    assert os.stat(tmp_path / "tls_default_web_1.pem").st_mode & 0o777 == 0o600


def test_what_nothing_refers_to_any_more_is_removed(tmp_path: Path) -> None:
    """Keys too; logs and what Envoy starts with stay."""
    for name in ("sds_tls_default_web.json", "tls_default_web_1.pem", "tls_default_web_2.pem", "envoy.log", "cds.json"):
        (tmp_path / name).touch()
    remove_others(tmp_path, ["tls_default_web_2.pem"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cds.json", "envoy.log", "tls_default_web_2.pem"]


def test_a_directory_is_a_secret_with_a_file_for_each_key(tmp_path: Path) -> None:
    """As Kubernetes mounts one: names that begin with a dot are its own business. Line ends are no part of a token."""
    (tmp_path / "pool.yaml").write_text("")
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    for name, text in {"ci": "sk-1\n", "alice.b": "sk-2", ".hidden": "x", "ci~": "x", "a b": "x"}.items():
        (tokens / name).write_text(text)
    (tokens / "..data").mkdir()
    key = Key("default", "team")
    manifests = Manifests([tmp_path / "pool.yaml"], {key: tokens})
    (found,) = manifests.read()[str(tokens)].objects
    assert isinstance(found, Secret)
    assert (found.key, found.data) == (key, {"ci": "sk-1", "alice.b": "sk-2"})
    tokens.rename(tmp_path / "away")
    kept = manifests.read()[str(tokens)]
    assert kept.objects == (found,)
    assert [str(problem) for problem in kept.problems] == [
        f"{tokens}:1: Secret default/team: cannot be read: No such file or directory"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("team=tokens", (Key("default", "team"), Path("tokens"))),
        ("llm/web=/etc/web=1", (Key("llm", "web"), Path("/etc/web=1"))),
    ],
)
def test_a_secret_of_the_command_line_has_a_name_and_a_directory(text: str, expected: tuple[Key, Path]) -> None:
    assert parse_secret(text) == expected


@pytest.mark.parametrize("text", ["team", "team=", "=tokens", "/team=tokens", "Team=tokens", "a/b/c=tokens"])
def test_a_secret_that_makes_no_sense_is_refused_with_the_option(text: str) -> None:
    with pytest.raises(ValueError, match=f"--secret {text}: must look like"):
        parse_secret(text)


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
