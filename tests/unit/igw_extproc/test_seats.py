"""How many requests an engine runs at once is learned where nothing else keeps others waiting, and forgotten soon."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.domain import Ask, EngineLoad
from igw_extproc.flowcontrol.room import is_open
from igw_extproc.inflight import Ledger
from igw_extproc.seats import SPARE, Seats
from igw_testing.builders import ledger, load

CAPACITY = 100_000
ASK = Ask("m", 100, 100)


def page(running: float, waiting: float, made: float | None = None, kv_usage: float | None = 0.2) -> EngineLoad:
    """A metrics page of an engine with room in its cache. `made`: tokens since its start."""
    return load(running=running, waiting=waiting, kv_usage=kv_usage, generation_tokens_total=made)


def told(*pages: EngineLoad) -> Seats:
    """What these teach."""
    subject = Seats()
    for one in pages:
        subject.told(one, CAPACITY, 500.0)
    return subject


def full(running: float, count: int = 5) -> list[EngineLoad]:
    """Pages of an engine whose seats are all taken."""
    return [page(running, 7, 100.0 * number) for number in range(count)]


def test_what_runs_while_others_wait_though_there_is_room_is_all_that_runs() -> None:
    assert told(*full(16)).known == 16
    assert told(*full(16, 4)).known == math.inf


def test_pages_that_show_places_about_to_be_taken_again_count_as_well() -> None:
    seats = [page(running, 7, float(at)) for at, running in enumerate([62, 64, 63, 62, 64, 63])]
    assert told(*seats).known == 64


def test_while_more_and_more_run_nothing_is_known() -> None:
    """A burst is let in prompt by prompt."""
    assert told(*(page(running, 50, float(running)) for running in range(1, 40))).known == math.inf


def test_several_pages_of_one_step_are_one() -> None:
    """Nothing was made in between: a long prompt is being computed."""
    assert told(*(page(3, 9, 1000.0) for _ in range(20))).known == math.inf


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(page(16, 0, 250.0), id="nobody waits"),
        pytest.param(page(16, 7, 250.0, kv_usage=0.95), id="the cache is full"),
        pytest.param(load(running=16, waiting=7, kv_usage=0.985, kv_capacity_tokens=CAPACITY), id="nobody fits"),
    ],
)
def test_pages_that_say_nothing_of_seats_begin_the_count_anew(other: EngineLoad) -> None:
    assert told(*full(16, 4), other, *full(16, 4)).known == math.inf


def test_an_engine_that_tells_nothing_of_its_cache_is_judged_by_its_queue() -> None:
    """llama.cpp, which has few slots."""
    assert told(*(page(4, 3, float(number), kv_usage=None) for number in range(5))).known == 4


def test_more_that_run_are_more_seats_and_without_a_queue_nobody_knows_how_many() -> None:
    subject = told(*full(16))
    subject.told(page(17, 3), CAPACITY, 500.0)
    assert subject.known == 17
    subject.told(page(17 + SPARE, 0), CAPACITY, 500.0)
    assert subject.known == math.inf


def test_fewer_seats_are_learned_as_well_but_a_little_less_is_chance() -> None:
    assert told(*full(64), *full(62)).known == 64
    assert told(*full(64), *full(8)).known == 8


def test_a_new_process_may_have_others() -> None:
    subject = engine(16)
    assert subject.seats.known == 16
    subject.forget_cache()
    assert subject.seats.known == math.inf


def engine(seats: float) -> Ledger:
    """One that has been full for a while, and has nothing in it but one of ours."""
    made = ledger()
    made.reserve(Ask("m", 0, 10), 0, 0.0)
    for one in [*full(seats), page(1, 0)]:
        made.scraped(made.scrape_started(), one, 0.0)
    return made


def taken(subject: Ledger) -> int:
    """How many are sent there in a burst, with no word of the engine in between."""
    before = subject.requests
    while subject.requests < 1000 and is_open(subject, ASK, 0.0):
        subject.reserve(ASK, 0, 0.0)
    return subject.requests - before


def test_a_burst_fills_the_seats_and_no_queue() -> None:
    assert taken(engine(16)) == 15 + 2
    assert taken(engine(64)) == 63 + 4, "of many seats several are given up in one step"


def test_without_seats_a_burst_may_be_as_large_as_a_second_of_prompts() -> None:
    subject = engine(16)
    subject.forget_cache()
    assert taken(subject) > 150


@given(st.integers(1, 300), st.integers(1, 300))
def test_a_wrong_number_does_not_last_once_there_is_work(believed: int, actual: int) -> None:
    """The engine runs what it is sent, up to its seats; whatever was believed, all of these are soon taken."""
    subject = Seats()
    subject.known = float(believed)
    for number in range(600):
        sent = min(subject.known + subject.spare, 1000.0)
        subject.told(page(min(sent, actual), max(sent - actual, 0.0), float(number)), CAPACITY, 100.0)
    sent = min(subject.known + subject.spare, 1000.0)
    assert sent >= actual
    assert subject.known in (actual, math.inf) or abs(subject.known - actual) < subject.spare
