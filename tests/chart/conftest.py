"""The real Helm on the chart of this repository, and a real API server to try it on."""

from collections.abc import Iterator

import pytest

from igw_cluster import builds
from igw_cluster.apiserver import ApiServer, running_api_server
from igw_cluster.helm import Helm
from igw_testing.helm_chart import Rendering


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/chart --update-chart` writes what is rendered now; read the difference before committing it."""
    parser.addoption("--update-chart", action="store_true", help="rewrite the expected files of tests/chart")


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a cluster."""
    home = tmp_path_factory.mktemp("helm")
    return Helm(builds.ensure(["helm"])["helm"], home / "none", home)


@pytest.fixture(scope="session")
def chart(helm: Helm) -> Rendering:
    return Rendering(helm)


@pytest.fixture(scope="module")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server of the module's own: releases install definitions, which are everybody's."""
    with running_api_server(tmp_path_factory.mktemp("api-server")) as server:
        yield server
