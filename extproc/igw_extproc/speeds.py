"""How fast each endpoint is, learned from what passes: nobody has to configure a GPU's speed.

Two numbers for each endpoint, both independent of its load: the time to compute one prompt token, from first bytes and
what was in their way; and the time of one decode step of an almost empty engine, from the engine's token counters,
less what its KV cache and its prompts cost. `level` compares them within a pool. Pure: `now` is an argument. Ledgers
feed it and keep what it finds; the scheduler calls `level`.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final, Protocol

# Seconds for one prompt token until anything is known: an 8B model on one GPU of the last years, within a factor of
# three to either side. Only its ratio to the costs below matters, and where nothing is cached not even that.
PREFILL_S: Final = 1 / 8000
# Seconds of one decode step of an engine with little to do, until anything is known.
STEP_S: Final = 0.015
# A full KV cache makes a step so many times longer. In each step the GPU reads the weights and all KV in use, and
# engines are sized so that the two are alike (13 and 7 GB on an A10 with a 7B model, 16 and 50 on an H100 with 8B, of
# which grouped attention reads the less often); what else grows with the batch comes on top.
FULL_CACHE: Final = 1.0
# What each request in the engine adds to a step, as a share of it: sampling, scheduling, streaming.
PER_REQUEST: Final = 0.0005
# No GPU is outside of these.
_PREFILL_BOUNDS: Final = (1 / 100_000, 1 / 100)
_STEP_BOUNDS: Final = (1e-4, 5.0)

# Prefill: weight of older samples when a new one comes (a memory of about sixty), how many samples the pool's speed
# weighs as much as, and how far above the expected time a sample may count: the rest is somebody else's fault.
_KEEP: Final = 63 / 64
_GUESS_SAMPLES: Final = 2.0
_MOST_TIMES: Final = 4.0
_NOISE_S: Final = 0.01
_SLACK_S: Final = 0.25
# Decode: seconds after which a sample has lost most of its weight, while others come and while none do, the tokens that
# must remain for the number to count, and the share of the time above which prompts leave too little of it to judge.
_FRESH_S: Final = 3.0
_STALE_S: Final = 30.0
_ENOUGH: Final = 20.0
_ENOUGH_S: Final = 0.25
_MOSTLY_PROMPTS: Final = 0.5
# Seconds between two comparisons of a pool's endpoints.
_LEVEL_EVERY: Final = 1.0
# Endpoints of one kind differ by less: measuring is not that exact, and chasing noise scatters prefixes.
_ALIKE: Final = 1.5
# None is taken to be so many times faster than the others: it would draw everybody by one wrong number.
_FASTEST: Final = 4.0


class Prefill:
    """Seconds for one prompt token: the slope of waiting time over the tokens that had to be computed first."""

    __slots__ = ("_n", "_x", "_xx", "_xy", "_y", "_yy", "samples", "seconds")

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = self._yy = 0.0
        self.samples = 0
        self.seconds = PREFILL_S

    def answered(self, tokens: int, seconds: float, guess: float) -> None:
        """A first byte came `seconds` after the pick, behind `tokens` prompt tokens, its own among them.

        `guess`: what the pool's endpoints take for a prompt token.
        """
        if tokens <= 0:
            return
        expected = self.seconds * tokens
        y = min(seconds, _MOST_TIMES * expected + _SLACK_S)
        self._n = self._n * _KEEP + 1.0
        self._x = self._x * _KEEP + tokens
        self._y = self._y * _KEEP + y
        self._xx = self._xx * _KEEP + tokens * tokens
        self._xy = self._xy * _KEEP + tokens * y
        self._yy = self._yy * _KEEP + y * y
        self.samples += 1
        spread = self._xx - self._x * self._x / self._n
        together = self._xy - self._x * self._y / self._n
        # Ridge regression towards the guess, which may be wrong by as much as it is: where prompts are short, or nearly
        # alike, what first bytes wait for is something else, and says nothing of the prompts.
        explained = together * together / spread if spread > 0.0 else 0.0
        noise = max((self._yy - self._y * self._y / self._n - explained) / self._n, _NOISE_S**2)
        weight = _GUESS_SAMPLES * self._xx / self._n + noise / (guess * guess)
        slope = (together + weight * guess) / (spread + weight)
        self.seconds = min(max(slope, _PREFILL_BOUNDS[0]), _PREFILL_BOUNDS[1])


class Decode:
    """Seconds between two tokens of a sequence, from counters, as it is and as it would be on an empty engine."""

    __slots__ = ("_alone", "_step")

    def __init__(self) -> None:
        self._alone = _Fading()
        self._step = _Fading()

    def observed(self, seconds: float, tokens: float, sequences: float, kv_load: float, prefill_s: float) -> None:
        """In `seconds` the engine made `tokens` with `sequences` in the mean, and computed prompts for `prefill_s`.

        A `prefill_s` as long as `seconds` tells nothing of the engine on its own: so does one that is full and throws
        requests out to compute them again, which the caller passes as infinite.
        """
        made = tokens > 0.0 and sequences >= 0.5
        spent = sequences * seconds
        self._step.add(seconds, tokens if made else 0.0, spent)
        judged = made and prefill_s <= _MOSTLY_PROMPTS * seconds
        if judged:
            spent *= (1.0 - prefill_s / seconds) / (1.0 + FULL_CACHE * kv_load)
        self._alone.add(seconds, tokens if judged else 0.0, spent)

    @property
    def step(self) -> float | None:
        """Seconds between two tokens of one sequence lately. None: too little has been seen."""
        return self._step.ratio()

    @property
    def base(self) -> float | None:
        """The same without prompts in between and with an empty cache."""
        ratio = self._alone.ratio()
        return min(max(ratio, _STEP_BOUNDS[0]), _STEP_BOUNDS[1]) if ratio is not None else None


class _Fading:
    """A sum over tokens, of which the past fades: quickly while more come, slowly while none do."""

    __slots__ = ("_sum", "_time", "_tokens")

    def __init__(self) -> None:
        self._sum = self._time = self._tokens = 0.0

    def add(self, seconds: float, tokens: float, value: float) -> None:
        """`value` for `tokens` that took `seconds`. No tokens: nothing is added."""
        keep = math.exp(-seconds / (_FRESH_S if tokens else _STALE_S))
        self._sum *= keep
        self._time *= keep
        self._tokens *= keep
        if tokens:
            self._sum += value
            self._time += seconds
            self._tokens += tokens

    def ratio(self) -> float | None:
        """The value for one token; None while little is left."""
        return self._sum / self._tokens if self._tokens >= _ENOUGH and self._time >= _ENOUGH_S else None


class Paced(Protocol):
    """What `level` needs of a ledger."""

    prefill: Prefill
    decode: Decode

    def paced(self, prefill_s: float, slower: float, base_s: float) -> None:
        """Take over: seconds for a prompt token, steps' length as a multiple of the pool's, and the pool's."""


