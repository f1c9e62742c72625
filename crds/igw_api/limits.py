"""What a pool takes at most, and what one API key may use of a model. Values only.

Each picker counts for itself. The operator only needs to know which pools have limits: their answers tell of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one API key may use of one model in a minute. None: any number."""

    requests: int | None = None
    tokens: int | None = None  # of prompts and answers together


@dataclass(frozen=True, slots=True)
class Limits:
    """A pool's limits. None: there is none of that kind.

    `keys` holds for each API key and model, but for the models of `models`, by the names that clients use.
    """

    concurrent: int | None = None  # requests at once, those that wait included
    per_second: int | None = None  # requests
    keys: KeyLimits | None = None
    models: Mapping[str, KeyLimits] = field(default_factory=dict)

    def of_keys(self, model: str) -> KeyLimits | None:
        """What each API key may use of `model`."""
        return self.models.get(model, self.keys)
