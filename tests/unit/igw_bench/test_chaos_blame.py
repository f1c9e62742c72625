"""Whose fault a failed request is: the rules one by one, and what holds whatever happens."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_bench.chaos.blame import NOTICED_S, Asked, Servers, Verdict, judge
from igw_bench.chaos.faults import Choice, Fault, Kind, Who

SERVERS = Servers(frozenset({"one", "two"}), "cloud")
NAMES = ("", "one", "two", "cloud")


def fault(
    part: str = "engine",
    kind: Kind = Kind.KILL,
    *servers: str,
    harmless: bool = False,
    gate: bool = False,
    began: float = 10.0,
    back: float | None = 20.0,
) -> Fault:
    choice = Choice(part, kind, harmless=harmless, gate=gate)
    return Fault(choice, frozenset(servers), began, began + 3.0, back)


def unanswered(sent: float = 12.0, ended: float = 13.0, status: int = 0, server: str = "") -> Asked:
    return Asked(sent, ended, server=server, status=status, problem="lost")


def cut(server: str, sent: float = 9.0, ended: float = 11.0) -> Asked:
    return Asked(sent, ended, begun=sent + 0.1, server=server, status=200, problem="cut")


def verdict(asked: Asked, *faults: Fault) -> Verdict:
    return judge(asked, faults, SERVERS).verdict


def test_an_answer_that_is_whole_is_answered_whatever_was_broken() -> None:
    good = Asked(12.0, 13.0, 12.1, "one", 200)
    assert verdict(good, fault("Envoy", gate=True)) is Verdict.ANSWERED


@pytest.mark.parametrize("kind", [Kind.KILL, Kind.CORRUPT])
def test_a_stream_is_lost_with_the_engine_that_carried_it_and_with_no_other(kind: Kind) -> None:
    broken = fault("engine", kind, "one")
    assert verdict(cut("one"), broken) is Verdict.UNAVOIDABLE
    assert judge(cut("one"), [broken], SERVERS).fault is broken
    assert verdict(cut("two"), broken) is Verdict.CUT


@pytest.mark.parametrize("kind", [Kind.FREEZE, Kind.SLOW])
def test_who_is_frozen_or_slow_loses_nothing(kind: Kind) -> None:
    """It goes on with what it has, and the client is patient."""
    assert verdict(cut("one"), fault("engine", kind, "one")) is Verdict.CUT
    assert verdict(unanswered(), fault("Envoy", kind, gate=True)) is Verdict.AVOIDABLE


def test_a_stream_that_breaks_with_the_picker_is_cut_by_a_part_that_did_not_carry_it() -> None:
    assert verdict(cut("one"), fault("picker")) is Verdict.CUT
    assert verdict(cut("one")) is Verdict.CUT


def test_all_that_goes_through_a_killed_proxy_is_lost_with_it_until_it_is_back() -> None:
    killed = fault("Envoy", gate=True)
    assert verdict(unanswered(), killed) is Verdict.UNAVOIDABLE
    assert verdict(cut("one"), killed) is Verdict.UNAVOIDABLE
    assert verdict(unanswered(20.1, 20.2), killed) is Verdict.AVOIDABLE


def test_an_engines_own_error_is_its_fault_and_a_refusal_by_the_gateway_is_not() -> None:
    broken = fault("engine", Kind.CORRUPT, "one")
    assert verdict(unanswered(status=500, server="one"), broken) is Verdict.UNAVOIDABLE
    assert verdict(unanswered(status=500, server="two"), broken) is Verdict.AVOIDABLE
    assert verdict(unanswered(status=503), broken) is Verdict.AVOIDABLE


def test_a_wrong_metrics_page_excuses_nothing() -> None:
    garbled = fault("engine", Kind.CORRUPT, "one", "two", harmless=True)
    assert verdict(unanswered(), garbled) is Verdict.AVOIDABLE
    assert verdict(cut("one"), garbled) is Verdict.CUT


def test_without_engines_the_standby_serves_what_is_sent_after_that_can_be_known() -> None:
    dead = fault("all engines", Kind.KILL, "one", "two")
    late = 10.0 + NOTICED_S
    assert verdict(unanswered(sent=late - 0.1, ended=late), dead) is Verdict.UNAVOIDABLE
    assert verdict(unanswered(sent=late + 0.1, ended=late + 1), dead) is Verdict.AVOIDABLE
    all_dead = fault("all", Kind.KILL, "one", "two", "cloud")
    assert verdict(unanswered(sent=late + 0.1, ended=late + 1), all_dead) is Verdict.UNAVOIDABLE


def test_a_dead_standby_alone_excuses_nothing() -> None:
    assert verdict(unanswered(), fault("standby", Kind.KILL, "cloud")) is Verdict.AVOIDABLE


times = st.floats(0, 100, allow_nan=False)
choices = st.builds(
    Choice,
    st.just("part"),
    st.sampled_from(Kind),
    who=st.sampled_from(Who),
    harmless=st.booleans(),
    gate=st.booleans(),
)
faults = st.builds(
    lambda choice, servers, began, lasts, over: Fault(
        choice, servers, began, began + lasts, began + 2 * lasts if over else None
    ),
    choices,
    st.frozensets(st.sampled_from(NAMES[1:])),
    times,
    times,
    st.booleans(),
)
requests = st.builds(
    lambda sent, lasts, begun, server, status, problem: Asked(
        sent, sent + lasts, sent + lasts / 2 if begun else None, server, status, problem
    ),
    times,
    times,
    st.booleans(),
    st.sampled_from(NAMES),
    st.sampled_from([0, 200, 500, 503]),
    st.sampled_from(["", "lost"]),
)


@given(requests, st.lists(faults, max_size=5))
def test_only_what_was_broken_meanwhile_excuses_a_failure(asked: Asked, broken: list[Fault]) -> None:
    judged = judge(asked, broken, SERVERS)
    assert (judged.verdict is Verdict.ANSWERED) == (not asked.problem)
    assert (judged.fault is not None) == (judged.verdict is Verdict.UNAVOIDABLE)
    if judged.fault is not None:
        assert judged.fault in broken
        assert judged.fault.began <= asked.ended
        assert (math.inf if judged.fault.back is None else judged.fault.back) >= asked.sent


@given(requests, st.lists(faults, max_size=5), faults)
def test_one_more_fault_never_makes_a_failure_worse(asked: Asked, broken: list[Fault], more: Fault) -> None:
    """What was excused stays so, in whatever order faults are told."""
    before = judge(asked, broken, SERVERS).verdict
    with_more = {judge(asked, told, SERVERS).verdict for told in ([*broken, more], [more, *broken])}
    assert len(with_more) == 1
    assert with_more == {before} or before in (Verdict.AVOIDABLE, Verdict.CUT)
