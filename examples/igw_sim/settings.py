"""What one simulated engine is told: its size and speed, what it serves, and the part that it plays."""

from dataclasses import dataclass, field

from igw_sim.lengths import Lengths
from igw_sim.model import Limits, Speed
from igw_sim.presets import ETHERNET
from igw_sim.transfer import Transfer


@dataclass(frozen=True, slots=True)
class Settings:
    """One simulated engine. `ranks` is the number of data-parallel engines behind the one port."""

    name: str
    limits: Limits
    speed: Speed
    dialect: str = "vllm"
    models: tuple[str, ...] = ("sim-model",)
    adapters: tuple[str, ...] = ()
    lengths: Lengths = field(default_factory=lambda: Lengths.parse("lognormal:128:0.7"))
    early_headers: bool = True
    ranks: int = 1
    seed: int = 0
    keep_requests: int = 1000
    # A stream's tokens are sent so many at a time, after the first; each is an event of its own all the same.
    write_every: int = 1
    # The part it plays, which SGLang's engines are told (`splits`). How KV travels, and how many seconds it waits.
    role: str = "both"
    transfer: Transfer = ETHERNET
    lease_s: float = 30.0
    # What `stop` leaves to running requests, in seconds.
    grace_s: float = 0.0
