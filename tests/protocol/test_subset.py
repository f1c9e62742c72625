"""The proxy's subset hint: the only endpoints among which the picker may choose, in every spelling that is in use."""

import json
from collections.abc import Callable

import pytest

from igw_testing.ext_proc import (
    BUFFERED_PARTIAL,
    DESTINATION,
    NONE,
    chat,
    destinations,
    metadata,
    refusal,
    request_body,
    request_headers,
    with_attributes,
)
from igw_testing.metrics_stub import EngineStub
from igw_testing.picker import PickerProcess, Pool, pool

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Hosts of a test's own: loopback has sixteen million addresses.
OTHER_HOST = "127.0.0.2"


async def chosen(served: Pool, subset: str | list[str] | None) -> list[int]:
    """The positions of the destinations among the pool's engines, best first."""
    async with served.stream(subset=subset) as stream:
        await stream.send(request_headers(), request_body(chat()))
        head, _ = await stream.replies(2)
        addresses = [engine.address for engine in served.engines]
        return [addresses.index(one) for one in destinations(head)]


async def test_no_hint_means_the_whole_pool(shared: PickerProcess) -> None:
    """As does a namespace without the key."""
    async with pool(shared, EngineStub(9), EngineStub(5), EngineStub(1)) as served:
        assert await chosen(served, None) == [2, 1, 0]
        async with served.stream() as stream:
            message = request_headers(path="/v1/models", method="GET", end=True)
            message.metadata_context.filter_metadata["envoy.lb.subset_hint"].update({"something": "else"})
            await stream.send(message)
            assert len(destinations(await stream.receive())) == 3


async def test_the_best_of_the_allowed_ones_is_chosen(shared: PickerProcess) -> None:
    """All allowed: the best of all. Only the busiest allowed: that one, and no other beside it."""
    async with pool(shared, EngineStub(3, 0.2), EngineStub(0, 0.1), EngineStub(10, 0.2)) as served:
        addresses = [engine.address for engine in served.engines]
        assert (await chosen(served, addresses))[0] == 1
        assert await chosen(served, addresses[2:]) == [2]
        assert sorted(await chosen(served, [addresses[2], addresses[0]])) == [0, 2]


Spelling = Callable[[str, str], str | list[str]]
SPELLINGS = [
    pytest.param(lambda a, b: [a, b], id="list"),
    pytest.param(lambda a, b: f"{a},{b}", id="comma-string"),
    pytest.param(lambda a, b: f" {a} , {b} ,", id="spaces-and-empty-items"),
    pytest.param(lambda a, b: [f"{a}, {b}"], id="commas-inside-a-list"),
    pytest.param(lambda a, b: [f" {a} ", b, "127.0.0.9:1"], id="one-unknown-beside-known-ones"),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_every_spelling_of_addresses_is_understood(shared: PickerProcess, spelling: Spelling) -> None:
    """Proxies differ in how they write the list."""
    async with pool(shared, EngineStub(9), EngineStub(5), EngineStub(0)) as served:
        subset = spelling(served.engines[0].address, served.engines[1].address)
        assert await chosen(served, subset) == [1, 0]


@pytest.mark.parametrize("subset", [[OTHER_HOST], OTHER_HOST, f" {OTHER_HOST} ,", [f"{OTHER_HOST},127.0.0.9"]])
async def test_an_address_without_a_port_allows_all_ports_of_that_address(
    shared: PickerProcess, subset: str | list[str]
) -> None:
    """Some proxies know Pods, not ports."""
    engines = (EngineStub(0), EngineStub(9, host=OTHER_HOST), EngineStub(5, host=OTHER_HOST))
    async with pool(shared, *engines) as served:
        assert await chosen(served, subset) == [2, 1]


async def test_a_port_allows_only_that_port(shared: PickerProcess) -> None:
    """Ports of one Pod are endpoints of their own, as with data parallel ranks."""
    engines = (EngineStub(0, host=OTHER_HOST), EngineStub(9, host=OTHER_HOST))
    async with pool(shared, *engines) as served:
        assert await chosen(served, [engines[1].address]) == [1]


async def test_version_6_addresses_are_understood(shared: PickerProcess) -> None:
    """In brackets with a port, bare without."""
    async with pool(shared, EngineStub(0), EngineStub(9, host="::1")) as served:
        assert await chosen(served, [served.engines[1].address]) == [1]
        assert await chosen(served, ["::1"]) == [1]
        assert await chosen(served, ["[::1]"]) == [1]


@pytest.mark.parametrize(
    "subset",
    [[], "", " , ", ["127.0.0.9:8000"], ["127.0.0.9"], "nonsense", ["127.0.0.1:"], [":8000"]],
    ids=json.dumps,
)
async def test_a_hint_that_allows_no_endpoint_is_refused_with_503(
    shared: PickerProcess, subset: str | list[str]
) -> None:
    """The list is not widened: the proxy would refuse any other endpoint."""
    async with pool(shared, EngineStub(), EngineStub()) as served, served.stream(subset=subset) as stream:
        await stream.send(request_headers(), request_body(chat()))
        error = refusal(await stream.last(), 503, "rejected-no-endpoints")
        assert "allowed" in error["message"]


async def test_a_hint_without_an_available_endpoint_is_refused_with_503(shared: PickerProcess) -> None:
    """Allowed but dead: also when others, not allowed, are alive."""
    dead = EngineStub(host=OTHER_HOST, port=9)  # the discard service's port: nobody listens there
    async with pool(shared, EngineStub(), down=[dead]) as served, served.stream(subset=[dead.address]) as stream:
        await stream.send(request_headers(), request_body(chat()))
        refusal(await stream.last(), 503, "rejected-no-endpoints")


async def test_the_hint_counts_in_every_mode(shared: PickerProcess) -> None:
    """It comes with the stream's first message, whatever that is."""
    async with pool(shared, EngineStub(9), EngineStub(0)) as served:
        subset = [served.engines[0].address]
        async with served.stream(NONE, NONE, subset) as stream:
            await stream.send(request_headers())
            assert destinations(await stream.receive()) == subset
        async with served.stream(BUFFERED_PARTIAL, NONE, subset) as stream:
            path = {"request.path": "/v1/chat/completions"}
            await stream.send(with_attributes(request_body(chat()), path))
            assert metadata(await stream.receive())[DESTINATION] == subset[0]
