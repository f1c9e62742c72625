"""What the picker does unless it is told otherwise: a changed default changes somebody's setup."""

import inspect
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path

import pytest

from igw_extproc import cli
from igw_extproc.scheduling.policies import DEFAULT, POLICIES
from igw_extproc.settings import Settings, TransportName

DEFAULTS = {
    "kubernetes": None,
    "kubeconfig": None,
    "host": "127.0.0.1",
    "port": 9002,
    "metrics_port": 9090,
    "transport": TransportName.HTTP2,
    "policy": "prefix-cache",
    "max_body_bytes": 33_554_432,
    "drain_seconds": 3.0,
    "tls_certificate": None,
    "tls_key": None,
    "tls_client_ca": None,
}


def test_every_default_is_what_it_is_said_to_be() -> None:
    assert asdict(Settings(objects=(Path("x"),))) == {"objects": (Path("x"),), **DEFAULTS}


def test_the_command_line_has_an_option_with_the_same_default_for_each() -> None:
    options = inspect.signature(cli.picker).parameters
    assert {name: option.default for name, option in options.items() if name in DEFAULTS} == DEFAULTS
    assert set(options) == {"objects", "log_level", *DEFAULTS}


def test_the_default_policy_exists_and_is_the_one_that_policies_name() -> None:
    assert DEFAULTS["policy"] == DEFAULT
    assert DEFAULT in POLICIES


def test_settings_are_frozen() -> None:
    """What may change while the picker runs comes from objects."""
    with pytest.raises(FrozenInstanceError):
        Settings(objects=()).port = 1  # type: ignore[misc]
