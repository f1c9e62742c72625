"""Requests that get no endpoint: the client is told why, in the shape that OpenAI's clients parse, with the right code.

503: there is no capacity at all. 429: there is, but it is taken. 4xx: the client must change its request.
"""

import json

import pytest

from igw_testing.ext_proc import (
    OBJECTIVE,
    First,
    chat,
    destinations,
    headers_set,
    kind,
    refusal,
    request_body,
    request_headers,
)
from igw_testing.metrics_stub import EngineStub
from igw_testing.picker import Part, PickerProcess, Pool, model, objective, pool

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_nothing_but_the_refusal_is_sent_and_then_the_stream_ends(plain: PickerProcess) -> None:
    """An immediate response is the last word: Envoy answers the client and forgets the stream."""
    async with plain.stream() as stream:
        await stream.send(request_headers(), request_body(b"no healthy upstream"))
        error = refusal(await stream.last(), 400, "rejected-bad-request")
        assert error["type"] == "invalid_request_error"
        assert "JSON" in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"model": "tiny", "messages": [}',
        b"[1, 2]",
        b'"tiny"',
        b"null",
        b'{"messages": [{"role": "user", "content": "hi"}]}',
        b'{"model": "", "messages": [{"role": "user", "content": "hi"}]}',
        b'{"model": 7, "messages": [{"role": "user", "content": "hi"}]}',
        b'{"model": "tiny"}',
        b'{"model": "tiny", "messages": []}',
        b"\xff\xfe",
        b'{"model": "\xff"}',
    ],
)
async def test_a_body_that_no_engine_could_serve_is_refused_with_400(plain: PickerProcess, body: bytes) -> None:
    """Not JSON, not an object, no model, no prompt."""
    async with plain.stream() as stream:
        await stream.send(request_headers(), request_body(body))
        refusal(await stream.last(), 400, "rejected-bad-request")


async def test_a_prompt_is_never_repeated_in_the_refusal(plain: PickerProcess) -> None:
    """Refusals end up in logs; prompts must not."""
    async with plain.stream() as stream:
        await stream.send(request_headers(), request_body(b'{"model": "tiny", "messages": "my secret", }'))
        reply = await stream.last()
        assert "secret" not in str(reply)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/embeddings", {"input": ["hi"]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/rerank", {"query": "hi", "documents": ["a"]}),
        ("/tenant/a/v1/chat/completions?beta=1", {"messages": [{"role": "user", "content": "hi"}]}),
    ],
)
async def test_every_known_api_needs_a_model_and_its_own_kind_of_prompt(
    plain: PickerProcess, path: str, body: dict[str, object]
) -> None:
    """What each API calls its prompt; a prefix in front of the path or a query behind it does not matter."""
    for wrong in (body, {"model": "tiny"}):
        async with plain.stream() as stream:
            await stream.send(request_headers(path=path), request_body(json.dumps(wrong).encode()))
            refusal(await stream.last(), 400, "rejected-bad-request")
    async with plain.stream() as stream:
        await stream.send(request_headers(path=path), request_body(json.dumps({"model": "tiny", **body}).encode()))
        assert destinations(await stream.receive())


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml"])
async def test_another_content_type_on_a_known_path_is_refused_with_415(
    plain: PickerProcess, content_type: str
) -> None:
    """Engines refuse it too, but only after it took a place in their queue."""
    async with plain.stream() as stream:
        await stream.send(request_headers({"content-type": content_type}), request_body(chat()))
        error = refusal(await stream.last(), 415, "rejected-bad-request")
        assert content_type in error["message"]


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/x+json"])
async def test_json_by_any_name_is_accepted(plain: PickerProcess, content_type: str) -> None:
    """Parameters, capitals and suffixes are all legal."""
    async with plain.stream() as stream:
        await stream.send(request_headers({"content-type": content_type}), request_body(chat()))
        assert destinations(await stream.receive())


async def test_a_body_above_the_limit_is_refused_with_413_before_it_has_all_come(plain: PickerProcess) -> None:
    """In full duplex the picker holds the whole body, so it must bound it."""
    async with plain.stream() as stream:
        await stream.send(request_headers(), *(request_body(b"x" * 60_000, end=False) for _ in range(17)))
        error = refusal(await stream.last(), 413, "rejected-too-large")
        assert "1000000" in error["message"]


# ------------------------------------------------------------------------------------------------ no capacity


async def refused_with_503(served: Pool) -> None:
    """A request with a body and one without are both refused."""
    async with served.stream() as stream:
        await stream.send(request_headers(), request_body(chat()))
        error = refusal(await stream.last(), 503, "rejected-no-endpoints")
        assert served.name in error["message"]
    async with served.stream() as stream:
        await stream.send(request_headers(path="/v1/models", method="GET", end=True))
        refusal(await stream.last(), 503, "rejected-no-endpoints")


async def test_a_pool_that_stays_without_endpoints_is_refused_with_503(shared: PickerProcess) -> None:
    """Scaled to zero: requests wait for the first engine, up to the pool's wait timeout."""
    async with pool(shared, queue={"waitTimeout": "300ms"}) as served:
        await refused_with_503(served)


