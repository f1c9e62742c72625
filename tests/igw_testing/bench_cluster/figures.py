"""Numbers of several tries, and how they are told."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some tries, and the least and the most of them."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"{self.median:.2f} s ({low:.2f} to {high:.2f}, {len(self.values)} tries)"


def tell(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)
