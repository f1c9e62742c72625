"""What a run comes to: counts, times to detect and to recover, growth of memory. Pure. Called by the command."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple

from igw_bench.chaos.blame import Asked, Judged, Verdict
from igw_bench.chaos.faults import Fault
from igw_bench.numbers import percentile

# A stream that begins later than this was harmed, though it was answered. Other answers begin when they are complete.
LATE_S: Final = 2.0
# A process that is watched for less still fills caches that have a bound.
WATCHED_S: Final = 600.0
MOST_GROWTH: Final = 10.0


class Weighed(NamedTuple):
    """Resident memory of a process in MiB at a time in seconds."""

    at: float
    pid: int
    mib: float


@dataclass(frozen=True, slots=True)
class Growth:
    """Of the process of a part that was watched longest: for how long, and its memory early and late."""

    seconds: float
    early: float
    late: float

    @property
    def percent(self) -> float:
        """Below 0 where it shrank."""
        return (self.late / self.early - 1) * 100


@dataclass(frozen=True, slots=True)
class Run:
    """All that was seen in one home."""

    home: str
    standby: str
    judged: Sequence[Judged]
    faults: Sequence[Fault]
    memory: Mapping[str, Sequence[Weighed]]


def growth(weighed: Sequence[Weighed]) -> Growth | None:
    """By medians: the second fifth of the time, when all is warm, and the last one. None of fewer than ten."""
    pids = Counter(one.pid for one in weighed)
    if not pids:
        return None
    seen = [one for one in weighed if one.pid == pids.most_common(1)[0][0]]
    fifth = len(seen) // 5
    if fifth < 2:
        return None
    early, late = seen[fifth : 2 * fifth], seen[-fifth:]
    return Growth(seen[-1].at - seen[0].at, median(one.mib for one in early), median(one.mib for one in late))


def detected(fault: Fault, asked: Iterable[Asked]) -> float:
    """Seconds until the last request was sent that the fault harmed: it failed, or its stream began late. 0: none.

    What happens later than its end is the next one's.
    """
    over = fault.mended if fault.back is None else fault.back
    harmed = (one for one in asked if fault.began <= one.sent and _harmed(one, over))
    return max((one.sent - fault.began for one in harmed), default=0.0)


def _harmed(asked: Asked, before: float) -> bool:
    if asked.problem:
        return asked.ended <= before
    return asked.stream and asked.begun is not None and asked.sent + LATE_S < asked.begun <= before


def recovered(fault: Fault) -> float | None:
    """Seconds from the mending until all was as before; None if it never was."""
    return None if fault.back is None else fault.back - fault.mended


def summary(runs: Sequence[Run]) -> dict[str, float | int | None]:
    """The last line. Figures of which there is nothing are None."""
    counts = Counter(one.verdict for run in runs for one in run.judged)
    times = [seconds for run in runs for fault in run.faults if (seconds := recovered(fault)) is not None]
    p99 = percentile(times, 0.99)
    grown = [found.percent for run in runs for one in run.memory.values() if (found := growth(one)) is not None]
    return {
        "sent": counts.total(),
        "answered": counts[Verdict.ANSWERED],
        "failed_avoidable": counts[Verdict.AVOIDABLE],
        "failed_unavoidable": counts[Verdict.UNAVOIDABLE],
        "streams_cut": counts[Verdict.CUT],
        "recover_p99_s": None if p99 is None else round(p99, 2),
        "rss_growth_percent": round(max(grown), 1) if grown else None,
    }


def shortcomings(runs: Sequence[Run]) -> list[str]:
    """Why the goal is not met, a line each; empty if it is."""
    found = [] if any(run.judged for run in runs) else ["nothing was asked"]
    for run in runs:
        found += [
            f"{run.home}: {one.verdict}: {one.asked}"
            for one in run.judged
            if one.verdict in (Verdict.AVOIDABLE, Verdict.CUT)
        ]
        found += [f"{run.home}: {fault.choice} was never over" for fault in run.faults if fault.back is None]
        for part, weighed in run.memory.items():
            grown = growth(weighed)
            if grown is not None and grown.seconds >= WATCHED_S and grown.percent > MOST_GROWTH:
                found.append(f"{run.home}: {part} grew from {grown.early:.0f} to {grown.late:.0f} MiB")
    return found


def table(run: Run) -> list[str]:
    """A line for each kind of fault: how often, what failed by it, the longest times."""
    by_standby = sum(one.asked.server == run.standby and not one.asked.problem for one in run.judged)
    lines = [
        f"{len(run.judged)} requests, {by_standby} of them answered by the standby",
        f"{'fault':34} times  failed  detected s  recovered s",
    ]
    by_choice: dict[str, list[Fault]] = {}
    for fault in run.faults:
        by_choice.setdefault(str(fault.choice), []).append(fault)
    for name, faults in sorted(by_choice.items()):
        failed = sum(one.fault in faults for one in run.judged if one.fault is not None)
        noticed = max(detected(fault, [one.asked for one in run.judged]) for fault in faults)
        back = max((seconds for fault in faults if (seconds := recovered(fault)) is not None), default=None)
        told = "never" if back is None else f"{back:.2f}"
        lines.append(f"{name:34} {len(faults):5}  {failed:6}  {noticed:10.2f}  {told:>11}")
    for part, weighed in run.memory.items():
        if (grown := growth(weighed)) is not None:
            lines.append(
                f"memory of {part}: {grown.early:.1f} MiB, later {grown.late:.1f} ({grown.percent:+.1f} %), "
                f"watched for {grown.seconds:.0f} s"
            )
    return lines
