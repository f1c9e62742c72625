"""A pool's standbys, seen by clients through Envoy: who takes what it cannot, and what a provider is never told."""

import io
import json
from pathlib import Path
from typing import Any

import aiohttp

from igw_testing.chat_load import SHORT_PROMPT, chat_body
from igw_testing.engine_double import FULL, IDLE, running_engine
from igw_testing.gateway_process import MODEL, Gateway, running_gateway
from igw_testing.provider_double import KEY, ProviderDouble, running_provider, secret
from igw_testing.standalone import endpoint_list, until

POOL = "vllm-llama2-7b-pool"
JSON = "application/json"
# What a client may send, and no provider may see.
OURS = {
    "authorization": "Bearer token-of-the-client",
    "cookie": "session=1",
    "x-session-id": "mine",
    "x-gateway-destination-endpoint": "10.0.0.1:1",
    "x-igw-pool": "standby/default/standby/cloud",
    "x-gateway-model-name": MODEL,
}


def manifests(*chain: dict[str, Any], more: tuple[dict[str, Any], ...] = (), **queue: str | int) -> str:
    """A policy with standbys, and the Secret with the provider's key."""
    policy = {
        "apiVersion": "inferencegateway.io/v1alpha1",
        "kind": "InferencePoolPolicy",
        "metadata": {"name": "standby"},
        "spec": {"targetRefs": [{"name": POOL}], "standby": list(chain), "queue": queue},
    }
    return "\n---\n".join(json.dumps(one) for one in (policy, secret(), *more))


def cloud(provider: ProviderDouble, name: str = "cloud", **budget: int) -> dict[str, Any]:
    """A link of the chain that leads to the provider, under a model name of its own."""
    to: dict[str, Any] = {"url": provider.url, "credentialSecret": "cloud-key", "budget": budget}
    if provider.tls:
        to["caSecret"] = "cloud-key"
    return {"name": name, "provider": to, "models": {MODEL: "big-model"}}


async def ask(gateway: Gateway, *, stream: bool = False) -> tuple[int, str | None, str]:
    """Status, who answered if it was no engine of the pool's, and the text."""
    body = chat_body(SHORT_PROMPT) | {"stream": stream}
    async with gateway.session.post(gateway.chat, json=body, headers=OURS) as answer:
        return answer.status, answer.headers.get("x-igw-served-by"), await answer.text()


async def answers(gateway: Gateway, who: str | None) -> None:
    """Wait until requests are answered by that standby, or by the pool itself."""
    last: tuple[int, str | None, str] = (0, None, "")

    async def is_so() -> bool:
        nonlocal last
        last = await ask(gateway)
        return last[:2] == (200, who)

    await until(is_so, 30, lambda: f"{last} {gateway.picker_log()[-2000:]}")


async def page(session: aiohttp.ClientSession, url: str) -> str:
    """A page's text."""
    async with session.get(url) as answer:
        return await answer.text()


async def test_an_empty_pools_requests_go_to_the_provider_with_its_key_and_nothing_of_ours(tmp_path: Path) -> None:
    async with (
        running_provider(tls=True) as provider,
        running_gateway(tmp_path, [], manifests=manifests(cloud(provider, requestsPerMinute=9))) as gateway,
    ):
        await answers(gateway, "cloud")
        children = gateway.up.children()
        status, who, text = await ask(gateway, stream=True)
        assert (status, who) == (200, "cloud")
        assert text.endswith("data: [DONE]\n\n") and '"big-model"' in text
        for got in provider.got:
            assert got.path == "/compatible/v1/chat/completions"
            assert (got.body["model"], got.headers["authorization"]) == ("big-model", KEY)
            assert got.headers["host"] == f"localhost:{provider.port}"
            assert not [name for name in got.headers if name.startswith("x-") or name == "cookie"], got.headers

        provider.may_go_on.clear()
        body = chat_body(SHORT_PROMPT) | {"stream": True}
        async with gateway.session.post(gateway.chat, json=body) as answer:
            assert await answer.content.readline() == b": begun\n", "the client leaves in the middle"
        provider.may_go_on.set()
        large = io.BytesIO(json.dumps(chat_body("x" * 2_000_000)).encode())
        async with gateway.session.post(gateway.chat, data=large, headers={"content-type": JSON}) as answer:
            assert (answer.status, provider.got[-1].body["model"]) == (200, "big-model")
        assert gateway.up.children() == children, "Envoy and the picker have lived through that"

        provider.failure = (402, '{"error": {"message": "no credit"}}', {"retry-after": "77"})
        async with gateway.session.post(gateway.chat, json=chat_body(SHORT_PROMPT)) as answer:
            told = answer.status, await answer.text(), answer.headers["retry-after"], answer.headers["x-igw-served-by"]
        assert told == (402, '{"error": {"message": "no credit"}}', "77", "cloud")
        provider.failure = None

        while len(provider.got) < 9:
            assert (await ask(gateway))[0] == 200
        status, who, text = await ask(gateway)
        assert (status, who, len(provider.got)) == (503, None, 9)
        assert "its budget of 9 requests a minute is used up" in text
        counted = f'igw_picker_standby_total{{pool="default/{POOL}",reason="empty",standby="cloud"}} 9.0'
        assert counted in await page(gateway.session, gateway.up.metrics)

        async with running_engine("one") as engine:
            (gateway.up.manifests / "endpoints.yaml").write_text(endpoint_list([engine.address]))
            await answers(gateway, None)
            assert len(provider.got) == 9
            assert all(KEY not in seen.values() for seen in engine.seen)
        await _is_nowhere(gateway, "sk-of-the-provider")


