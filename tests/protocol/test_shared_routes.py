"""Several pools behind one route: the model in the body decides, and the answer names the pool to route by."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from igw_api.objects import Key, Lead
from igw_api.objectset import ObjectSet, dump
from igw_protos import ext_proc_pb2 as pb
from igw_testing.ext_proc import (
    BUFFERED,
    BUFFERED_PARTIAL,
    DESTINATION,
    FULL_DUPLEX,
    NONE,
    STREAMED,
    First,
    chat,
    common,
    destinations,
    headers_set,
    metadata,
    refusal,
    request_body,
    request_headers,
    response_body,
    response_headers,
    streamed,
    with_attributes,
)
from igw_testing.metrics_stub import EngineStub, serving
from igw_testing.picker import PickerProcess, model, pool_documents

pytestmark = pytest.mark.asyncio(loop_scope="session")

POOL, MODEL = "x-igw-pool", "x-gateway-model-name"
LARGE, SMALL = "shared-large", "shared-small"
# As a gateway names the matches of one rule, and the key under which the operator writes them.
RULE, QUIET = "httproute/infra/igw-shared/rule/0", "httproute/infra/igw-quiet/rule/0"


class Shared:
    """The pools `large` and `small`, an engine and a model each, behind one route that is announced and one not."""

    def __init__(self, picker: PickerProcess, engines: dict[str, EngineStub]) -> None:
        self.picker = picker
        self.engines = engines

    def first(self, mode: pb.BodySendMode, rule: str = RULE) -> First:
        """What the proxy tells of a request on that rule's second match."""
        return First(mode, NONE, f"{rule}/match/1/llm_example")

    def landed(self, reply: pb.ProcessingResponse, name: str) -> None:
        """The reply sends the request to this pool's engine and says so."""
        told = metadata(reply)
        assert (told[DESTINATION], told[POOL]) == (self.engines[name].address, f"{name}/{name}")
        assert common(reply).clear_route_cache


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def here(shared: PickerProcess) -> AsyncIterator[Shared]:
    """Both pools, once the picker has seen them. The routes come first: they name pools that are not there yet."""
    engines = {LARGE: EngineStub(), SMALL: EngineStub()}
    keys = (Key(LARGE, LARGE), Key(SMALL, SMALL))
    leads = ObjectSet.of((), {RULE: Lead(keys, announce=True), QUIET: Lead(keys)})
    routes = shared.folder / "routes.json"
    async with serving(*engines.values()):
        draft = shared.folder / "routes.draft"
        draft.write_bytes(dump(leads))
        draft.rename(routes)
        for name, engine in engines.items():
            shared.write(name, *pool_documents(name, [engine], [model(f"model-of-{name}")]))
        await shared.sees(*engines.values())
        yield Shared(shared, engines)
        for name in engines:
            shared.remove(name)
        routes.unlink()


@pytest.mark.parametrize("name", [LARGE, SMALL])
@pytest.mark.parametrize("mode", [BUFFERED, BUFFERED_PARTIAL, FULL_DUPLEX])
async def test_with_the_body_at_hand_its_model_decides(here: Shared, mode: pb.BodySendMode, name: str) -> None:
    """The answer that carries the destination names the pool, as a header and as metadata."""
    async with here.picker.stream(here.first(mode)) as stream:
        await stream.send(request_headers(), request_body(chat(f"model-of-{name}")))
        first, second = await stream.replies(2)
        reply = first if mode == FULL_DUPLEX else second
        here.landed(reply, name)
        assert headers_set(reply)[POOL] == f"{name}/{name}"


@pytest.mark.parametrize("name", [LARGE, SMALL])
async def test_in_one_message_the_metadata_names_the_pool(here: Shared, name: str) -> None:
    """The proxy sent no headers, so none can be changed."""
    message = with_attributes(request_body(chat(f"model-of-{name}")), {"request.path": "/v1/chat/completions"})
    async with here.picker.stream(here.first(BUFFERED_PARTIAL)) as stream:
        await stream.send(message)
        reply = await stream.receive()
        here.landed(reply, name)
        assert headers_set(reply) == {}


@pytest.mark.parametrize("name", [LARGE, SMALL])
@pytest.mark.parametrize("mode", [NONE, STREAMED])
async def test_without_the_body_the_models_header_decides(here: Shared, mode: pb.BodySendMode, name: str) -> None:
    """For proxies that show no bodies."""
    async with here.picker.stream(here.first(mode)) as stream:
        await stream.send(request_headers({MODEL: f"model-of-{name}"}))
        reply = await stream.receive()
        here.landed(reply, name)
        assert headers_set(reply)[POOL] == f"{name}/{name}"


