"""What the end-to-end tests share: a client session, and two engines that do as told."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from igw_testing.engine_double import EngineDouble, running_engine


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose requests end within 20 s."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client:
        yield client


@pytest.fixture
async def engines() -> AsyncIterator[tuple[EngineDouble, EngineDouble]]:
    """Engines named one and two."""
    async with running_engine("one") as one, running_engine("two") as two:
        yield one, two
