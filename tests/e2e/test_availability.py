"""The picker dies, or freezes, under load: no request fails, each is answered in time, and placement returns.

All chats of a load have one long prompt, so the picker keeps them together on the engine that has it in its cache,
while round robin spreads them evenly. That tells the two apart from outside.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from igw_operator.plan.model import PickerRules
from igw_testing.chat_load import Chat, Load, chat, engines, load
from igw_testing.cluster_load import WORKERS, kept_together
from igw_testing.gateway_process import Gateway, Sim, running_gateway, running_sims
from igw_testing.standalone import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ("one", "two", "three")
RULES = PickerRules()
BACK = 2.0  # seconds from the moment the picker is there again to its next placement
# What a chat takes at most where nothing makes it wait, on a busy machine.
QUICK = 2.0
# Those that wait for a frozen picker are freed when it does not answer a ping.
FREED = RULES.ping_interval + RULES.ping_timeout + QUICK


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sims() -> AsyncIterator[tuple[Sim, ...]]:
    """Three engines."""
    async with running_sims(*NAMES) as running:
        yield running


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[("--first-byte",), ("--no-first-byte", "--picker-transport", "grpc")],
    ids=["first-byte", "grpc"],
)
async def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sims: tuple[Sim, ...]
) -> AsyncIterator[Gateway]:
    """A gateway with either transport, with and without the first-byte filter."""
    folder: Path = tmp_path_factory.mktemp("gateway")
    async with running_gateway(folder, [sim.address for sim in sims], *request.param) as running:
        yield running


@asynccontextmanager
async def placed_load(gateway: Gateway, sims: tuple[Sim, ...]) -> AsyncIterator[Load]:
    """A load that the picker has begun to place. At its end, nothing is left over in the picker's accounts."""
    await gateway.sees(*(sim.address for sim in sims))
    async with load(gateway.session, gateway.chat, workers=WORKERS) as running:
        await until(lambda: kept_together(running), 20)
        yield running
    await gateway.in_flight_is()


def spread_evenly(chats: list[Chat]) -> bool:
    """Whether each engine had its share, but for the few that overtook each other."""
    share, counts = len(chats) / len(NAMES), engines(chats)
    return counts.keys() == set(NAMES) and all(abs(count - share) <= WORKERS for count in counts.values())


async def places_more_than(gateway: Gateway, count: float) -> bool:
    """Whether the running picker has placed more requests than that."""
    return sum((await gateway.placed()).values()) > count


async def test_no_request_fails_when_the_picker_is_killed(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """Round robin while it is away, first because no connection can be made, then because Envoy gave it up."""
    async with placed_load(gateway, sims) as running:
        started = gateway.pickers_started()
        gateway.kill_picker(hold=True)
        await running.more(WORKERS)
        assert spread_evenly(await running.more(30))
        await gateway.picker_is_given_up()
        assert spread_evenly(await running.more(30))
        gateway.release_picker()
        await gateway.picker_listens(started)
        await until(lambda: places_more_than(gateway, 0), BACK)
        await until(lambda: kept_together(running), 20)
    assert running.failed == []
    assert running.slowest < QUICK


async def test_no_request_fails_when_the_picker_comes_back_knowing_no_engine(
    gateway: Gateway, sims: tuple[Sim, ...]
) -> None:
    """Envoy asks a new picker as soon as it listens; here no engine ever tells it anything."""
    async with placed_load(gateway, sims) as running:
        for sim in sims:
            await sim.fail(gateway.session, metrics="hang")
        started = gateway.pickers_started()
        gateway.kill_picker()
        await gateway.picker_listens(started)
        await until(lambda: places_more_than(gateway, WORKERS), BACK)
        await running.more(WORKERS)
        for sim in sims:
            await sim.fail(gateway.session, clear=True)
    assert running.failed == []
    assert running.slowest < QUICK


async def test_a_frozen_picker_delays_each_request_once_and_cuts_no_stream(
    gateway: Gateway, sims: tuple[Sim, ...]
) -> None:
    """It keeps its connections and answers nothing: only time tells. A stream that it had placed goes on meanwhile."""
    async with placed_load(gateway, sims) as running, asyncio.TaskGroup() as group:
        answering: list[Chat] = []
        ask = chat(gateway.session, gateway.chat, tokens=800, stream=True, answering=answering)
        stream = group.create_task(ask)
        await until(lambda: bool(answering and answering[0].body), 5)
        gateway.freeze_picker()
        await running.more(WORKERS)
        before = len(answering[0].body)
        await until(lambda: len(answering[0].body) > before, QUICK)
        await gateway.picker_is_given_up()
        quick = await running.more(30)
        gateway.thaw_picker()
        back = asyncio.get_running_loop().time() + BACK
        # First it places, too late, those whose questions it finds.
        late = sum((await gateway.placed()).values()) + WORKERS
        await until(lambda: places_more_than(gateway, late), back - asyncio.get_running_loop().time())
        await until(lambda: kept_together(running), 20)
        assert (await stream).good
    assert running.failed == []
    assert RULES.check_timeout < running.slowest < FREED, "else the picker was not missed at all, or for too long"
    assert max(one.seconds for one in quick) < QUICK
    assert spread_evenly(quick)