@pytest.mark.parametrize("mode", [NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, FULL_DUPLEX])
async def test_a_request_without_a_model_goes_to_the_first_pool(here: Shared, mode: pb.BodySendMode) -> None:
    """A list of models, a health check."""
    async with here.picker.stream(here.first(mode)) as stream:
        await stream.send(request_headers(path="/v1/models", method="GET", end=True))
        here.landed(await stream.receive(), LARGE)


async def test_a_model_of_neither_pool_is_refused_with_404_naming_those_of_both(here: Shared) -> None:
    """A client that mistyped sees what it could have asked for."""
    async with here.picker.stream(here.first(FULL_DUPLEX)) as stream:
        await stream.send(request_headers(), request_body(chat("other")))
        error = refusal(await stream.last(), 404, "rejected-unknown-model")
        assert f"`model-of-{LARGE}`, `model-of-{SMALL}`" in error["message"]


async def test_a_clients_own_pool_header_is_replaced(here: Shared) -> None:
    """Else it would choose the route, and with it the pool's limits."""
    async with here.picker.stream(here.first(BUFFERED)) as stream:
        await stream.send(request_headers({POOL: f"{LARGE}/{LARGE}"}), request_body(chat(f"model-of-{SMALL}")))
        _, reply = await stream.replies(2)
        here.landed(reply, SMALL)
        assert headers_set(reply)[POOL] == f"{SMALL}/{SMALL}"


async def test_a_subset_holds_within_the_models_pool(here: Shared) -> None:
    """The other pool's endpoint is none of it, even if the proxy allows it."""
    allowed = [here.engines[LARGE].address]
    for name in (LARGE, SMALL):
        async with here.picker.stream(First(FULL_DUPLEX, NONE, f"{RULE}/match/0", allowed)) as stream:
            await stream.send(request_headers(), request_body(chat(f"model-of-{name}")))
            if name == LARGE:
                assert destinations(await stream.receive()) == allowed
            else:
                refusal(await stream.last(), 503, "rejected-no-endpoints")


async def test_where_nobody_routes_by_it_the_pool_is_not_named(here: Shared) -> None:
    """A new choice of route costs the proxy time, and its answer would be the same."""
    async with here.picker.stream(here.first(BUFFERED, QUIET)) as stream:
        await stream.send(request_headers(), request_body(chat(f"model-of-{SMALL}")))
        _, reply = await stream.replies(2)
        assert destinations(reply) == [here.engines[SMALL].address]
        assert POOL not in metadata(reply) and POOL not in headers_set(reply)
        assert not common(reply).clear_route_cache


# ------------------------------------------------------------------------------------------------ others' routes

OTHER = "httproute/users/web/rule/0/match/0/*"


@pytest.mark.parametrize("mode", [NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL])
async def test_a_request_on_a_route_that_is_not_ours_passes_and_the_stream_ends(
    here: Shared, mode: pb.BodySendMode
) -> None:
    """The proxy shows every request of a port. It is asked to show no more of this one."""
    async with here.picker.stream(First(mode, NONE, OTHER)) as stream:
        await stream.send(request_headers({POOL: f"{LARGE}/{LARGE}"}))
        reply = await stream.last()
        assert (headers_set(reply), metadata(reply), common(reply).clear_route_cache) == ({}, {}, False)
        assert reply.mode_override.request_body_mode == NONE


async def test_in_one_message_a_request_on_a_route_that_is_not_ours_passes(here: Shared) -> None:
    """Whatever its body is."""
    async with here.picker.stream(First(BUFFERED_PARTIAL, NONE, OTHER)) as stream:
        await stream.send(with_attributes(request_body(b"not json"), {"request.path": "/v1/chat/completions"}))
        reply = await stream.last()
        assert (headers_set(reply), metadata(reply), common(reply).clear_route_cache) == ({}, {}, False)


async def test_in_full_duplex_a_request_on_a_route_that_is_not_ours_is_given_back_while_it_comes(here: Shared) -> None:
    """And so is its response, without a mark of ours."""
    async with here.picker.stream(First(FULL_DUPLEX, FULL_DUPLEX, OTHER)) as stream:
        await stream.send(request_headers(), request_body(b"one", end=False))
        head, body = await stream.replies(2)
        assert (headers_set(head), metadata(head)) == ({}, {})
        assert [one.body for one in streamed([body])] == [b"one"]
        await stream.send(request_body(b""), response_headers(), response_body(b"two"))
        end, head, body = await stream.replies(3)
        assert [(one.body, one.end_of_stream) for one in streamed([end])] == [(b"", True)]
        assert headers_set(head) == {}
        assert [(one.body, one.end_of_stream) for one in streamed([body], "response_body")] == [(b"two", True)]
