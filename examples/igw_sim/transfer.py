"""What it costs to move KV from one engine to another: a share of a link that carries one transfer at a time.

Values and arithmetic only; who moves what is decided elsewhere (`handover`, or a benchmark on a virtual clock).
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Transfer:
    """How large a token's KV is, how fast a link carries it, and what each transfer takes besides."""

    bytes_per_token: float
    bytes_per_s: float
    setup_s: float = 0.0

    def seconds(self, tokens: int) -> float:
        """How long the KV of so many tokens takes on a link that carries nothing else."""
        return self.setup_s + tokens * self.bytes_per_token / self.bytes_per_s

    def faster(self, factor: float) -> "Transfer":
        """The same link, `factor` times as fast."""
        return replace(self, bytes_per_s=self.bytes_per_s * factor, setup_s=self.setup_s / factor)


class Link:
    """One engine's link. Transfers that meet on it wait for each other, in the order in which they were asked for."""

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self._free_at = 0.0

    def carry(self, tokens: int, now: float) -> float:
        """When a transfer asked for `now` is through; the setup of one overlaps with the bytes of another."""
        setup = self.transfer.setup_s
        self._free_at = max(self._free_at, now + setup) + self.transfer.seconds(tokens) - setup
        return self._free_at


def move(tokens: int, now: float, sender: Link, receiver: Link) -> float:
    """When KV asked for `now` has left one engine and reached the other."""
    return max(sender.carry(tokens, now), receiver.carry(tokens, now))
