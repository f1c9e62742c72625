"""A shadow policy, over real sockets: compared from the moment its policy object says so, and told on the page."""

from typing import Any

import pytest
import yaml

from igw_testing.ext_proc import chat, destinations, request_body, request_headers
from igw_testing.metrics_stub import EngineStub
from igw_testing.picker import PickerProcess, Pool, eventually, pool

pytestmark = pytest.mark.asyncio(loop_scope="session")


def write(picker: PickerProcess, served: Pool, scheduling: dict[str, Any]) -> str:
    """The pool's policy object; its file's name."""
    policy = {
        "apiVersion": "inferencegateway.io/v1alpha1",
        "kind": "InferencePoolPolicy",
        "metadata": {"name": "shadow", "namespace": served.name},
        "spec": {"targetRefs": [{"name": served.name}], "scheduling": scheduling},
    }
    name = f"{served.name}-shadow"
    picker.write(name, yaml.safe_dump(policy))
    return name


async def place(served: Pool) -> str:
    """Where one request goes."""
    async with served.stream() as stream:
        await stream.send(request_headers(), request_body(chat()))
        head, *_ = await stream.replies(2)
        return destinations(head)[0]


async def compared(served: Pool, active: str, shadow: str) -> float:
    """How many placements were compared so far; one more is made for each question, until the policy is in force."""
    await place(served)
    labels = {"pool": served.route, "active": active, "shadow": shadow}
    return await served.picker.sample("igw_picker_shadow_compared_total", **labels)


async def test_a_shadow_comes_and_goes_with_its_policy_object_and_its_choices_are_told(shared: PickerProcess) -> None:
    busy, idle = EngineStub(running=9), EngineStub()
    async with pool(shared, busy, idle) as served:
        name = write(shared, served, {"policy": "least-request", "shadow": {"policy": "round-robin"}})
        try:

            async def both_were_chosen() -> bool:
                chosen = [
                    await shared.sample(
                        "igw_picker_shadow_choices_total",
                        pool=served.route,
                        policy="round-robin",
                        role="shadow",
                        endpoint=engine.address,
                    )
                    for engine in (busy, idle)
                ]
                return await compared(served, "least-request", "round-robin") > 0 and all(chosen)

            await eventually(both_were_chosen, "round robin's choices")
            assert await place(served) == idle.address, "the shadow is not obeyed"
            labels = {"pool": served.route, "policy": "least-request", "role": "active"}
            assert await shared.sample("igw_picker_shadow_gain_total", **labels) >= 9

            write(shared, served, {"policy": "least-request"})

            async def gone() -> bool:
                return await compared(served, "least-request", "round-robin") == 0

            await eventually(gone, "the shadow's end")
        finally:
            shared.remove(name)
