"""Which model a request asks for, and which it gets: InferenceModel, InferenceModelRewrite, and the rewrite header."""

import json
from collections import Counter

import pytest

from igw_testing.ext_proc import (
    chat,
    common,
    destinations,
    headers_set,
    refusal,
    request_body,
    request_headers,
    streamed,
)
from igw_testing.metrics_stub import EngineStub
from igw_testing.picker import PickerProcess, Pool, model, pool, rewrite

pytestmark = pytest.mark.asyncio(loop_scope="session")

REWRITE = "x-gateway-model-name-rewrite"


async def served_as(served: Pool, name: str, header: str | None = None) -> str:
    """The model's name that a request for `name` carries when it leaves the picker."""
    async with served.stream() as stream:
        headers = {} if header is None else {REWRITE: header}
        await stream.send(request_headers(headers), request_body(chat(name)))
        head, data = await stream.replies(2)
        (chunk,) = streamed([data])
        assert headers_set(head)["content-length"] == str(len(chunk.body))
        return str(json.loads(chunk.body)["model"])


async def test_a_pool_without_models_serves_any_name(plain: PickerProcess) -> None:
    """The engines know their models; a pool need not repeat them."""
    async with plain.stream() as stream:
        await stream.send(request_headers(), request_body(chat("whatever")))
        assert destinations(await stream.receive())


async def test_an_unknown_model_is_refused_with_404_in_openais_shape(shared: PickerProcess) -> None:
    """Clients check this code; the message names the models that there are."""
    async with pool(shared, EngineStub(), parts=[model("llama"), model("mistral")]) as served:
        async with served.stream() as stream:
            await stream.send(request_headers(), request_body(chat("gpt-9")))
            error = refusal(await stream.last(), 404, "rejected-unknown-model")
        assert error["code"] == "model_not_found"
        assert error["type"] == "invalid_request_error"
        assert all(name in error["message"] for name in ("gpt-9", "llama", "mistral"))


async def test_a_model_without_targets_keeps_its_name(shared: PickerProcess) -> None:
    """A body that needs no change is passed on byte for byte."""
    body = b'{ "model" : "llama",\n "messages":[{"role":"user","content":"hi"}]}'
    async with pool(shared, EngineStub(), parts=[model("llama")]) as served, served.stream() as stream:
        await stream.send(request_headers(), request_body(body))
        _, data = await stream.replies(2)
        assert streamed([data])[0].body == body


async def test_a_models_target_replaces_its_name_and_nothing_else(shared: PickerProcess) -> None:
    """Fields that the picker does not know reach the engine all the same."""
    sent = {
        "model": "public",
        "temperature": 0.1,
        "seed": 2**53,
        "x-private": {"nested": [1, None, "ü"]},
        "messages": [{"role": "user", "content": "public"}],
    }
    async with (
        pool(shared, EngineStub(), parts=[model("public", {"private": 1})]) as served,
        served.stream() as stream,
    ):
        await stream.send(request_headers(), request_body(json.dumps(sent).encode()))
        _, data = await stream.replies(2)
        assert json.loads(streamed([data])[0].body) == {**sent, "model": "private"}


async def test_targets_share_the_requests_by_weight(shared: PickerProcess) -> None:
    """Three to one: of 400 requests 300, give or take six standard deviations (8.7 each)."""
    parts = [model("public", {"stable": 3, "canary": 1, "off": 0})]
    async with pool(shared, EngineStub(), parts=parts) as served:
        counts = Counter([await served_as(served, "public") for _ in range(400)])
    assert set(counts) == {"stable", "canary"}
    assert abs(counts["stable"] - 300) <= 52


async def test_a_name_that_is_only_reserved_is_refused_with_404(shared: PickerProcess) -> None:
    """All weights zero: nobody else may have the name, and nobody is served under it."""
    parts = [model("soon", {"base": 0}), model("now")]
    async with pool(shared, EngineStub(), parts=parts) as served, served.stream() as stream:
        await stream.send(request_headers(), request_body(chat("soon")))
        refusal(await stream.last(), 404, "rejected-unknown-model")


