"""How long replies are when nothing but `max_tokens` says so: a distribution, drawn from with a seed of the prompt."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

_SHAPES: dict[str, tuple[int, Callable[[Random, tuple[float, ...]], float]]] = {
    "fixed": (1, lambda _, values: values[0]),
    "uniform": (2, lambda rng, values: rng.uniform(values[0], values[1])),
    "lognormal": (2, lambda rng, values: rng.lognormvariate(math.log(values[0]), values[1])),
}


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of output lengths, in tokens."""

    shape: str
    values: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> "Lengths":
        """`fixed:N`, `uniform:LOW:HIGH` or `lognormal:MEDIAN:SIGMA`; ValueError otherwise."""
        shape, *numbers = text.split(":")
        if shape not in _SHAPES or len(numbers) != _SHAPES[shape][0]:
            raise ValueError(f"{text!r} is not fixed:N, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA")
        try:
            values = tuple(float(number) for number in numbers)
        except ValueError:
            raise ValueError(f"{text!r} has a value that is not a number") from None
        if values[0] < 1 or not all(0 <= value < math.inf for value in values):
            raise ValueError(f"{text!r} must begin at 1 token or more, and be finite")
        return cls(shape, values)

    def draw(self, rng: Random) -> int:
        """One length, at least 1."""
        return max(1, round(_SHAPES[self.shape][1](rng, self.values)))


def output_length(natural: int, limit: int, minimum: int, ignore_end: bool) -> tuple[int, str]:
    """The length of a reply and its finish reason, as vLLM has it.

    `natural` is where the model would stop. `limit` (`max_tokens`, or the room left) cuts it; `minimum`
    (`min_tokens`) stretches it; `ignore_end` (`ignore_eos`) runs to the limit.
    """
    wanted = limit if ignore_end else max(natural, minimum)
    if wanted >= limit:
        return limit, "length"
    return wanted, "stop"
