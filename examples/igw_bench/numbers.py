"""What a few numbers come to. Pure. Called by every report."""

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest rank: the smallest value that at least `share` of all do not exceed. None of nothing."""
    if not values:
        return None
    rank = math.ceil(share * len(values))
    return sorted(values)[max(rank, 1) - 1]


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean. None of nothing."""
    return math.fsum(values) / len(values) if values else None
