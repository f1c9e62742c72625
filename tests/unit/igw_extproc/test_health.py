"""Who gets no requests for failing them, and how they come back."""

import math
from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from igw_api.resilience import PassiveHealth
from igw_extproc.domain import Endpoint
from igw_extproc.health import REST_S, Health, State, Watch
from igw_extproc.inflight import Ledger

RULES = PassiveHealth()


class Pool:
    """Some endpoints, and what was told of them."""

    def __init__(self, count: int = 3, rules: PassiveHealth = RULES) -> None:
        self.ledgers = [Ledger(Endpoint(f"10.0.0.{number}:8000", {}), number) for number in range(count)]
        self.changed: list[Ledger] = []
        self.armed: list[float] = []
        self.health = Health(self.changed.append, self.armed.append)
        self.health.serve([(rules, self.ledgers)])

    def fail(self, times: int = 3, at: int = 0, now: float = 0.0, status: int = 0) -> None:
        """Tries of one endpoint, without an answer or with a status."""
        for _ in range(times):
            self.health.failed(self.ledgers[at], status, not status, now)

    def succeed(self, times: int = 1, at: int = 0, now: float = 0.0) -> None:
        """Requests of one endpoint that begin and end now."""
        for _ in range(times):
            watch = self.health.began(self.ledgers[at])
            if watch is not None:
                self.health.ended(watch)
            self.health.went_well(self.ledgers[at], now, now)

    def out(self) -> set[int]:
        """Who gets none."""
        return {ledger.slot for ledger in self.health.out}

    def ejections(self) -> dict[tuple[str, str], int]:
        """By endpoint and reason."""
        return dict(self.health.statistics().ejections)


def state_of(watch: Watch) -> State:
    """What it is now."""
    return watch.state


def test_failures_in_a_row_eject() -> None:
    """One that goes well between them starts the count anew."""
    pool = Pool()
    pool.fail(2)
    pool.succeed()
    pool.fail(2)
    assert pool.out() == set()
    pool.fail(1)
    assert pool.out() == {0} and pool.changed == [pool.ledgers[0]] and pool.armed == [30.0]
    assert pool.health.keep(pool.ledgers) == pool.ledgers[1:]
    assert pool.ejections() == {("10.0.0.0:8000", "in-a-row"): 1}


def test_answers_from_500_count_by_their_share_alone() -> None:
    """Requests may be at fault themselves: many must fail, and half of all."""
    pool = Pool()
    pool.fail(9, status=500)
    assert pool.out() == set()
    pool.fail(1, status=500)
    assert pool.out() == {0} and list(pool.ejections()) == [("10.0.0.0:8000", "share")]


def test_a_smaller_share_does_not_eject() -> None:
    """Nor do failures of another interval count."""
    pool = Pool()
    for step in range(100):
        pool.fail(1, status=500, now=step / 100)
        pool.succeed(2, now=step / 100)
    for step in range(5):
        pool.fail(9, status=500, now=2.0 + step)
    assert pool.out() == set()


def test_gateway_errors_count_in_a_row() -> None:
    """502 and 504 come from who stands before a dead engine."""
    pool = Pool()
    pool.fail(3, status=502)
    assert pool.out() == {0}


def test_client_errors_count_for_nothing() -> None:
    """Not even in the numbers."""
    pool = Pool()
    pool.fail(1000, status=400)
    assert pool.out() == set() and not pool.health.statistics().failures


def test_a_full_endpoint_is_left_alone_for_a_second() -> None:
    """As often as it says so; it is not ejected."""
    pool = Pool()
    pool.fail(100, status=503)
    assert pool.out() == {0} and pool.ejections() == {}
    pool.health.tick(REST_S)
    assert pool.out() == set()


def test_what_full_means_is_a_matter_of_configuration() -> None:
    """Without any such status, 503 is a failure like 502."""
    pool = Pool(rules=replace(RULES, full_statuses=()))
    pool.fail(3, status=503)
    assert pool.ejections() != {}


