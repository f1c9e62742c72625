"""What became of one request, and of one run of a load: the values that targets hand to `figures`.

Times are seconds from the beginning of the load, on the workload's clock: a target that runs `speed` times as fast
multiplies what it measured.
"""

from dataclasses import dataclass, field, replace

ANSWERED, REFUSED, FAILED = "answered", "refused", "failed"


class BadInput(Exception):
    """Options, a file or a target that cannot be. One line; the command ends with 2."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request.

    `due_at`: when it was to be sent. Latencies count from there, so that a sender that is late hides nothing.
    `outcome`: ANSWERED in full; REFUSED with an HTTP status of 400 or more; FAILED otherwise, `error` says how.
    `first_at`, `last_at`: the first and the last piece of the answer's text. `cached_tokens`: None if not reported.
    """

    number: int
    due_at: float
    sent_at: float
    ended_at: float
    outcome: str = ANSWERED
    first_at: float | None = None
    last_at: float | None = None
    status: int = 200
    error: str = ""
    endpoint: str = ""
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    output_tokens: int = 0

    @property
    def ttft(self) -> float | None:
        """Time to first token."""
        return None if self.first_at is None else self.first_at - self.due_at

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first. None below two tokens."""
        if self.first_at is None or self.last_at is None or self.output_tokens < 2:
            return None
        return (self.last_at - self.first_at) / (self.output_tokens - 1)

    @property
    def whole(self) -> float:
        """From due to the end of the answer."""
        return self.ended_at - self.due_at

    def on_clock(self, began: float, speed: float) -> "Sample":
        """The same on the workload's clock, of a run that began at `began` and is `speed` times as fast."""

        def at(time: float) -> float:
            return (time - began) * speed

        return replace(
            self,
            due_at=at(self.due_at),
            sent_at=at(self.sent_at),
            ended_at=at(self.ended_at),
            first_at=None if self.first_at is None else at(self.first_at),
            last_at=None if self.last_at is None else at(self.last_at),
        )


@dataclass(frozen=True, slots=True)
class Run:
    """One load under one policy. `endpoints`: those that are known beforehand, so that idle ones show too.

    Only requests due from `counted_from` on count in latencies. `seconds`: how long it took in real time. `speed`: how
    many times faster than the workload's clock that was. `busy`: share of a core that the sender took, 0 to 1.
    `outside`: the part of the mean TTFT that was not spent in engines, in real seconds; None where they do not tell.
    """

    policy: str
    seed: int
    samples: list[Sample] = field(repr=False)
    endpoints: tuple[str, ...] = ()
    counted_from: float = 0.0
    seconds: float = 0.0
    speed: float = 1.0
    busy: float | None = None
    outside: float | None = None
