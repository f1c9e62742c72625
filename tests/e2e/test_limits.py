"""A pool's limits, seen by clients through Envoy: what they are told, who is refused, and what it costs in the end."""

import json
from pathlib import Path
from typing import Any

import aiohttp

from igw_testing.chat_load import SHORT_PROMPT, chat_body
from igw_testing.engine_double import END, running_engine
from igw_testing.gateway_process import Gateway, running_gateway, running_sims
from igw_testing.standalone import until

POOL = "vllm-llama2-7b-pool"


def limited(**limits: Any) -> str:
    """A policy with these limits."""
    spec: dict[str, Any] = {"targetRefs": [{"name": POOL}], "limits": limits}
    if not limits:
        del spec["limits"]
    return json.dumps(
        {
            "apiVersion": "inferencegateway.io/v1alpha1",
            "kind": "InferencePoolPolicy",
            "metadata": {"name": "limits"},
            "spec": spec,
        }
    )


async def ask(gateway: Gateway, key: str, **body: Any) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, what is said of limits, and the answer."""
    headers = {"authorization": f"Bearer {key}"}
    async with gateway.session.post(gateway.chat, json=chat_body(SHORT_PROMPT) | body, headers=headers) as answer:
        told = {
            name.lower().removeprefix("x-ratelimit-"): value
            for name, value in answer.headers.items()
            if name.lower().startswith("x-ratelimit-") or name.lower() == "retry-after"
        }
        return answer.status, told, await answer.json()


async def test_keys_are_told_what_is_left_and_refused_when_nothing_is_and_a_pool_takes_so_many_at_once(
    tmp_path: Path,
) -> None:
    policy = limited(concurrentRequests=2, perKey={"requestsPerMinute": 3})
    async with (
        running_engine("one") as engine,
        running_gateway(tmp_path, [engine.address], manifests=policy) as gateway,
    ):
        await gateway.sees(engine.address)
        for left in ("2", "1", "0"):
            status, told, _ = await ask(gateway, "one")
            assert (status, told["limit-requests"], told["remaining-requests"]) == (200, "3", left)
        status, told, answer = await ask(gateway, "one", stream=True)
        assert (status, told["remaining-requests"], answer["error"]["code"]) == (429, "0", "rate_limit_exceeded")
        assert 1 <= int(told["retry-after"]) <= 20
        assert "reached its limit of requests a minute" in answer["error"]["message"]
        assert len(engine.seen) == 3
        assert not any(name.startswith("x-ratelimit-") for name in engine.seen[-1])

        stream = gateway.chat.replace("/v1/chat/completions", "/stream")
        async with _resident(gateway, stream, "two") as first, _resident(gateway, stream, "three") as second:
            assert (first.status, second.status) == (200, 200)
            status, told, answer = await ask(gateway, "four")
            assert (status, told["retry-after"]) == (429, "1")
            assert "has reached its limit of requests at once, which is 2" in answer["error"]["message"]
            for _ in range(2):
                engine.chunks.put_nowait(END)
        await until(lambda: _is_answered(gateway, "four"), 30)

        children = gateway.up.children()
        (gateway.up.manifests / "more.yaml").write_text(limited())

        async def unlimited() -> bool:
            status, told, _ = await ask(gateway, "one")
            return (status, told) == (200, {})

        await until(unlimited, 30)
        assert gateway.up.children() == children


def _resident(gateway: Gateway, url: str, key: str) -> "aiohttp.client._RequestContextManager":
    """A request that does not end by itself."""
    return gateway.session.post(url, json=chat_body(SHORT_PROMPT), headers={"authorization": f"Bearer {key}"})


async def _is_answered(gateway: Gateway, key: str) -> bool:
    return (await ask(gateway, key))[0] == 200


async def test_tokens_are_charged_as_the_engine_has_counted_them(tmp_path: Path) -> None:
    """The answer is much shorter than the request's bound, by which it was charged at first."""
    async with (
        running_sims("one", options=("--output-tokens", "fixed:5")) as (sim,),
        running_gateway(tmp_path, [sim.address], manifests=limited(perKey={"tokensPerMinute": 600})) as gateway,
    ):
        await gateway.sees(sim.address)
        status, told, answer = await ask(gateway, "one", max_tokens=200)
        assert (status, told["limit-tokens"]) == (200, "600")
        assert int(told["remaining-tokens"]) < 400
        used = answer["usage"]["total_tokens"]
        assert used < 30

        async def settled() -> bool:
            return int((await ask(gateway, "one", max_tokens=1))[1]["remaining-tokens"]) > 500

        await until(settled, 5, gateway.picker_log)
        # What is more than a minute's worth needs a full bucket, and is waited for afterwards.
        await ask(gateway, "two", **chat_body("word " * 2000, tokens=1))
        status, told, answer = await ask(gateway, "two", max_tokens=1)
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        assert int(told["retry-after"]) > 60
        assert "reached its limit of tokens a minute" in answer["error"]["message"]
