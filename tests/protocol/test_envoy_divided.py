"""With the real Envoy, sending headers and bodies as Envoy Gateway has it do: the endpoint hears who has its prompt."""

from pathlib import Path

import yaml

from igw_testing.ext_proc import chat
from igw_testing.picker import eventually
from igw_testing.picker_envoy import Engine, Gateway, gateway

JSON = {"content-type": "application/json"}
PREFILLER, FAILURE = "x-prefiller-host-port", "x-igw-prefill-failure"


def division(prefill: Engine, decode: Engine) -> list[str]:
    """The pool `large` with one endpoint for each role."""
    roles = [
        {"address": one.host, "port": one.port, "labels": {"app": "large", "llm-d.ai/role": role}}
        for one, role in ((prefill, "prefill"), (decode, "decode"))
    ]
    rules = {"targetRefs": [{"name": "large"}], "scheduling": {"policy": "pd-split"}}
    written = (("EndpointList", "large", {"endpoints": roles}), ("InferencePoolPolicy", "divided", rules))
    head = {"apiVersion": "inferencegateway.io/v1alpha1"}
    return [
        yaml.safe_dump({**head, "kind": kind, "metadata": {"name": name, "namespace": "large"}, "spec": spec})
        for kind, name, spec in written
    ]


async def test_the_endpoint_hears_of_the_prefiller_by_headers(tmp_path: Path) -> None:
    """What a client says of it itself is overwritten, here where no rule of the listener's takes it away."""
    async with gateway(tmp_path, "BUFFERED") as here:
        # The idle one computes prompts, so whoever ignores roles sends the request there.
        busy, idle = here.engines[:2]
        large = (here.picker.folder / "large.yaml").read_text().split("\n---\n")
        kept = [text for text in large if "kind: EndpointList" not in text]
        here.picker.write("large", *kept, *division(idle, busy))
        await eventually(lambda: _divided(here), "divided")
        for headers in (JSON, {**JSON, PREFILLER: "127.0.0.1:1", FAILURE: "strict"}):
            body = chat("large-model")
            async with here.client.post("/v1/chat/completions", data=body, headers=headers) as response:
                answer = await response.json()
            assert answer["name"] == busy.name
            assert (answer["told"][PREFILLER], answer["told"][FAILURE]) == (idle.address, "decode")


async def _divided(here: Gateway) -> bool:
    _, page = await here.picker.get("/metrics")
    return 'igw_picker_divided_total{how="pair",pool="large/large"}' in page
