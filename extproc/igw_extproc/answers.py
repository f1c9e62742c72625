"""How long a model's answers are, learned from those that ended: what a request without a bound is taken to produce.

Most engines tell the picker no request's length. A streamed answer's follows from the time between its first and its
last byte and the time that its engine took for each token then. Pure; the director asks and tells.
"""

from collections.abc import Collection
from typing import Final

# Until a model's answers are known: the mean of chat traffic (ShareGPT: about 285 tokens).
DEFAULT_TOKENS: Final = 256
# So many answers weigh as much as the first guess, and so many are remembered.
_GUESS: Final = 8
_MEMORY: Final = 256
# Longer ones count as this: a single runaway must not change what thousands are taken for.
_LONGEST: Final = 8192.0


def streamed_tokens(seconds: float, begun: float | None, ended: float) -> float:
    """Tokens of an answer that took `seconds` from its first byte to its last.

    `begun`, `ended`: seconds between two tokens at its endpoint, at those two moments; the first may not be known.
    """
    return 1.0 + seconds / ((begun + ended) / 2 if begun is not None else ended)


class Answers:
    """The mean length of answers, in tokens, by pool and model."""

    __slots__ = ("_means",)

    def __init__(self) -> None:
        self._means: dict[tuple[str, str], tuple[float, int]] = {}

    def expected(self, pool: str, model: str) -> int:
        """What the next answer is taken for."""
        known = self._means.get((pool, model))
        return round(known[0]) if known is not None else DEFAULT_TOKENS

    def ended(self, pool: str, model: str, tokens: float) -> None:
        """An answer is complete."""
        mean, count = self._means.get((pool, model), (float(DEFAULT_TOKENS), _GUESS))
        count = min(count + 1, _MEMORY)
        self._means[(pool, model)] = mean + (min(tokens, _LONGEST) - mean) / count, count

    def keep(self, pools: Collection[str]) -> None:
        """Forget all other pools."""
        for key in [key for key in self._means if key[0] not in pools]:
            del self._means[key]