def test_a_failing_endpoint_comes_back_by_probes_and_slowly() -> None:
    """First a few requests at a time, then one more for each that succeeds, then any number."""
    pool = Pool()
    pool.fail()
    pool.health.tick(29.9)
    assert pool.out() == {0}
    pool.health.tick(30.0)
    assert pool.out() == set()
    first, second = (pool.health.began(pool.ledgers[0]) for _ in range(2))
    assert first is not None and first is second and pool.out() == {0}, "two probes are under way"
    pool.health.ended(first)
    pool.health.went_well(pool.ledgers[0], 30.0, 31.0)
    assert state_of(first) is State.PROBED and pool.out() == set()
    pool.health.ended(first)
    pool.health.went_well(pool.ledgers[0], 30.0, 32.0)
    assert state_of(first) is State.RETURNING and first.limit == 4
    pool.succeed(5, now=33.0)
    assert first.limit == 9
    pool.health.tick(42.0)
    assert state_of(first) is State.HEALTHY and first.limit is None and pool.health.limited == {}


def test_a_probe_that_fails_ejects_for_longer() -> None:
    """Each time by the base time more, up to the longest; in health one less for each base time."""
    pool, now, seconds = Pool(), 0.0, []
    pool.fail()
    for _ in range(12):
        due = pool.health.due()
        seconds.append(due - now)
        now = due
        pool.health.tick(now)
        pool.fail(1, now=now)
    assert seconds[:3] == [30.0, 60.0, 90.0] and seconds[-1] == 300.0
    now = pool.health.due()
    pool.health.tick(now)
    pool.succeed(2, now=now)
    pool.health.tick(now + 10.0)
    later = now + 10.0 + 11 * 30.0
    pool.fail(3, now=later)
    assert pool.health.due() - later == 90.0, "13 ejections, less 11, and this one"


def test_what_was_sent_before_an_ejection_does_not_end_it() -> None:
    """Only a request that came after it shows that the endpoint works again."""
    pool = Pool()
    pool.fail(now=5.0)
    pool.health.went_well(pool.ledgers[0], 1.0, 6.0)
    pool.fail(5, now=6.0)
    assert pool.health.due() == 35.0
    pool.health.went_well(pool.ledgers[0], 5.5, 6.0)
    assert pool.out() == set(), "it was chosen for want of others"


def test_at_most_a_share_is_out_but_one_may_always_be() -> None:
    """However many fail."""
    for share, count, expected in ((0.5, 4, 2), (0.1, 3, 1), (1.0, 3, 3), (0.5, 1, 0), (1.0, 1, 1)):
        pool = Pool(count, replace(RULES, max_ejected=share))
        for at in range(count):
            pool.fail(at=at)
        assert len(pool.out()) == expected, (share, count)


def test_with_all_out_all_may_be_chosen() -> None:
    """To refuse helps nobody."""
    pool = Pool()
    for at in range(3):
        pool.fail(at=at)
    assert pool.health.keep(pool.ledgers) == pool.ledgers


def test_a_new_process_has_failed_nothing() -> None:
    """Its predecessor has."""
    pool = Pool()
    pool.fail()
    pool.health.forget(0)
    assert pool.out() == set() and math.isinf(pool.health.due())


def test_an_endpoint_that_leaves_is_forgotten() -> None:
    """Also its numbers; one that stays keeps its state, by rules that may have changed."""
    pool = Pool()
    for at in (0, 1):
        pool.fail(at=at)
    pool.health.serve([(replace(RULES, probes=5), pool.ledgers[1:])])
    assert pool.out() == {1}
    told = pool.health.statistics()
    assert all(address == "10.0.0.1:8000" for address, _ in (*told.ejections, *told.failures))
    pool.health.tick(30.0)
    assert pool.health.limited[pool.ledgers[1]].limit == 5
    pool.health.serve([(replace(RULES, enabled=False), pool.ledgers)])
    pool.fail(10, at=1)
    assert pool.out() == set() and pool.health.limited == {}


