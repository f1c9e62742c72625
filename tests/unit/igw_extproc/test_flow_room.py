"""Whether to dispatch: engines are kept full, and hold no queue of their own."""

from igw_extproc.domain import Ask, Endpoint, EngineLoad
from igw_extproc.flowcontrol.room import BACKLOG, is_open
from igw_extproc.inflight import Ledger
from igw_testing.builders import ledger, load

ASK = Ask("m", 100, 100)


def full(waiting: float = 0.0) -> Ledger:
    """An engine with no KV to spare."""
    return busy(load(running=40, waiting=waiting, kv_usage=0.99, kv_capacity_tokens=10_000))


def busy(said: EngineLoad) -> Ledger:
    """An engine that says so, with one request of ours."""
    made = ledger()
    made.reserve(Ask("m", 0, 10), 0, 0.0)
    made.scraped(made.scrape_started(), said, 0.0)
    return made


def test_an_idle_endpoint_takes_any_request() -> None:
    """Whether one that is larger than the cache can be served at all is for the engine to say."""
    assert is_open(ledger(), Ask("m", 10**7, 10**6), 0.0)


def test_a_busy_endpoint_with_room_is_open() -> None:
    assert is_open(ledger(said=load(running=20, kv_usage=0.5, kv_capacity_tokens=10_000)), ASK, 0.0)


def test_a_full_engine_takes_two_more_and_no_third() -> None:
    subject = full()
    for _ in range(2):
        assert is_open(subject, ASK, 0.0)
        subject.reserve(ASK, 0, 0.0)
    assert not is_open(subject, ASK, 0.0)


def test_an_engine_with_a_queue_takes_none_until_it_is_short() -> None:
    assert not is_open(full(waiting=2), ASK, 0.0)
    assert is_open(full(waiting=1), ASK, 0.0)


def test_each_request_that_ends_makes_room_for_one() -> None:
    subject = full()
    leases = [subject.reserve(ASK, 0, 0.0) for _ in range(2)]
    assert not is_open(subject, ASK, 0.0)
    leases[0].close(1.0)
    assert is_open(subject, ASK, 1.0)


def test_a_queue_is_seen_where_the_cache_has_room() -> None:
    """An engine's seats may be taken though its cache is not."""
    assert not is_open(busy(load(running=256, waiting=3, kv_usage=0.2)), ASK, 0.0)


def test_an_endpoint_without_any_of_ours_is_open_whatever_its_engine_says() -> None:
    """Others' requests end when they please."""
    subject = ledger(said=load(running=256, waiting=99, kv_usage=1.0, kv_capacity_tokens=10_000))
    assert is_open(subject, ASK, 0.0)
    subject.reserve(ASK, 0, 0.0)
    assert not is_open(subject, ASK, 0.0)


def test_prompts_that_are_still_being_computed_are_a_queue_too() -> None:
    subject = ledger(said=load(running=1, kv_usage=0.0, kv_capacity_tokens=1_000_000))
    long = Ask("m", BACKLOG, 100)
    lease = subject.reserve(long, 0, 0.0)
    assert not is_open(subject, ASK, 0.0)
    lease.first_byte(1.0)
    assert is_open(subject, ASK, 1.0)


def test_an_engine_that_tells_nothing_is_open_while_requests_fit_by_our_own_accounting() -> None:
    subject = Ledger(Endpoint("10.0.0.1:8000"))
    subject.scraped(subject.scrape_started(), EngineLoad(), 0.0)
    for _ in range(500):
        assert is_open(subject, ASK, 0.0)
        subject.reserve(ASK, 0, 0.0)
    assert not is_open(subject, ASK, 0.0)


def test_a_silent_engine_does_not_look_open_because_it_was_once() -> None:
    subject = ledger()
    lease = subject.reserve(Ask("m", BACKLOG, 100), 0, 0.0)
    subject.scraped(subject.scrape_started(), load(), 0.0)
    assert is_open(subject, ASK, 1.0)
    assert not is_open(subject, ASK, 100.0)
    lease.close(100.0)


def test_what_waits_here_takes_no_room_there() -> None:
    subject = full()
    for _ in range(5):
        subject.reserve(ASK, 0, 0.0).hold()
    assert is_open(subject, ASK, 0.0)
    roomy = ledger(said=load(running=1, kv_usage=0.0, kv_capacity_tokens=BACKLOG + 200))
    roomy.reserve(Ask("m", BACKLOG, 100), 0, 0.0).hold()
    assert is_open(roomy, ASK, 0.0)
