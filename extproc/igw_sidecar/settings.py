"""What `igw sidecar` is told."""

from dataclasses import dataclass
from enum import StrEnum

from yarl import URL

from igw_sidecar.prefillers import PRIVATE, Network


class Format(StrEnum):
    """How the engines are told of a split."""

    VLLM = "vllm"
    SGLANG = "sglang"


@dataclass(frozen=True, slots=True)
class Settings:
    """Durations are in seconds."""

    engine: URL
    format: Format = Format.VLLM
    host: str = "0.0.0.0"
    port: int = 8000
    # SGLang's bootstrap server on the prefiller; 0: the port that the picker named.
    bootstrap_port: int = 8998
    allowed: tuple[Network, ...] = PRIVATE
    connect_s: float = 5.0
    prefill_s: float = 120.0
    drain_s: float = 30.0
    max_body_bytes: int = 32 * 2**20
