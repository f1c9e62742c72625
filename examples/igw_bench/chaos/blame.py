"""Whose fault a failed request is. Pure: what clients saw and what was broken meanwhile is all that it knows.

A request that was answered in part is lost with the part that carried it, and with no other. One that was not is to be
served by any engine that can, and where none can, by the standby, once it can be known that none can.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from igw_bench.chaos.faults import Fault

# The docs promise that an engine that hangs is left out after 1 s, when the next scrape comes, at most 2.2 s later; and
# who was sent there before waits there. Later than that the standby is to take what comes.
NOTICED_S: Final = 5.0
OK: Final = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as its client saw it, in seconds of the scenario's clock.

    `server` is who answered by the answer's own word, or empty; `begun` when the first byte of the answer came;
    `problem` is empty if it is whole.
    """

    sent: float
    ended: float
    begun: float | None = None
    server: str = ""
    status: int = 0
    problem: str = ""
    stream: bool = True


class Verdict(StrEnum):
    """What became of a request; each has one."""

    ANSWERED = "answered"
    AVOIDABLE = "avoidable"
    UNAVOIDABLE = "unavoidable"
    CUT = "cut"


@dataclass(frozen=True, slots=True)
class Judged:
    """`fault` is what a failure is due to; None if nothing that was broken excuses it."""

    asked: Asked
    verdict: Verdict
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Servers:
    """Who can serve at all."""

    engines: frozenset[str]
    standby: str


def judge(asked: Asked, faults: Iterable[Fault], servers: Servers) -> Judged:
    """The verdict on one request."""
    if not asked.problem:
        return Judged(asked, Verdict.ANSWERED)
    during = [fault for fault in faults if fault.during(asked.sent, asked.ended)]
    carried = next((fault for fault in during if _carried(asked, fault)), None)
    if carried is not None:
        return Judged(asked, Verdict.UNAVOIDABLE, carried)
    if asked.begun is not None and asked.status == OK:
        return Judged(asked, Verdict.CUT)
    nobody = _nobody(asked, during, servers)
    return Judged(asked, Verdict.UNAVOIDABLE if nobody else Verdict.AVOIDABLE, nobody)


def _carried(asked: Asked, fault: Fault) -> bool:
    """Whether it went through, or was answered by, what broke."""
    return fault.breaks and (fault.choice.gate or (asked.server != "" and asked.server in fault.servers))


def _nobody(asked: Asked, during: Sequence[Fault], servers: Servers) -> Fault | None:
    """The fault that left nobody to serve it, if there is one: the last that concerns all engines."""
    of_all = [fault for fault in during if servers.engines <= fault.unfit]
    if not of_all:
        return None
    last = max(of_all, key=lambda fault: fault.began)
    noticed = asked.sent > last.began + NOTICED_S
    standby_serves = not any(servers.standby in fault.unfit for fault in during)
    return None if noticed and standby_serves else last
