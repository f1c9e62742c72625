"""What is broken in a run: drawn from a seed, and what became of it. Pure. Times are seconds of one clock.

Called by `scenario`, and by the homes, which say what they have.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

# Long enough to be noticed by a scrape and a health check, short enough that a client waits for it.
SHORTEST_S: Final = 2.5
LONGEST_S: Final = 4.5


class Kind(StrEnum):
    """What is done to a part."""

    KILL = "kill"
    FREEZE = "freeze"
    SLOW = "slow"
    CORRUPT = "corrupt"


class Who(StrEnum):
    """Whom of those that serve requests a choice is about."""

    NOBODY = "nobody"
    ENGINE = "one engine"
    ENGINES = "all engines"
    STANDBY = "the standby"
    ALL = "all engines and the standby"


@dataclass(frozen=True, slots=True)
class Choice:
    """Something that can be broken in a home.

    `how`: which way of corrupting. `harmless`: whom it concerns can serve all the same. `gate`: all requests go through
    the part and end with it. `restarts`: a process whose memory is watched ends.
    """

    part: str
    kind: Kind
    how: str = ""
    who: Who = Who.NOBODY
    harmless: bool = False
    gate: bool = False
    restarts: bool = False

    def __str__(self) -> str:
        """Such as `engine corrupt (metrics)`."""
        return f"{self.part} {self.kind}" + (f" ({self.how})" if self.how else "")


@dataclass(frozen=True, slots=True)
class Planned:
    """A choice, for how long, and on whom of those that serve."""

    choice: Choice
    seconds: float
    servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done. It began, was undone or undid itself, and all was as before; `back` is None if it never was."""

    choice: Choice
    servers: frozenset[str]
    began: float
    mended: float
    back: float | None

    def during(self, first: float, last: float) -> bool:
        """Whether any of it was within this time."""
        return self.began <= last and (self.back is None or self.back >= first)

    @property
    def breaks(self) -> bool:
        """Whether what a part carries is lost with it. Who is frozen or slow goes on with it."""
        return self.choice.kind in (Kind.KILL, Kind.CORRUPT) and not self.choice.harmless

    @property
    def unfit(self) -> frozenset[str]:
        """Those that cannot serve meanwhile."""
        return frozenset() if self.choice.harmless or self.choice.kind is Kind.SLOW else self.servers


def rounds(choices: Sequence[Choice], engines: Sequence[str], standby: str, rng: Random) -> Iterator[Planned]:
    """All choices in any order, but part by part in turn; then again and again those that leave the watched processes
    alive: memory that grows shows only in a process that lives."""
    todo = list(choices)
    while True:
        rng.shuffle(todo)
        for choice in _in_turn(todo):
            yield Planned(choice, rng.uniform(SHORTEST_S, LONGEST_S), _servers(choice.who, engines, standby, rng))
        todo = [choice for choice in choices if not choice.restarts]


def _in_turn(choices: Sequence[Choice]) -> Sequence[Choice]:
    """First one of each part, then the second of each that has two, and so on."""
    had: Counter[str] = Counter()
    turns = []
    for choice in choices:
        turns.append(had[choice.part])
        had[choice.part] += 1
    return [choice for _, choice in sorted(zip(turns, choices, strict=True), key=lambda one: one[0])]


def _servers(who: Who, engines: Sequence[str], standby: str, rng: Random) -> tuple[str, ...]:
    return {
        Who.NOBODY: (),
        Who.ENGINE: (rng.choice(engines),),
        Who.ENGINES: tuple(engines),
        Who.STANDBY: (standby,),
        Who.ALL: (*engines, standby),
    }[who]
