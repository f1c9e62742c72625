"""A real etcd and kube-apiserver, without a node, for all tests of this folder."""

from collections.abc import Iterator

import pytest

from igw_cluster.apiserver import ApiServer, running_api_server


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Started once; tests keep apart by namespace, and by what they install."""
    with running_api_server(tmp_path_factory.mktemp("api-server")) as server:
        yield server