class Levelling:
    """When a pool's endpoints are to be compared again."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self._at = 0.0

    def due(self, now: float) -> bool:
        """Whether `level` is to be called now: once in `_LEVEL_EVERY`."""
        if now < self._at:
            return False
        self._at = now + _LEVEL_EVERY
        return True


def level(ledgers: Sequence[Paced]) -> None:
    """Tell each endpoint its speed, and how its decode steps compare to the pool's.

    The pool's is the median. An endpoint differs only where it differs by more than half, and then by what is above
    that; one of which too little is known is like the median. Steps that are shorter than the median's are not
    credited: an engine with little to do has them too.
    """
    prefill = _median(ledger.prefill.seconds for ledger in ledgers if ledger.prefill.samples) or PREFILL_S
    bases = [ledger.decode.base for ledger in ledgers]
    base = _median(one for one in bases if one is not None) or STEP_S
    for ledger, own in zip(ledgers, bases, strict=True):
        slower = max(_beyond(own / base), 1.0) if own is not None else 1.0
        seen = ledger.prefill.seconds if ledger.prefill.samples else prefill
        ledger.paced(prefill * _beyond(seen / prefill), slower, base)


def _beyond(ratio: float) -> float:
    """1 if it is about that, else what is beyond."""
    if ratio > _ALIKE:
        return ratio / _ALIKE
    return max(ratio, 1 / _FASTEST) * _ALIKE if ratio < 1 / _ALIKE else 1.0


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None
