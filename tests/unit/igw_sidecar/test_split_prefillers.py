"""Whom the sidecar may be told to ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_sidecar.prefillers import PRIVATE, NotAllowed, Prefiller, networks, parse


@pytest.mark.parametrize(
    ("header", "prefiller"),
    [
        ("10.1.2.3:8000", Prefiller("10.1.2.3", 8000)),
        (" 192.168.0.9:80 ", Prefiller("192.168.0.9", 80)),
        ("127.0.0.1:8001", Prefiller("127.0.0.1", 8001)),
        ("[fd00::5]:8000", Prefiller("fd00::5", 8000)),
        ("10.0.0.1:1,10.0.0.2:2", Prefiller("10.0.0.1", 1)),
        ("[::ffff:10.0.0.1]:8000", Prefiller("10.0.0.1", 8000)),
    ],
)
def test_private_addresses_may_be_asked(header: str, prefiller: Prefiller) -> None:
    assert parse(header, PRIVATE) == prefiller


@pytest.mark.parametrize(
    "header", ["169.254.169.254:80", "8.8.8.8:80", "[::ffff:169.254.169.254]:80", "[2001:db8::1]:80", "0.0.0.0:80"]
)
def test_others_may_not(header: str) -> None:
    with pytest.raises(NotAllowed, match="allow-prefillers"):
        parse(header, PRIVATE)


@pytest.mark.parametrize("header", ["", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:99999", "host:80", "::1", "a"])
def test_only_an_address_with_a_port_names_a_prefiller(header: str) -> None:
    with pytest.raises(NotAllowed, match="ip:port"):
        parse(header, PRIVATE)


def test_a_list_of_networks_replaces_the_default() -> None:
    allowed = networks(["10.1.0.0/16", "203.0.113.7"])
    assert parse("203.0.113.7:80", allowed) == Prefiller("203.0.113.7", 80)
    with pytest.raises(NotAllowed):
        parse("10.2.0.1:80", allowed)


def test_a_network_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="example: neither"):
        networks(["10.0.0.0/8", "example"])


def test_an_address_is_written_as_in_a_url() -> None:
    assert [str(Prefiller("10.0.0.1", 80)), str(Prefiller("fd00::1", 80))] == ["10.0.0.1:80", "[fd00::1]:80"]


@given(st.text(max_size=40))
def test_whatever_the_header_says_it_is_an_allowed_address_or_refused(header: str) -> None:
    try:
        prefiller = parse(header, PRIVATE)
    except NotAllowed:
        return
    assert parse(str(prefiller), PRIVATE) == prefiller
