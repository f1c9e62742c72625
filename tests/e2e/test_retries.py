"""Retries seen from outside: how often, where, and that they end where all is too much."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from igw_testing.chat_load import SHORT_PROMPT, chat, chat_body, engines, load
from igw_testing.gateway_process import Gateway, Sim, running_gateway, running_sims
from igw_testing.standalone import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

POOL = "vllm-llama2-7b-pool"
# Two requests run at once in each engine, which takes a tenth of a second for each.
SLOTS, ENGINES = 2, 3
ONCE = f"""
apiVersion: inferencegateway.io/v1alpha1
kind: InferencePoolPolicy
metadata: {{name: retries}}
spec:
  targetRefs: [{{group: inference.networking.x-k8s.io, name: {POOL}}}]
  scheduling: {{policy: round-robin}}
  passiveHealth: {{enabled: false}}
  queue: {{retries: 1}}
  retry: {{statuses: [503, 429], lost: Fail}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sims() -> AsyncIterator[tuple[Sim, ...]]:
    """Small engines, which send headers with the first token."""
    options = ("--headers", "first-token", "--max-sequences", str(SLOTS))
    async with running_sims("one", "two", "three", options=options) as running:
        yield running


async def healed(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """All engines in good health."""
    for sim in sims:
        await sim.fail(gateway.session, clear=True)
    await gateway.sees(*(sim.address for sim in sims))


async def envoy(gateway: Gateway, name: str) -> int:
    """A number of the pool's cluster."""
    url = f"{gateway.up.admin}/stats?filter=^cluster\\.pool/default/{POOL}\\.{name}$"
    async with gateway.session.get(url) as answer:
        return int((await answer.text()).rpartition(": ")[2])


async def test_three_times_the_load_with_one_engine_failing_makes_no_storm(
    tmp_path_factory: pytest.TempPathFactory, sims: tuple[Sim, ...]
) -> None:
    """Engines are sent what they can do, the one that fails is soon left out, and no client notices either."""
    async with running_gateway(tmp_path_factory.mktemp("gateway"), [sim.address for sim in sims]) as gateway:
        await healed(gateway, sims)
        await sims[0].fail(gateway.session, error_share=0.7, error_status=502)
        workers = 3 * SLOTS * ENGINES
        async with load(gateway.session, gateway.chat, SHORT_PROMPT, workers=workers, tokens=10) as running:
            chats = await running.more(200)
        requests, retries = len(running.chats), await envoy(gateway, "upstream_rq_retry")
        tries = await envoy(gateway, "upstream_rq_total")
        assert requests <= tries <= requests + retries
        assert retries <= requests / 20, (retries, requests)
        unlucky = [one for one in running.failed if one.engine != sims[0].name]
        assert unlucky == [] and len(running.failed) <= requests / 20
        assert engines(chats).keys() >= {sims[1].name, sims[2].name}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def once(tmp_path_factory: pytest.TempPathFactory, sims: tuple[Sim, ...]) -> AsyncIterator[Gateway]:
    """A gateway that tries again once, and nothing that may have cost something."""
    folder, addresses = tmp_path_factory.mktemp("once"), [sim.address for sim in sims]
    async with running_gateway(folder, addresses, manifests=ONCE) as gateway:
        yield gateway


async def test_retries_are_as_many_as_allowed(once: Gateway, sims: tuple[Sim, ...]) -> None:
    """With two engines that refuse, one retry finds the third only where it is next in turn."""
    await healed(once, sims)
    for sim, status in zip(sims, (503, 429), strict=False):
        await sim.fail(once.session, errors=1000, error_status=status)
    before = await envoy(once, "upstream_rq_retry")
    chats = [await chat(once.session, once.chat) for _ in range(12)]
    assert await envoy(once, "upstream_rq_retry") - before == 8
    assert sorted(one.status for one in chats) == [200] * 8 + [429] * 4 or {one.status for one in chats} == {200, 503}


async def test_what_an_engine_may_have_begun_is_not_tried_again_where_that_costs(
    once: Gateway, sims: tuple[Sim, ...]
) -> None:
    """The engine dies with requests that it has not answered. Their clients are told; other requests go elsewhere."""
    await healed(once, sims)
    victim = sims[0]
    for sim in sims:
        await sim.fail(once.session, stall=True)
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(chat(once.session, once.chat)) for _ in range(ENGINES * SLOTS)]

        async def all_there() -> bool:
            return await once.in_flight() == {sim.address: SLOTS for sim in sims}

        await until(all_there, 20)
        await victim.kill()
        for sim in sims[1:]:
            await sim.fail(once.session, stall=False)
    await victim.start()
    answers = [one.result() for one in asked]
    assert sorted(one.status for one in answers) == [200] * (ENGINES - 1) * SLOTS + [503] * SLOTS
    async with once.session.post(once.chat, json=chat_body(SHORT_PROMPT)) as answer:
        assert answer.status == 200
