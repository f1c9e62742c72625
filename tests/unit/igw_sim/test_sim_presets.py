"""Engine sizes and speeds by name or from a file, and streams that send several tokens at a time."""

import json
from dataclasses import asdict
from pathlib import Path

import aiohttp
import pytest

from igw_sim.presets import PRESETS, load
from igw_testing.sims import running_sim, sim_settings


def test_a_preset_is_known_by_name_or_read_from_a_file(tmp_path: Path) -> None:
    tiny = PRESETS["tiny"]
    (tmp_path / "mine.json").write_text(json.dumps(asdict(tiny)))
    assert load("tiny") == load(str(tmp_path / "mine.json")) == tiny


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not a preset: JSONDecodeError"),
        ('{"limits": {}}', "not a preset: TypeError"),
        ('{"limits": {"kv_blocks": 5}}', "not a preset: KeyError: 'speed'"),
        ('{"limits": {"kv_blocks": 0}, "speed": {}}', "not a preset: ValueError: kv_blocks"),
    ],
)
def test_a_file_that_is_no_preset_is_refused_with_the_reason(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        load(str(tmp_path / "bad.json"))


def test_a_file_or_a_name_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.json: No such file"):
        load(str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match="a100: no such preset; there are a10-llama2-7b"):
        load("a100")


async def test_a_stream_may_send_several_tokens_at_a_time_after_the_first() -> None:
    body = {"model": "sim-model", "stream": True, "messages": [{"role": "user", "content": "Why?"}]}
    settings = sim_settings(output_tokens="fixed:20", write_every=8, decode_step_s=0.01)
    async with (
        running_sim(settings) as sim,
        aiohttp.ClientSession() as session,
        session.post(f"{sim.url}/v1/chat/completions", json=body) as response,
    ):
        writes = [data.count(b'"content":"') async for data, _ in response.content.iter_chunks()]
    tokens = [count for count in writes if count]
    assert sum(tokens) == 20 + 1  # the role has an empty text
    assert tokens == [2, 8, 8, 3]