async def test_a_pool_of_which_no_endpoint_answers_is_refused_with_503(shared: PickerProcess) -> None:
    """All engines dead: sending a request to one would only make the client wait."""
    dead = [EngineStub(host="127.0.0.3", port=9), EngineStub(host="127.0.0.4", port=9)]
    async with pool(shared, down=dead, queue={"waitTimeout": "300ms"}) as served:
        await refused_with_503(served)


async def test_a_route_that_belongs_to_no_pool_is_refused_with_503(shared: PickerProcess) -> None:
    """With several pools there is no telling which was meant."""
    for route in ("no/such", None):
        async with shared.stream(First(route=route)) as stream:
            await stream.send(request_headers(), request_body(chat()))
            refusal(await stream.last(), 503, "rejected-no-endpoints")


# ------------------------------------------------------------------------------------------------ saturation

SHEDDABLE: list[Part] = [model("batch", criticality="Sheddable"), model("chat"), model("vip", criticality="Critical")]


def busy() -> tuple[EngineStub, ...]:
    """Engines that are past the queue's or the cache's threshold, each of them."""
    return EngineStub(6, 0.2), EngineStub(0, 0.85), EngineStub(10, 0.9)


async def test_sheddable_requests_are_refused_with_429_when_all_engines_are_busy(shared: PickerProcess) -> None:
    """Others are placed all the same: they wait in an engine's queue."""
    async with pool(shared, *busy(), parts=SHEDDABLE) as served:
        async with served.stream() as stream:
            await stream.send(request_headers(), request_body(chat("batch")))
            error = refusal(await stream.last(), 429, "rejected-saturated")
            assert error["type"] == "rate_limit_error"
        for name in ("chat", "vip"):
            async with served.stream() as stream:
                await stream.send(request_headers(), request_body(chat(name)))
                assert destinations(await stream.receive())


async def test_sheddable_requests_are_placed_while_there_is_room(shared: PickerProcess) -> None:
    """Sheddable does not mean slow: with a short queue they are as good as any."""
    async with pool(shared, EngineStub(4, 0.2), parts=SHEDDABLE) as served, served.stream() as stream:
        await stream.send(request_headers(), request_body(chat("batch")))
        assert destinations(await stream.receive())


@pytest.mark.parametrize(("name", "status"), [("low", 429), ("unset", 200), ("high", 200), ("unheard-of", 200)])
async def test_the_objective_of_a_request_is_its_priority(shared: PickerProcess, name: str, status: int) -> None:
    """Below zero is sheddable. An objective that does not exist is none: priority zero."""
    parts = [objective("low", -1), objective("unset", None), objective("high", 4)]
    async with pool(shared, *busy(), parts=parts) as served, served.stream() as stream:
        await stream.send(request_headers({OBJECTIVE: name}), request_body(chat()))
        reply = await stream.receive()
        if status == 429:
            refusal(reply, 429, "rejected-saturated")
        else:
            assert destinations(reply)


async def test_an_objective_goes_before_the_models_criticality(shared: PickerProcess) -> None:
    """The request knows better than its model how much it matters."""
    async with pool(shared, *busy(), parts=[*SHEDDABLE, objective("low", -1), objective("high", 4)]) as served:
        async with served.stream() as stream:
            await stream.send(request_headers({OBJECTIVE: "high"}), request_body(chat("batch")))
            assert destinations(await stream.receive())
        async with served.stream() as stream:
            await stream.send(request_headers({OBJECTIVE: "low"}), request_body(chat("vip")))
            refusal(await stream.last(), 429, "rejected-saturated")


async def test_an_objective_of_another_pool_does_not_count(shared: PickerProcess) -> None:
    """Objects belong to one pool each."""
    async with (
        pool(shared, EngineStub(), parts=[objective("low", -1)]),
        pool(shared, *busy()) as served,
        served.stream() as stream,
    ):
        await stream.send(request_headers({OBJECTIVE: "low"}), request_body(chat()))
        assert destinations(await stream.receive())


async def test_refusals_are_counted_by_outcome(shared: PickerProcess) -> None:
    """An operator sees why requests are lost."""
    before = await shared.sample("igw_picker_requests_total", pool="", model="", outcome="rejected-bad-request")
    async with pool(shared, EngineStub()) as served, served.stream() as stream:
        await stream.send(request_headers(), request_body(b"no JSON"))
        assert kind(await stream.last()) == "immediate_response"
        after = await shared.sample("igw_picker_requests_total", pool="", model="", outcome="rejected-bad-request")
        assert after == before + 1


async def test_the_reason_has_a_header_of_its_own(plain: PickerProcess) -> None:
    """Clients and gateways read it without parsing the body."""
    async with plain.stream() as stream:
        await stream.send(request_headers(), request_body(b"no JSON"))
        assert set(headers_set(await stream.last())) == {"content-type", "x-llm-d-request-dropped-reason"}
