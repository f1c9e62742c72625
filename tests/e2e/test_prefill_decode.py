"""A divided pool behind real Envoy: who gets the request, and what it is told of the endpoint that has its prompt."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from igw_testing.chat_load import SHORT_PROMPT, chat_body
from igw_testing.engine_double import EngineDouble, running_engine
from igw_testing.gateway_process import Gateway, running_gateway
from igw_testing.standalone import POOL_LABELS, until

POOL = "vllm-llama2-7b-pool"
PREFILLER, FAILURE = "x-prefiller-host-port", "x-igw-prefill-failure"
FORGED = {PREFILLER: "127.0.0.1:1", FAILURE: "strict", "X-Prefiller-Host-Port": "127.0.0.1:2"}


def manifests(engines: Sequence[EngineDouble], policy: str, **division: Any) -> str:
    """The engines with the role that their name begins with, and the pool's policy."""
    listed = [
        {
            "address": "127.0.0.1",
            "port": one.port,
            "labels": {**POOL_LABELS, "inferencegateway.io/role": one.name.partition("-")[0]},
        }
        for one in engines
    ]
    group = "inferencegateway.io/v1alpha1"
    endpoints = {
        "apiVersion": group,
        "kind": "EndpointList",
        "metadata": {"name": "divided"},
        "spec": {"endpoints": listed},
    }
    scheduling = {"policy": policy, "prefillDecode": division}
    rules = {
        "apiVersion": group,
        "kind": "InferencePoolPolicy",
        "metadata": {"name": "divided"},
        "spec": {"targetRefs": [{"name": POOL}], "scheduling": scheduling},
    }
    return "\n---\n".join(map(json.dumps, (endpoints, rules)))


@asynccontextmanager
async def divided(
    folder: Path, *names: str, options: Sequence[str] = (), policy: str = "pd-split", **division: Any
) -> AsyncIterator[tuple[Gateway, dict[str, EngineDouble]]]:
    """A gateway before engines of these names."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(running_engine(name)) for name in names]
        text = manifests(engines, policy, **division)
        gateway = await stack.enter_async_context(running_gateway(folder, [], *options, manifests=text))
        await gateway.sees(*(one.address for one in engines))
        yield gateway, {one.name: one for one in engines}


async def ask(gateway: Gateway, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """A chat's status and answer."""
    async with gateway.session.post(gateway.chat, json=chat_body(SHORT_PROMPT), headers=headers or {}) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("options", [(), ("--no-first-byte",)], ids=["first-byte", "no-first-byte"])
async def test_the_decode_endpoint_is_told_a_prefill_endpoint_and_a_client_names_none(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """And prefill endpoints get no request of a client's: the engine beside theirs asks them."""
    names = ("prefill-1", "prefill-2", "decode-1", "decode-2")
    async with divided(tmp_path, *names, options=options) as (gateway, engines):
        prefillers = {one.address for name, one in engines.items() if name.startswith("prefill")}
        for headers in ({}, FORGED) * 6:
            status, _ = await ask(gateway, headers)
            assert status == 200
        told = [one for name in ("decode-1", "decode-2") for one in engines[name].seen]
        assert len(told) == 12
        assert {one[PREFILLER] for one in told} == prefillers
        assert {one[FAILURE] for one in told} == {"decode"}
        assert [engines[name].seen for name in ("prefill-1", "prefill-2")] == [[], []]
        await gateway.in_flight_is()


async def test_without_the_policy_nobody_is_told_anything_whatever_a_client_says(tmp_path: Path) -> None:
    """A pool as it always was."""
    async with divided(tmp_path, "prefill-1", "decode-1", policy="pd-split") as (gateway, engines):
        rules = gateway.up.manifests / "more.yaml"
        rules.write_text(manifests(list(engines.values()), "least-request").replace(', "prefillDecode": {}', ""))
        await until(lambda: _both_serve(gateway, engines), 15)
        for _ in range(4):
            assert (await ask(gateway, FORGED))[0] == 200
        last = [seen for one in engines.values() for seen in one.seen[-2:]]
        assert not any(PREFILLER in one or FAILURE in one for one in last)


async def _both_serve(gateway: Gateway, engines: dict[str, EngineDouble]) -> bool:
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(ask(gateway))
    return all(one.seen for one in engines.values())


async def test_while_no_picker_answers_prompts_endpoints_still_get_no_request(tmp_path: Path) -> None:
    """The proxy goes round robin among those that answer, and nobody is told a prefill endpoint."""
    async with divided(tmp_path, "prefill-1", "decode-1", "decode-2") as (gateway, engines):
        gateway.kill_picker(hold=True)
        await gateway.picker_is_given_up()
        for _ in range(6):
            assert (await ask(gateway, FORGED))[0] == 200
        assert engines["prefill-1"].seen == []
        seen = engines["decode-1"].seen + engines["decode-2"].seen
        assert len(seen) == 6 and not any(PREFILLER in one for one in seen)


@pytest.mark.parametrize(("failure", "status"), [("decode", 200), ("strict", 503), ("queue", 503)])
async def test_without_a_prefill_endpoint_it_is_as_the_pool_wants(tmp_path: Path, failure: str, status: int) -> None:
    """Computed where it is answered, refused at once, or refused after its wait."""
    async with divided(tmp_path, "decode-1", onPrefillFailure=failure) as (gateway, engines):
        async with asyncio.timeout(20):
            found, answer = await ask(gateway)
        assert found == status, answer
        assert [PREFILLER in one for one in engines["decode-1"].seen] == ([False] if status == 200 else [])


async def test_a_request_waits_for_the_first_prefill_endpoint(tmp_path: Path) -> None:
    names = ("decode-1",)
    async with (
        divided(tmp_path, *names, onPrefillFailure="queue") as (gateway, engines),
        running_engine("prefill-1") as p,
    ):
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(ask(gateway))
            await until(lambda: _waits(gateway), 10)
            text = manifests([*engines.values(), p], "pd-split", onPrefillFailure="queue")
            (gateway.up.manifests / "more.yaml").write_text(text)
        assert asked.result()[0] == 200
        assert engines["decode-1"].seen[0][PREFILLER] == p.address


async def _waits(gateway: Gateway) -> bool:
    return (await gateway.numbers("igw_picker_waiting_requests")).get("") == 1