async def test_models_of_one_pool_are_unknown_to_another(shared: PickerProcess) -> None:
    """Each pool declares its own."""
    async with pool(shared, EngineStub(), parts=[model("a")]), pool(shared, EngineStub(), parts=[model("b")]) as served:
        async with served.stream() as stream:
            await stream.send(request_headers(), request_body(chat("a")))
            refusal(await stream.last(), 404, "rejected-unknown-model")
        assert await served_as(served, "b") == "b"


# ------------------------------------------------------------------------------------------------ rewrites


async def test_an_exact_rule_goes_before_a_generic_one(shared: PickerProcess) -> None:
    """Wherever they stand: in one object or in two."""
    parts = [rewrite("a", (None, {"rest": 1}), ("llama", {"exact": 1})), rewrite("b", ("mistral", {"other": 1}))]
    async with pool(shared, EngineStub(), parts=parts) as served:
        assert await served_as(served, "llama") == "exact"
        assert await served_as(served, "mistral") == "other"
        assert await served_as(served, "anything") == "rest"


async def test_the_first_of_equal_rules_counts(shared: PickerProcess) -> None:
    """Within an object the order of the list, between objects their age and then their names."""
    parts = [rewrite("b", ("llama", {"second": 1})), rewrite("a", ("llama", {"first": 1}), ("llama", {"third": 1}))]
    async with pool(shared, EngineStub(), parts=parts) as served:
        assert await served_as(served, "llama") == "first"


async def test_a_rule_that_does_not_match_changes_nothing(shared: PickerProcess) -> None:
    """Exact means exact."""
    async with pool(shared, EngineStub(), parts=[rewrite("a", ("llama", {"x": 1}))]) as served:
        assert await served_as(served, "llama-2") == "llama-2"


async def test_a_rules_targets_share_the_requests_by_weight(shared: PickerProcess) -> None:
    """One to one: each is seen within a hundred requests, but for a chance of 2^-99."""
    async with pool(shared, EngineStub(), parts=[rewrite("a", ("llama", {"x": 1, "y": 1}))]) as served:
        seen: set[str] = set()
        for _ in range(100):
            seen.add(await served_as(served, "llama"))
            if len(seen) == 2:
                break
    assert seen == {"x", "y"}


async def test_the_rewrite_header_names_the_target_unless_a_rule_does(shared: PickerProcess) -> None:
    """A gateway in front may have chosen; the pool's owner has the last word."""
    async with pool(shared, EngineStub(), parts=[rewrite("a", ("llama", {"rule": 1}))]) as served:
        assert await served_as(served, "mistral", "header") == "header"
        assert await served_as(served, "llama", "header") == "rule"


async def test_the_rewrite_header_finds_the_adapter_it_names(shared: PickerProcess) -> None:
    """The adapter that is running somewhere is worth a fuller cache, whoever named it."""
    engines = (
        EngineStub(10, 0.2, adapters=("foo", "bar"), max_adapters=2),
        EngineStub(10, 0.4, adapters=("foo", "sql"), max_adapters=2),
    )
    async with pool(shared, *engines) as served, served.stream() as stream:
        await stream.send(request_headers({REWRITE: "sql"}), request_body(chat("base")))
        assert destinations(await stream.receive())[0] == engines[1].address


async def test_a_request_without_a_body_has_no_model_to_rewrite(shared: PickerProcess) -> None:
    """Listing models is no request for one."""
    parts = [rewrite("a", (None, {"x": 1})), model("llama", {"y": 1})]
    async with pool(shared, EngineStub(), parts=parts) as served, served.stream() as stream:
        await stream.send(request_headers(path="/v1/models", method="GET", end=True))
        reply = await stream.receive()
        assert destinations(reply)
        assert not common(reply).HasField("body_mutation")
