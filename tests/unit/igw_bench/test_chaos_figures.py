"""What a chaos run draws from its seed, and what it comes to."""

import itertools
import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from igw_bench.chaos.blame import Asked, Judged, Servers, Verdict, judge
from igw_bench.chaos.faults import LONGEST_S, SHORTEST_S, Choice, Fault, Kind, Planned, Who, rounds
from igw_bench.chaos.figures import Run, Weighed, detected, growth, recovered, shortcomings, summary, table
from igw_bench.chaos.load import flaw

ENGINES = ("one", "two")
CHOICES = (
    Choice("picker", Kind.KILL, restarts=True),
    Choice("picker", Kind.FREEZE),
    Choice("picker", Kind.SLOW),
    Choice("engine", Kind.KILL, who=Who.ENGINE),
    Choice("engine", Kind.CORRUPT, "500", Who.ENGINE),
    Choice("all engines", Kind.KILL, who=Who.ENGINES),
    Choice("standby", Kind.KILL, who=Who.STANDBY),
    Choice("all", Kind.KILL, who=Who.ALL),
)
KILLED = Fault(CHOICES[3], frozenset({"one"}), began=10.0, mended=13.0, back=14.5)
GOOD = Judged(Asked(1.0, 2.0, 1.1, "one", 200), Verdict.ANSWERED)


def drawn(seed: int, count: int) -> list[Planned]:
    return list(itertools.islice(rounds(CHOICES, ENGINES, "cloud", Random(seed)), count))


@given(st.integers())
def test_each_part_has_its_turn_before_any_has_a_second_one(seed: int) -> None:
    """And all that can be broken is, in the first round."""
    planned = drawn(seed, len(CHOICES))
    parts = {choice.part for choice in CHOICES}
    assert {one.choice.part for one in planned[: len(parts)]} == parts
    assert sorted(str(one.choice) for one in planned) == sorted(map(str, CHOICES))


@given(st.integers())
def test_after_the_first_round_watched_processes_live(seed: int) -> None:
    assert not any(one.choice.restarts for one in drawn(seed, 40)[len(CHOICES) :])


@given(st.integers())
def test_a_seed_says_all(seed: int) -> None:
    assert drawn(seed, 20) == drawn(seed, 20)
    for one in drawn(seed, 20):
        assert SHORTEST_S <= one.seconds <= LONGEST_S
        wanted = {Who.ENGINE: 1, Who.ENGINES: 2, Who.STANDBY: 1, Who.ALL: 3, Who.NOBODY: 0}[one.choice.who]
        assert len(one.servers) == wanted


def test_detection_ends_with_the_last_request_that_was_sent_to_be_harmed() -> None:
    failed = Asked(11.0, 11.5, problem="lost")
    late = Asked(12.0, 18.0, 14.1, "two", 200)
    quick = Asked(13.0, 14.0, 13.1, "two", 200)
    long = Asked(11.5, 14.2, 14.2, "two", 200, stream=False)
    after = Asked(14.0, 15.5, problem="lost")
    assert detected(KILLED, [failed, late, quick, long, after]) == 2.0
    assert detected(KILLED, [quick, long, after]) == 0.0


def test_recovery_begins_with_the_mending() -> None:
    assert recovered(KILLED) == 1.5
    assert recovered(Fault(CHOICES[0], frozenset(), 1.0, 2.0, None)) is None


def test_growth_is_that_of_the_process_that_was_watched_longest() -> None:
    """Its first fifth is left out: caches that have a bound fill up."""
    short = [Weighed(float(at), 1, 500.0) for at in range(9)]
    steady = [Weighed(10.0 + at, 2, 50.0 if at < 20 else 100.0 + (at >= 80) * 5) for at in range(100)]
    found = growth([*short, *steady])
    assert found is not None
    assert (found.early, found.late, found.seconds) == (100.0, 105.0, 99.0)
    assert abs(found.percent - 5.0) < 1e-9
    assert growth(short) is None
    assert growth([]) is None


def run(*judged: Judged, faults: tuple[Fault, ...] = (KILLED,), mib: float = 100.0, seconds: int = 700) -> Run:
    memory = {"picker": [Weighed(float(at), 7, 100.0 if at < seconds / 2 else mib) for at in range(seconds)]}
    return Run("here", "cloud", judged, faults, memory)


def test_the_goal_is_met_when_nothing_avoidable_failed_and_all_is_as_before() -> None:
    excused = judge(Asked(11, 12, 11.1, "one", 200, "cut"), [KILLED], Servers(frozenset(ENGINES), "cloud"))
    assert shortcomings([run(GOOD, excused, mib=109.0)]) == []


def test_each_shortcoming_is_told() -> None:
    failed = Judged(Asked(1.0, 2.0, problem="lost"), Verdict.AVOIDABLE)
    broken = Judged(Asked(1.0, 2.0, 1.1, "two", 200, "cut"), Verdict.CUT)
    never = Fault(CHOICES[0], frozenset(), 1.0, 2.0, None)
    assert len(shortcomings([run(GOOD, failed)])) == 1
    assert len(shortcomings([run(GOOD, broken)])) == 1
    assert shortcomings([run(GOOD, faults=(never,))]) == ["here: picker kill was never over"]
    assert shortcomings([run(GOOD, mib=120.0)]) == ["here: picker grew from 100 to 120 MiB"]
    assert shortcomings([run(GOOD, mib=120.0, seconds=500)]) == [], "too short to say"
    assert shortcomings([run()]) == ["nothing was asked"]


verdicts = st.lists(st.sampled_from(Verdict), max_size=20)


@given(verdicts)
def test_each_request_is_counted_once(told: list[Verdict]) -> None:
    found = summary([run(*(Judged(GOOD.asked, one) for one in told))])
    names = ("answered", "failed_avoidable", "failed_unavoidable", "streams_cut")
    assert found["sent"] == len(told) == sum(found[name] or 0 for name in names)
    assert found["recover_p99_s"] == 1.5
    assert json.loads(json.dumps(found)) == found


def test_a_run_of_nothing_has_figures_too() -> None:
    found = summary([Run("here", "cloud", [], [], {})])
    assert (found["sent"], found["recover_p99_s"], found["rss_growth_percent"]) == (0, None, None)


def test_the_table_has_a_line_for_each_kind_of_fault_and_each_process() -> None:
    lines = table(run(GOOD, faults=(KILLED, KILLED)))
    assert [line.split()[:3] for line in lines[2:]] == [["engine", "kill", "2"], ["memory", "of", "picker:"]]


def test_only_a_whole_answer_has_no_flaw() -> None:
    whole = b'{"usage": {"completion_tokens": 5}}'
    assert flaw(200, b"data: [DONE]\n\n", True, 5) == ""
    assert flaw(200, whole, False, 5) == ""
    for status, tail, stream in ((500, whole, False), (200, b"data: {}\n\n", True), (200, whole[:9], False)):
        assert flaw(status, tail, stream, 5)
    assert flaw(200, whole, False, 6) == "5 of 6 tokens"
