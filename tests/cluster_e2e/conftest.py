"""What the tests on the cluster share: the product, installed once, and namespaces in it."""

from collections.abc import AsyncIterator, Generator, Iterator

import aiohttp
import pytest
import pytest_asyncio

from igw_cluster import diagnostics
from igw_testing.kube import require_built
from igw_testing.product import Product, Space, running_product


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what the cluster was doing: it is gone when somebody reads of it."""
    report = yield
    given = getattr(item, "funcargs", {}).values()
    cluster = next((one.cluster for one in given if isinstance(one, (Product, Space))), None)
    if report.failed and cluster is not None:
        folder = diagnostics.dump(cluster.kubectl, cluster.folder / "logs", cluster.folder / "dumps" / item.name)
        report.sections.append(("the cluster", diagnostics.summary(folder, "*_igw-*")))
    return report


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A cluster with Envoy Gateway and the chart with its defaults; up in half a minute."""
    require_built()
    with running_product(tmp_path_factory.mktemp("product")) as running:
        yield running


@pytest.fixture(scope="module")
def space(product: Product) -> Iterator[Space]:
    """A namespace for a module."""
    made = product.space()
    yield made
    made.remove()


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose requests end within 30 s."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as client:
        yield client