@dataclass(frozen=True)
class Step:
    """What happens at one endpoint, after some time."""

    at: int
    what: str
    wait: float


WHAT = ("lost", "500", "502", "503", "400", "begin", "good", "bad", "time")
STEPS = st.lists(
    st.builds(Step, st.integers(0, 3), st.sampled_from(WHAT), st.floats(0.0, 40.0)), min_size=1, max_size=120
)
ANY_RULES = st.builds(
    PassiveHealth,
    failures=st.integers(0, 4),
    threshold=st.sampled_from((0.0, 0.3, 0.5, 1.0)),
    min_requests=st.integers(1, 5),
    base_ejection=st.sampled_from((1.0, 30.0)),
    max_ejection=st.sampled_from((30.0, 100.0)),
    max_ejected=st.sampled_from((0.1, 0.5, 1.0)),
    probes=st.integers(1, 3),
    slow_start=st.sampled_from((0.0, 10.0)),
)


class Play:
    """Any sequence of events, by somebody who chooses only who may be chosen."""

    def __init__(self, rules: PassiveHealth) -> None:
        self.pool = Pool(4, rules)
        self.running: list[tuple[Ledger, Watch | None, float]] = []
        self.now = 0.0

    def do(self, step: Step) -> None:
        """One event."""
        pool, ledger = self.pool, self.pool.ledgers[step.at]
        self.now += step.wait
        pool.health.tick(self.now)
        if step.what == "begin":
            if ledger in pool.health.keep(pool.ledgers):
                self.running.append((ledger, pool.health.began(ledger), self.now))
        elif step.what in ("good", "bad"):
            self._end(step.what == "good")
        elif step.what != "time":
            status = 0 if step.what == "lost" else int(step.what)
            pool.health.failed(ledger, status, not status, self.now)

    def _end(self, good: bool) -> None:
        if not self.running:
            return
        ledger, watch, began = self.running.pop(0)
        if not good:
            self.pool.health.failed(ledger, 0, True, self.now)
        if watch is not None:
            self.pool.health.ended(watch)
        if good:
            self.pool.health.went_well(ledger, began, self.now)


@given(ANY_RULES, STEPS)
def test_whatever_happens_no_more_than_allowed_are_ejected_and_somebody_may_be_chosen(
    rules: PassiveHealth, steps: list[Step]
) -> None:
    """And counts of what is under way never go wrong."""
    play = Play(rules)
    pool = play.pool
    for step in steps:
        play.do(step)
        ejected = [address for address, is_out in pool.health.statistics().ejected.items() if is_out]
        assert len(ejected) <= max(1, math.floor(rules.max_ejected * 4))
        assert pool.health.keep(pool.ledgers)
        for watch in pool.health.limited.values():
            assert watch.taken == sum(1 for _, one, _ in play.running if one is watch)
            assert (watch.ledger in pool.health.out) is watch.is_out()


@given(ANY_RULES, STEPS)
def test_in_the_end_all_are_healthy_again(rules: PassiveHealth, steps: list[Step]) -> None:
    """Where time passes and requests go well."""
    play = Play(rules)
    for step in steps:
        play.do(step)
    for _ in range(len(play.running)):
        play.do(Step(0, "good", 0.0))
    for _ in range(40):
        play.do(Step(0, "time", 120.0))
        for at in range(4):
            play.pool.succeed(rules.probes, at=at, now=play.now)
    assert play.pool.out() == set() and play.pool.health.limited == {}
    assert math.isinf(play.pool.health.due())


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 2.0)), max_size=200))
def test_who_only_succeeds_is_never_out(events: list[tuple[int, float]]) -> None:
    """Whatever the others do."""
    pool, now = Pool(4), 0.0
    for at, wait in events:
        now += wait
        pool.health.tick(now)
        if at:
            pool.fail(1, at=at, now=now)
        else:
            pool.succeed(now=now)
        assert 0 not in pool.out()