async def _is_nowhere(gateway: Gateway, key: str) -> None:
    """But in one file that only we can read."""
    state = gateway.up.state
    holding = [path for path in state.rglob("*") if path.is_file() and key in path.read_text(errors="replace")]
    assert [path.name for path in holding] == ["sds_standby_default_standby_cloud.json"]
    assert holding[0].stat().st_mode & 0o077 == 0
    assert key not in await page(gateway.session, f"{gateway.up.admin}/config_dump?include_eds")
    assert key not in "".join(gateway.up.lines + gateway.up.problems)
    assert not any(key.encode() in told for told in _of_processes(gateway))


def _of_processes(gateway: Gateway) -> list[bytes]:
    """What anybody on the machine could read of Envoy and the picker."""
    folders = [Path(f"/proc/{pid}") for pid in gateway.up.children().values()]
    return [(folder / name).read_bytes() for folder in folders for name in ("cmdline", "environ")]


async def test_a_full_pools_requests_go_to_the_provider_after_their_wait_and_so_do_those_of_a_dead_one(
    tmp_path: Path,
) -> None:
    async with running_provider() as provider, running_engine("one") as engine:
        policy = manifests(cloud(provider), waitTimeout="300ms")
        async with running_gateway(tmp_path, [engine.address], manifests=policy) as gateway:
            await gateway.sees(engine.address)
            stream = gateway.chat.replace("/v1/chat/completions", "/stream")
            async with gateway.session.post(stream, json=chat_body(SHORT_PROMPT)) as resident:
                assert resident.status == 200
                engine.numbers = FULL
                await answers(gateway, "cloud")
                engine.numbers = IDLE
                await answers(gateway, None)
                engine.chunks.put_nowait(b"")
            got = len(provider.got)
            assert (await ask(gateway))[:2] == (200, None) and len(provider.got) == got
            port = engine.port
            await engine.close()
            await answers(gateway, "cloud")
            async with running_engine("one", port):
                await answers(gateway, None)


async def test_along_the_chain_another_pool_comes_before_the_provider_and_a_false_certificate_gets_no_key(
    tmp_path: Path,
) -> None:
    """The other pool serves the request under its own name of the model."""
    other = {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": "other"},
        "spec": {
            "selector": {"matchLabels": {"app": "other"}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
        },
    }
    async with running_provider(tls=True) as provider, running_engine("two") as engine:
        listed = json.loads(endpoint_list([engine.address], {"app": "other"})) | {"metadata": {"name": "others"}}
        link = {"name": "neighbour", "pool": {"name": "other"}, "model": "small"}
        last = cloud(provider)
        del last["provider"]["caSecret"]  # so it is trusted by nobody
        lost = {"name": "lost", "provider": {"url": provider.url, "credentialSecret": "lost"}}
        policy = manifests(link, lost, last, more=(other, listed))
        async with running_gateway(tmp_path, [], manifests=policy) as gateway:
            await gateway.up.line("SecretNotFound: standby lost is not in use: no Secret default/lost")
            await gateway.sees(engine.address)
            await answers(gateway, "neighbour")
            assert engine.seen and all(KEY not in seen.values() for seen in engine.seen)
            await engine.close()

            async def refused() -> bool:
                return (await ask(gateway))[:2] == (503, "cloud")

            await until(refused, 30)
            assert provider.got == []


async def test_a_stream_whose_engine_does_not_answer_in_time_is_retried_elsewhere_and_what_is_no_stream_is_left_alone(
    tmp_path: Path,
) -> None:
    """Envoy leaves an engine that has sent no headers by then; what is no stream may take as long as it does."""
    async with running_engine("slow") as slow, running_engine("quick") as quick:
        policy = {
            "apiVersion": "inferencegateway.io/v1alpha1",
            "kind": "InferencePoolPolicy",
            "metadata": {"name": "hurry"},
            "spec": {"targetRefs": [{"name": POOL}], "firstByteTimeout": "500ms"},
        }
        addresses = [slow.address, quick.address]
        async with running_gateway(tmp_path, addresses, manifests=json.dumps(policy)) as gateway:
            await gateway.sees(*addresses)
            slow.delay, quick.numbers = 3.0, FULL  # so that the slow one is chosen

            async def told(stream: bool) -> str:
                body = chat_body(SHORT_PROMPT) | {"stream": stream}
                async with gateway.session.post(gateway.chat, json=body) as answer:
                    assert answer.status == 200, await answer.text()
                    return str((await answer.json())["engine"])

            async def prefers_the_slow_one() -> bool:
                return (await gateway.numbers("igw_picker_endpoint_queued_requests")).get(quick.address, 0) > 0

            await until(prefers_the_slow_one, 30, gateway.picker_log)
            assert await told(stream=True) == "quick"
            assert (len(slow.seen), len(quick.seen)) == (1, 1)
            assert await told(stream=False) == "slow"
