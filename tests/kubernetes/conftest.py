"""A real etcd and kube-apiserver, without a node, for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from igw_api.crdgen import DEFINITIONS
from igw_cluster.apiserver import ApiServer, running_api_server
from igw_cluster.kubectl import Kubectl

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """Started once; tests keep apart by namespace, and by what they install."""
    with running_api_server(tmp_path_factory.mktemp("api-server")) as server:
        yield server


@pytest.fixture(scope="session")
def installed(api_server: ApiServer) -> Kubectl:
    """kubectl to a server that has our definitions and serves their kinds."""
    kubectl = api_server.kubectl
    kubectl.apply(CRDS)
    names = [definition.name for definition in DEFINITIONS]
    kubectl("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in names))
    return kubectl


@pytest.fixture
def namespace(installed: Kubectl) -> str:
    """A namespace of the test's own. It stays until the server ends: nothing here would finish its deletion."""
    name = f"test-{uuid4().hex[:12]}"
    installed("create", "namespace", name)
    return name
