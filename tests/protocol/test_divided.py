"""A divided pool over both transports: the pair that a proxy is told, in every mode, and how long each half counts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import yaml

from igw_protos import ext_proc_pb2 as pb
from igw_testing.ext_proc import (
    BUFFERED,
    FULL_DUPLEX,
    NONE,
    STREAMED,
    chat,
    destinations,
    headers_set,
    metadata,
    refusal,
    request_body,
    request_headers,
    response_body,
    response_headers,
)
from igw_testing.metrics_stub import EngineStub, serving
from igw_testing.picker import PickerProcess, Pool, eventually, pool

pytestmark = pytest.mark.asyncio(loop_scope="session")

PREFILLER, FAILURE = "x-prefiller-host-port", "x-igw-prefill-failure"


def manifest(kind: str, namespace: str, spec: dict[str, Any]) -> str:
    metadata_ = {"name": "divided", "namespace": namespace}
    head = {"apiVersion": "inferencegateway.io/v1alpha1", "kind": kind, "metadata": metadata_}
    return yaml.safe_dump({**head, "spec": spec})


@asynccontextmanager
async def divided(picker: PickerProcess, *prefillers: EngineStub, **division: Any) -> AsyncIterator[Pool]:
    """A pool with one endpoint that answers, and these that compute prompts."""
    async with pool(picker, EngineStub()) as served, serving(*prefillers):
        endpoints = [{"address": one.host, "port": one.port} for one in prefillers]
        labels = {"app": served.name, "inferencegateway.io/role": "prefill"}
        rules = {
            "targetRefs": [{"name": served.name}],
            "scheduling": {"policy": "pd-split", "prefillDecode": division},
        }
        picker.write(
            f"{served.name}-divided",
            manifest("EndpointList", served.name, {"labels": labels, "endpoints": endpoints}),
            manifest("InferencePoolPolicy", served.name, rules),
        )
        try:
            await picker.sees(*prefillers)
            await eventually(lambda: _is_divided(served), "divided")
            yield served
        finally:
            picker.remove(f"{served.name}-divided")


async def _is_divided(served: Pool) -> bool:
    _, page = await served.picker.get("/metrics")
    return f'igw_picker_divided_total{{how="pair",pool="{served.route}"}}' in page


async def counts(served: Pool, prefiller: EngineStub, *wanted: float) -> None:
    """Wait until so many requests are in flight at the prefiller and at the endpoint that answers."""

    async def equal() -> bool:
        return [await served.picker.in_flight(one) for one in (prefiller, *served.engines)] == list(wanted)

    await eventually(equal, f"in flight: {wanted}")


@pytest.mark.parametrize(
    ("mode", "replies"), [(FULL_DUPLEX, 2), (BUFFERED, 2), (STREAMED, 1)], ids=["duplex", "buffered", "streamed"]
)
async def test_every_mode_names_the_prefiller_beside_the_destination(
    shared: PickerProcess, mode: pb.BodySendMode, replies: int
) -> None:
    """Where the body comes after the decision, nothing is known of it, and nothing is divided."""
    async with divided(shared, one := EngineStub()) as served, served.stream(mode, NONE) as stream:
        await stream.send(request_headers(), *([request_body(chat())] if replies == 2 else []))
        told = await stream.replies(replies)
        reply = told[0] if mode == FULL_DUPLEX else told[-1]
        (answers,) = served.engines
        assert destinations(reply) == [answers.address]
        expected = {PREFILLER: one.address, FAILURE: "decode"} if mode != STREAMED else {}
        for found in (headers_set(reply), metadata(reply)):
            assert {name: found[name] for name in (PREFILLER, FAILURE) if name in found} == expected


async def test_the_prompt_counts_until_it_has_moved_and_the_answer_until_its_end(shared: PickerProcess) -> None:
    async with divided(shared, one := EngineStub()) as served:
        async with served.stream() as stream:
            await stream.send(request_headers(), request_body(chat()))
            await stream.replies(2)
            await counts(served, one, 1, 1)
            await stream.send(response_headers({"x-igw-prefill": "remote"}))
            await stream.replies(1)
            await counts(served, one, 0, 1)
            await stream.send(response_body(b"{}"))
        await counts(served, one, 0, 0)


async def test_a_client_that_goes_frees_both(shared: PickerProcess) -> None:
    async with divided(shared, one := EngineStub()) as served:
        async with served.stream() as stream:
            await stream.send(request_headers(), request_body(chat()))
            await stream.replies(2)
            await counts(served, one, 1, 1)
        await counts(served, one, 0, 0)


async def test_a_strict_pool_without_a_prefiller_refuses(shared: PickerProcess) -> None:
    async with divided(shared, onPrefillFailure="strict") as served, served.stream() as stream:
        await stream.send(request_headers(), request_body(chat()))
        refusal(await stream.last(), 503, "rejected-no-endpoints")
