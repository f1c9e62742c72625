"""A real API server for tests: storage, validation, admission, RBAC, watches; no controllers and no node.

A conftest or test module imports the fixture: `from igw_testing.kube import api_server`. One server serves a whole
test session, so each test takes a namespace of its own (`fresh_namespace`).
"""

import itertools
from collections.abc import Iterator
from typing import Final

import pytest

from igw_cluster import builds
from igw_cluster.apiserver import ApiServer, running_api_server

__all__ = ["ApiServer", "api_server", "fresh_namespace", "require_built"]

_NUMBERS: Final = itertools.count(1)


def require_built(*programs: str) -> None:
    """Fail with advice where programs of the cluster are not built: compiling takes longer than a test may."""
    if missing := builds.missing(programs or builds.PROGRAMS):
        pytest.fail(f"not built yet: {', '.join(missing)}; run `make cluster-build` (once, up to 25 minutes)")


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One for the session; it starts in about three seconds."""
    require_built("kube-apiserver")
    with running_api_server(tmp_path_factory.mktemp("api-server")) as server:
        yield server


def fresh_namespace(server: ApiServer, prefix: str = "test") -> str:
    """The name of a namespace that was just made and is nobody else's."""
    name = f"{prefix}-{next(_NUMBERS)}"
    server.kubectl("create", "namespace", name)
    return name
