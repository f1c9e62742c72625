"""Engine sizes and speeds by name or from a file, for `igw sim --preset` and for benchmarks.

The numbers are estimates from public hardware figures, not measurements: the time of a decode step is the weights
over the memory bandwidth plus launch overhead, a KV token costs its bytes over the bandwidth, and the KV cache is
what the weights leave free. A sequence costs what the engine's own Python does for it in each step. KV moves between
engines over the network that such machines usually have: 25 Gb/s, or 400 Gb/s for each of the H100s.
"""

from dataclasses import dataclass
from pathlib import Path

import orjson

from igw_sim.model import Limits, Speed
from igw_sim.transfer import Transfer

# Tokens of half a megabyte over 25 Gb/s.
ETHERNET = Transfer(524_288, 3.1e9, setup_s=0.003)


@dataclass(frozen=True, slots=True)
class Preset:
    """How large, how fast, and how fast its KV reaches another engine."""

    limits: Limits
    speed: Speed
    transfer: Transfer = ETHERNET


PRESETS = {
    # 24 GB and 600 GB/s: 13.5 GB of weights, 0.5 MB for each KV token, about 14,000 of them; 30 ms for one token.
    # The time per sequence is that of vLLM 0.3, which scheduled, sampled, detokenized and streamed between two steps;
    # in vLLM's own profile of 0.5, on a faster GPU, that took longer than the GPU worked (its notes on 0.6.0).
    # 0.25 ms also gives the published duration of workload A (docs/benchmarks/policies.md).
    "a10-llama2-7b": Preset(
        Limits(kv_blocks=875, max_sequences=256, max_batched_tokens=2048, max_model_tokens=4096),
        Speed(3500, decode_step_s=0.0285, decode_per_seq_s=2.5e-4, decode_per_kv_token_s=0.9e-6, adapter_load_s=0.1),
        ETHERNET,
    ),
    # 24 GB and 300 GB/s; grouped attention takes a quarter of the KV bytes.
    "l4-llama3-8b": Preset(
        Limits(kv_blocks=2000, max_sequences=256, max_batched_tokens=2048, max_model_tokens=8192),
        Speed(2500, decode_step_s=0.055, decode_per_seq_s=1e-4, decode_per_kv_token_s=0.45e-6, adapter_load_s=0.1),
        Transfer(131_072, 3.1e9, setup_s=0.003),
    ),
    # 80 GB and 3.35 TB/s.
    "h100-llama3-8b": Preset(
        Limits(kv_blocks=25_000, max_sequences=256, max_batched_tokens=8192, max_model_tokens=32_768),
        Speed(25_000, decode_step_s=0.0065, decode_per_seq_s=2e-5, decode_per_kv_token_s=0.045e-6, adapter_load_s=0.03),
        Transfer(131_072, 50e9, setup_s=0.002),
    ),
    # Four of them, tensor parallel.
    "h100x4-llama3-70b": Preset(
        Limits(kv_blocks=27_000, max_sequences=256, max_batched_tokens=8192, max_model_tokens=32_768),
        Speed(9000, decode_step_s=0.0165, decode_per_seq_s=4e-5, decode_per_kv_token_s=0.03e-6, adapter_load_s=0.05),
        Transfer(327_680, 200e9, setup_s=0.002),
    ),
    # No real machine: small and quick, so that a test reaches every limit soon.
    "tiny": Preset(
        Limits(kv_blocks=256, max_sequences=8, max_batched_tokens=512, max_model_tokens=4096),
        Speed(100_000, decode_step_s=0.002, decode_per_seq_s=1e-5, decode_per_kv_token_s=1e-8, adapter_load_s=0.001),
        Transfer(1_000, 1e9, setup_s=0.001),
    ),
}


def load(name: str) -> Preset:
    """One of PRESETS, or a JSON file: `{"limits": {...}, "speed": {...}}` with the fields of these, and of `transfer`.

    ValueError for anything else.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if path.suffix != ".json":
        raise ValueError(f"{name}: no such preset; there are {', '.join(PRESETS)}, or a .json file")
    try:
        data = orjson.loads(path.read_bytes())
        transfer = {"transfer": Transfer(**data["transfer"])} if "transfer" in data else {}
        return Preset(Limits(**data["limits"]), Speed(**data["speed"]), **transfer)
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{name}: not a preset: {type(error).__name__}: {error}") from None
