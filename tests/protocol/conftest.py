"""One picker for each transport, which all tests of this folder share: a pool without load, and room for more pools.

Starting a picker costs most of a second, so a test that needs loads, models or rules of its own adds a pool to the
running one (`igw_testing.picker.pool`). Tests about the process itself start their own.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from igw_testing.metrics_stub import EngineStub, serving
from igw_testing.picker import PickerProcess, pool_documents, running, write_manifests

# Small enough for a test to exceed, large enough for every other test.
MAX_BODY_BYTES = 1_000_000


@pytest.fixture(scope="session", params=["grpc", "http2"])
def transport(request: pytest.FixtureRequest) -> str:
    """Both transports are held to the same behaviour."""
    return str(request.param)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def plain(transport: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PickerProcess]:
    """A picker with one pool of three idle engines and no models: its streams need no route."""
    engines = [EngineStub() for _ in range(3)]
    folder = _folder(tmp_path_factory, transport)
    async with serving(*engines):
        write_manifests(folder, "plain", *pool_documents("plain", engines))
        async with running(folder, transport, "--max-body-bytes", str(MAX_BODY_BYTES)) as picker:
            await picker.sees(*engines)
            yield picker


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(transport: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PickerProcess]:
    """A picker to which tests add pools. It never has just one, so a stream must name its pool's route."""
    folder = _folder(tmp_path_factory, transport)
    for name in ("first", "second"):
        write_manifests(folder, name, *pool_documents(name, []))
    async with running(folder, transport) as picker:
        yield picker


def _folder(factory: pytest.TempPathFactory, transport: str) -> Path:
    return factory.mktemp(f"objects-{transport}")
