"""The official OpenAI client is content with the simulated engine."""

import openai
import pytest

from igw_testing.sims import RunningSim, running_sim, sim_settings


def openai_client(sim: RunningSim) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{sim.url}/v1", api_key="none", max_retries=0, timeout=20)


async def test_chat_whole_and_streamed() -> None:
    async with running_sim() as sim, openai_client(sim) as client:
        whole = await client.chat.completions.create(model="sim-model", messages=[{"role": "user", "content": "hi"}])
        stream = await client.chat.completions.create(
            model="sim-model",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8


async def test_completions_whole_and_streamed() -> None:
    async with running_sim() as sim, openai_client(sim) as client:
        whole = await client.completions.create(model="sim-model", prompt="hi", max_tokens=4)
        stream = await client.completions.create(model="sim-model", prompt="hi", max_tokens=4, stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream])
    assert text == whole.choices[0].text
    assert whole.choices[0].finish_reason == "length"


async def test_responses_whole_and_streamed() -> None:
    async with running_sim() as sim, openai_client(sim) as client:
        whole = await client.responses.create(model="sim-model", input="hi")
        stream = await client.responses.create(model="sim-model", input="hi", stream=True)
        received = [event async for event in stream]
    assert received[-1].type == "response.completed"
    assert received[-1].response.output_text == whole.output_text
    assert "".join(event.delta for event in received if event.type == "response.output_text.delta") == whole.output_text


async def test_embeddings_in_both_encodings() -> None:
    async with running_sim() as sim, openai_client(sim) as client:
        packed = await client.embeddings.create(model="sim-model", input=["a", "b"])
        plain = await client.embeddings.create(model="sim-model", input=["a", "b"], encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)


async def test_models_and_errors() -> None:
    async with running_sim(sim_settings(models=("one", "two"))) as sim, openai_client(sim) as client:
        assert [model.id async for model in client.models.list()] == ["one", "two"]
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="three", prompt="hi")
        with pytest.raises(openai.BadRequestError):
            await client.completions.create(model="one", prompt="hi", max_tokens=0)
        await sim.server.break_with({"errors": 1})
        with pytest.raises(openai.InternalServerError):
            await client.completions.create(model="one", prompt="hi")
