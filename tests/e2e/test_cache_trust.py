"""An engine that tells of its cache only in its responses: what passes through Envoy is enough to find it out."""

from pathlib import Path

from igw_testing.chat_load import chat_body
from igw_testing.gateway_process import MODEL, running_gateway
from igw_testing.sims import running_sim, sim_settings
from igw_testing.standalone import until

PROMPT = "all that there is to know, " * 200


async def test_responses_tell_that_a_cache_is_off_and_streams_are_left_alone(tmp_path: Path) -> None:
    """BladeLLM's page says nothing of a prefix cache; `cached_tokens` in its responses does."""
    settings = sim_settings("quiet", "fixed:2", dialect="bladellm", prefix_cache=False, models=(MODEL,))
    async with running_sim(settings) as sim:
        address = f"{sim.address[0]}:{sim.address[1]}"
        async with running_gateway(tmp_path, [address]) as gateway:
            await gateway.sees(address)

            async def asked_and_found_out() -> bool:
                for stream in (False, True):
                    body = {**chat_body(PROMPT), "stream": stream}
                    async with gateway.session.post(gateway.chat, json=body) as answer:
                        assert answer.status == 200
                        text = await answer.text()
                        assert text.rstrip().endswith("[DONE]" if stream else "}"), "nothing is lost"
                return (await gateway.numbers("igw_picker_endpoint_cache_trust")).get(address) == 0.0

            await until(asked_and_found_out, 30.0, gateway.picker_log)
