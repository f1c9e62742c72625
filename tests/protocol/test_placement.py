"""Which endpoint is chosen, given what the engines say on their metrics pages: queue, KV cache, adapters."""

from contextlib import AsyncExitStack

import pytest

from igw_testing.ext_proc import chat, destinations, request_body, request_headers
from igw_testing.metrics_stub import EngineStub
from igw_testing.picker import Part, PickerProcess, Pool, eventually, model, pool, rewrite

pytestmark = pytest.mark.asyncio(loop_scope="session")

ADAPTER = "sql-lora-1fdg2"


async def placed_on(served: Pool, name: str = "tiny", *, subset: list[str] | None = None) -> list[int]:
    """Place one request; the positions of its destinations among the pool's engines, best first."""
    async with served.stream(subset=subset) as stream:
        await stream.send(request_headers(), request_body(chat(name)))
        head, _ = await stream.replies(2)
        addresses = [engine.address for engine in served.engines]
        return [addresses.index(one) for one in destinations(head)]


async def test_the_least_loaded_engine_wins(shared: PickerProcess) -> None:
    """Shortest queue and emptiest cache on one engine: no other is better in anything."""
    async with pool(shared, EngineStub(3, 0.2), EngineStub(0, 0.1), EngineStub(10, 0.2)) as served:
        assert (await placed_on(served))[0] == 1


# Three ways to ask for an adapter by another name than the engine's.
WAYS = [
    pytest.param([model("sql-lora", {ADAPTER: 100})], id="inferencemodel"),
    pytest.param([rewrite("r", ("sql-lora", {ADAPTER: 1}))], id="inferencemodelrewrite"),
]


@pytest.mark.parametrize("parts", WAYS)
async def test_the_engine_that_runs_the_adapter_wins_among_idle_ones(shared: PickerProcess, parts: list[Part]) -> None:
    """The adapter is there already; elsewhere it would have to be loaded first."""
    engines = (
        EngineStub(0, 0.2, adapters=("foo", "bar"), max_adapters=2),
        EngineStub(0, 0.1, adapters=("foo", ADAPTER), max_adapters=2),
        EngineStub(10, 0.2, adapters=("foo", "bar"), max_adapters=2),
    )
    async with pool(shared, *engines, parts=parts) as served:
        assert (await placed_on(served, "sql-lora"))[0] == 1


@pytest.mark.parametrize("parts", WAYS)
async def test_the_adapter_counts_for_more_than_a_fuller_cache(shared: PickerProcess, parts: list[Part]) -> None:
    """With equal queues, waiting for another adapter to leave costs more than a somewhat fuller cache."""
    engines = (
        EngineStub(10, 0.2, adapters=("foo", "bar"), max_adapters=2),
        EngineStub(10, 0.4, adapters=("foo", ADAPTER), max_adapters=2),
        EngineStub(10, 0.3, adapters=("foo",), max_adapters=2),
    )
    async with pool(shared, *engines, parts=parts) as served:
        assert (await placed_on(served, "sql-lora"))[0] == 1


@pytest.mark.parametrize("parts", WAYS)
async def test_a_request_of_ordinary_priority_is_placed_even_where_all_are_busy(
    shared: PickerProcess, parts: list[Part]
) -> None:
    """Only sheddable requests are refused when every engine is past its threshold."""
    engines = (
        EngineStub(6, 0.2, adapters=("foo", ADAPTER), max_adapters=2),
        EngineStub(0, 0.85, adapters=("foo", "bar"), max_adapters=2),
        EngineStub(10, 0.9, adapters=("foo", "bar"), max_adapters=2),
    )
    async with pool(shared, *engines, parts=parts) as served:
        assert (await placed_on(served, "sql-lora"))[0] == 0


async def test_up_to_three_destinations_are_named_best_first(shared: PickerProcess) -> None:
    """The proxy walks the list when an endpoint fails, so its order is the order of preference."""
    engines = [EngineStub(waiting) for waiting in (12, 4, 8, 0, 16)]
    async with pool(shared, *engines) as served:
        assert await placed_on(served) == [3, 1, 2]


async def test_a_pool_of_two_names_both(shared: PickerProcess) -> None:
    """No endpoint is named twice to fill up the list."""
    async with pool(shared, EngineStub(5), EngineStub(0)) as served:
        assert await placed_on(served) == [1, 0]


async def test_open_requests_count_at_once_and_not_only_after_the_next_scrape(shared: PickerProcess) -> None:
    """A burst between two scrapes must not pile up on the engine that looked best before it."""
    async with pool(shared, EngineStub(), EngineStub(), EngineStub()) as served, AsyncExitStack() as stack:
        chosen = []
        for number in range(6):
            stream = await stack.enter_async_context(served.stream())
            await stream.send(request_headers(), request_body(chat(prompt=f"{number} " * 300)))
            head, _ = await stream.replies(2)
            chosen.append(destinations(head)[0])
        assert sorted(chosen) == sorted([engine.address for engine in served.engines] * 2)


async def test_a_model_under_another_name_is_spread_like_any_other(shared: PickerProcess) -> None:
    """A name that stands for the engines' base model is no adapter: no engine has to load anything for it."""
    parts = [model("alias", {"tiny": 1})]
    async with pool(shared, EngineStub(), EngineStub(), EngineStub(), parts=parts) as served, AsyncExitStack() as stack:
        chosen = []
        for number in range(6):
            stream = await stack.enter_async_context(served.stream())
            await stream.send(request_headers(), request_body(chat("alias", prompt=f"{number} " * 300)))
            head, _ = await stream.replies(2)
            chosen.append(destinations(head)[0])
        assert sorted(chosen) == sorted([engine.address for engine in served.engines] * 2)


async def test_a_shared_prefix_leads_to_the_same_engine(shared: PickerProcess) -> None:
    """That engine has the prompt's beginning in its cache; the others would compute it again."""
    async with pool(shared, EngineStub(), EngineStub(), EngineStub()) as served:
        document = "All of the contract's text. " * 300
        chosen = set()
        for question in ("Who signed it?", "When?", "Why?", "Is it valid?"):
            async with served.stream() as stream:
                await stream.send(request_headers(), request_body(chat(prompt=document + question)))
                head, _ = await stream.replies(2)
                chosen.add(destinations(head)[0])
                await stream.rest()
            await eventually(lambda: _idle(served), "the request is over")
        assert len(chosen) == 1


async def _idle(served: Pool) -> bool:
    return all([await served.picker.in_flight(engine) == 0 for engine in served.engines])


async def test_a_change_of_an_engines_load_is_noticed(shared: PickerProcess) -> None:
    """What an engine says counts anew with every scrape."""
    async with pool(shared, EngineStub(0), EngineStub(5)) as served:
        assert (await placed_on(served))[0] == 0
        served.engines[0].waiting = 30

        async def noticed() -> bool:
            first = served.engines[0].address
            return await shared.sample("igw_picker_endpoint_queued_requests", endpoint=first) >= 30

        await eventually(noticed, "the queue of 30 is seen")
        assert (await placed_on(served))[0] == 1
