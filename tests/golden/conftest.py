"""Imports the renderer before any test does: the protobuf classes it uses warn of their own use of pydantic."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import igw_operator.render.bootstrap  # noqa: F401

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/golden --update-golden` writes what is rendered now; read the diff before committing it."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected files of tests/golden")
