"""Engines whose metrics pages are fine but who fail requests: they get none for a while, and are tried with care.

Envoy tells the picker of each try that failed, so that the endpoint that failed is blamed, and not the one that then
answered.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from igw_testing.chat_load import SHORT_PROMPT, chat, engines, load
from igw_testing.gateway_process import Gateway, Sim, running_gateway, running_sims
from igw_testing.standalone import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKERS = 6
SEEN = 20.0  # seconds, on a busy machine
POLICY = """
apiVersion: inferencegateway.io/v1alpha1
kind: InferencePoolPolicy
metadata: {name: health}
spec:
  targetRefs: [{group: inference.networking.x-k8s.io, name: vllm-llama2-7b-pool}]
  scheduling: {policy: least-request}
  passiveHealth: {baseEjectionTime: 1s, slowStart: 1s}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sims() -> AsyncIterator[tuple[Sim, ...]]:
    """Three engines, which send headers at once."""
    async with running_sims("one", "two", "three") as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, sims: tuple[Sim, ...]) -> AsyncIterator[Gateway]:
    """With short ejections."""
    folder, addresses = tmp_path_factory.mktemp("gateway"), [sim.address for sim in sims]
    async with running_gateway(folder, addresses, manifests=POLICY) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def healthy(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """All engines serve before each test, and none is out."""
    for sim in sims:
        await sim.fail(gateway.session, clear=True)
    await gateway.sees(*(sim.address for sim in sims))
    await until(lambda: ejected(gateway, set()), SEEN, gateway.picker_log)


async def ejected(gateway: Gateway, addresses: set[str]) -> bool:
    """Whether exactly these are out."""
    told = await gateway.numbers("igw_picker_endpoint_ejected")
    return bool(told) and {address for address, out in told.items() if out} == addresses


async def told(gateway: Gateway, name: str, label: str) -> dict[tuple[str, str], float]:
    """A family of the picker's page by endpoint and another label."""
    async with gateway.session.get(gateway.up.metrics) as answer:
        families = list(text_string_to_metric_families(await answer.text()))
    samples = (sample for family in families for sample in family.samples if sample.name == name)
    return {(one.labels["endpoint"], one.labels[label]): one.value for one in samples}


async def tries(gateway: Gateway) -> dict[tuple[str, str], float]:
    """Failed tries by endpoint and kind."""
    return await told(gateway, "igw_picker_failed_tries_total", "kind")


async def test_an_engine_that_fails_requests_gets_none_until_it_works_again(
    gateway: Gateway, sims: tuple[Sim, ...]
) -> None:
    """No client notices: what it fails is answered elsewhere, also when it fails its probes."""
    victim, before = sims[0], await tries(gateway)
    async with load(gateway.session, gateway.chat, SHORT_PROMPT, workers=WORKERS, most=6000) as running:
        await running.more(WORKERS)
        await victim.fail(gateway.session, reset="before")
        await until(lambda: ejected(gateway, {victim.address}), SEEN, gateway.picker_log)

        async def probed_in_vain() -> bool:
            return (victim.address, "probe") in await told(gateway, "igw_picker_ejections_total", "reason")

        await until(probed_in_vain, SEEN, gateway.picker_log)
        await victim.fail(gateway.session, clear=True)
        await until(lambda: ejected(gateway, set()), SEEN, gateway.picker_log)
        placed = (await gateway.placed())[victim.address]

        async def used() -> bool:
            return (await gateway.placed())[victim.address] > placed + 3 * WORKERS

        await until(used, SEEN, gateway.picker_log)
    assert running.failed == []
    blamed = {key[0] for key, count in (await tries(gateway)).items() if count > before.get(key, 0)}
    assert blamed == {victim.address}, "only who failed"


async def test_streams_that_break_off_count(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """They cannot be tried again, so somebody has to notice."""
    victim = sims[1]
    await victim.fail(gateway.session, reset="after")
    async with load(gateway.session, gateway.chat, SHORT_PROMPT, workers=WORKERS, streams=[True]) as running:
        await until(lambda: ejected(gateway, {victim.address}), SEEN, gateway.picker_log)
        await victim.fail(gateway.session, clear=True)
    assert {one.engine for one in running.failed} == {victim.name}


async def test_a_full_engine_is_left_alone_but_not_ejected(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """It says so with 503, and its requests go elsewhere."""
    victim, before = sims[2], await told(gateway, "igw_picker_ejections_total", "reason")
    await victim.fail(gateway.session, errors=100_000, error_status=503)
    async with load(gateway.session, gateway.chat, SHORT_PROMPT, workers=WORKERS) as running:
        chats = await running.more(15 * WORKERS)
    assert running.failed == [] and victim.name not in engines(chats)
    assert (await told(gateway, "igw_picker_ejections_total", "reason")) == before
    full = (await tries(gateway))[victim.address, "full"]
    assert 0 < full < len(running.chats) / 4, "few requests find out"


async def test_what_clients_do_is_no_failure(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """They leave before the answer, or in the middle of it, or ask for what does not exist."""
    before = await tries(gateway)
    for sim in sims:
        await sim.fail(gateway.session, stall=True)
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(chat(gateway.session, gateway.chat, stream=bool(at % 2))) for at in range(12)]

        async def all_there() -> bool:
            return sum((await gateway.in_flight()).values()) == len(asked)

        await until(all_there, SEEN)
        for one in asked:
            one.cancel()
    await gateway.in_flight_is()
    for sim in sims:
        await sim.fail(gateway.session, clear=True)
    for _ in range(6):
        async with gateway.session.post(gateway.chat, json={"model": "/model/llama2", "messages": 1}) as answer:
            assert 400 <= answer.status < 500
    assert await tries(gateway) == before


async def test_with_all_out_all_are_used(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """To refuse would help nobody; and the first request that goes well brings its engine back."""
    for sim in sims:
        await sim.fail(gateway.session, errors=100_000, error_status=502)
    async with load(gateway.session, gateway.chat, SHORT_PROMPT, workers=WORKERS, most=6000) as running:
        await until(lambda: ejected(gateway, {sim.address for sim in sims}), SEEN, gateway.picker_log)
        for sim in sims:
            await sim.fail(gateway.session, clear=True)
        await until(lambda: ejected(gateway, set()), SEEN, gateway.picker_log)
        assert all(one.good for one in await running.more(3 * WORKERS))
