"""The picker and the engines are restarted one by one while streams run: none is cut, and no request is lost."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from igw_testing.chat_load import SHORT_PROMPT, load
from igw_testing.gateway_process import Gateway, Sim, running_gateway, running_sims
from igw_testing.standalone import endpoint_list, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKERS = 6
TOKENS = 60  # each stream runs for a good while
SEEN = 30.0  # seconds, on a busy machine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sims() -> AsyncIterator[tuple[Sim, ...]]:
    """Engines that finish what they have before they end."""
    async with running_sims("one", "two", "three", options=("--grace", "30")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the gateway's files are."""
    return tmp_path_factory.mktemp("gateway")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(folder: Path, sims: tuple[Sim, ...]) -> AsyncIterator[Gateway]:
    """A gateway as it is by default."""
    async with running_gateway(folder, [sim.address for sim in sims]) as running:
        await running.sees(*(sim.address for sim in sims))
        yield running


async def end(sim: Sim) -> None:
    """It is told to end, and does when it has answered all that it has."""
    assert sim.process is not None
    sim.process.terminate()
    await sim.process.communicate()


async def test_engines_are_restarted_one_after_the_other(gateway: Gateway, folder: Path, sims: tuple[Sim, ...]) -> None:
    """Each is taken out of the list first. It gets nothing new at once, and its streams run to their ends."""
    endpoints = folder / "manifests" / "endpoints.yaml"
    async with load(gateway.session, gateway.chat, SHORT_PROMPT, workers=WORKERS, tokens=TOKENS) as running:
        for sim in sims[:2]:
            await running.more(WORKERS)
            others = [one.address for one in sims if one is not sim]
            endpoints.write_text(endpoint_list(others))

            async def is_left_out(address: str = sim.address) -> bool:
                return address not in await gateway.numbers("igw_picker_endpoint_available")

            await until(is_left_out, SEEN, gateway.picker_log)
            late = await running.more(WORKERS)
            assert all(one.engine != sim.name for one in late)
            await end(sim)
            await sim.start()
            endpoints.write_text(endpoint_list([one.address for one in sims]))
            await gateway.sees(sim.address)
    assert running.failed == []


async def test_engines_that_end_without_a_word_lose_no_request(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """They stay in the list: what they do not take any more is tried elsewhere, and what they have they finish."""
    async with load(gateway.session, gateway.chat, SHORT_PROMPT, workers=WORKERS, tokens=TOKENS) as running:
        for sim in sims[:2]:
            await running.more(WORKERS)
            await end(sim)
            await running.more(WORKERS)
            await sim.start()
            await gateway.sees(sim.address)
    assert running.failed == []


async def test_a_picker_that_is_told_to_end_leaves_to_the_next_one(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """Envoy keeps a stream open to tell it of failed tries, which must not hold it up."""
    async with load(gateway.session, gateway.chat, SHORT_PROMPT, workers=WORKERS, tokens=TOKENS) as running:
        await sims[0].fail(gateway.session, errors=1, error_status=503)
        await running.more(3 * WORKERS)
        started = gateway.pickers_started()
        os.kill(gateway.up.children()["picker"], signal.SIGTERM)
        await gateway.picker_listens(started)
        await gateway.picker_is_trusted()
    assert running.failed == []
