"""A pool's queue: who gets in, who is next, who has waited too long, and that everybody leaves exactly once."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from igw_extproc.flowcontrol.queue import FlowQueue
from igw_extproc.flowcontrol.waiters import End, Limits, Refused, Waiter, held_bytes
from igw_testing.waiting import ask

LIMITS = Limits(max_size=4, wait_timeout=10.0, retry_period=1.0, max_bytes=10_000)


class Queue:
    """A queue whose clock and requests are named in a test."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.queue: FlowQueue[str] = FlowQueue(limits)
        self.now = 0.0
        self.capacity = True

    def comes(self, name: str, priority: int = 0, size: int = 1000, tenant: str = "") -> Waiter[str] | None:
        """It waits, or is refused; nobody else is."""
        waiter, refused = self.offers(name, priority, size, tenant)
        assert waiter is None or not refused
        return waiter

    def offers(
        self, name: str, priority: int = 0, size: int = 1000, tenant: str = ""
    ) -> tuple[Waiter[str] | None, list[Refused[str]]]:
        """What offering it leads to."""
        return self.queue.offer(name, ask(priority=priority), tenant, size, self.now, self.capacity)

    def dispatches(self) -> str | None:
        """The next one."""
        head = self.queue.head(self.now)
        return None if head is None else self.queue.dispatched(head, self.now)

    def puts_aside(self) -> None:
        """The next one has nowhere to go."""
        head = self.queue.head(self.now)
        assert head is not None
        self.queue.set_aside(head, self.now)

    def expires(self) -> list[tuple[str, End]]:
        """Who is refused now, and why."""
        return [(one.payload, one.refusal.reason) for one in self.queue.expire(self.now, self.capacity)]

    def ends(self) -> dict[str, int]:
        """How many left, by how."""
        return {end: count for end, count in self.queue.statistics(self.now).ends.items() if count}


def waiting(*names: str, limits: Limits = LIMITS) -> Queue:
    subject = Queue(limits)
    for name in names:
        assert subject.comes(name) is not None
    return subject


def test_requests_go_in_order_of_arrival() -> None:
    subject = waiting("first", "second")
    assert [subject.dispatches(), subject.dispatches(), subject.dispatches()] == ["first", "second", None]
    assert subject.ends() == {End.DISPATCHED: 2}


def test_the_defaults_are_those_that_the_policy_promises() -> None:
    assert Limits() == Limits(max_size=512, wait_timeout=10.0, retry_period=1.0, max_bytes=128 << 20)


def test_when_it_is_full_the_next_is_refused() -> None:
    subject = waiting("a", "b", "c", "d")
    waiter, (refused,) = subject.offers("e")
    assert waiter is None
    assert (refused.payload, refused.refusal.reason, refused.refusal.capacity) == ("e", End.FULL, True)
    assert len(subject.queue) == 4


def test_a_pool_without_endpoints_says_so() -> None:
    """503 rather than 429; and until then requests wait there as well, since endpoints may be on their way."""
    subject = waiting("a", "b", "c", "d")
    subject.capacity = False
    (refused,) = subject.offers("e")[1]
    assert not refused.refusal.capacity


def test_a_size_of_nothing_refuses_all() -> None:
    assert Queue(replace(LIMITS, max_size=0)).comes("a") is None


def test_bytes_are_bounded_too() -> None:
    subject = Queue()
    assert subject.comes("a", size=6000) is not None
    assert subject.comes("b", size=6000) is None
    assert subject.comes("c", size=4000) is not None


def test_a_flood_of_large_requests_holds_no_more_than_the_budget() -> None:
    subject = Queue(Limits(max_size=10_000))
    body = bytes(400_000)
    kept = [subject.comes(f"r{at}", size=held_bytes(ask(), body)) for at in range(10_000)]
    assert sum(one is not None for one in kept) == (128 << 20) // held_bytes(ask(), body)
    assert subject.queue.statistics(0.0).bytes <= 128 << 20


def test_where_the_proxy_holds_the_bodies_ten_thousand_long_prompts_fit() -> None:
    prompt = ask()._replace(prefix=tuple((at << 40, at) for at in range(55)))
    subject: FlowQueue[int] = FlowQueue(Limits(max_size=10_000))
    for at in range(10_000):
        waiter, _ = subject.offer(at, prompt, "", held_bytes(prompt, None), 0.0, capacity=True)
        assert waiter is not None


def test_who_waits_too_long_is_refused() -> None:
    subject = waiting("a")
    subject.now = 4.0
    subject.comes("b")
    assert subject.queue.due() == 10.0
    subject.now = 9.99
    assert subject.expires() == []
    subject.now = 10.0
    assert subject.expires() == [("a", End.EXPIRED)]
    assert subject.queue.due() == 14.0


def test_nothing_is_due_when_nobody_waits() -> None:
    subject = waiting("a")
    subject.dispatches()
    assert subject.queue.due() is None


def test_a_client_that_goes_leaves_at_once() -> None:
    subject = Queue()
    gone = subject.comes("a")
    assert gone is not None
    subject.queue.leave(gone, 1.0)
    subject.queue.leave(gone, 2.0)
    assert (len(subject.queue), gone.end, gone.payload) == (0, End.GONE, None)
    assert subject.dispatches() is None
    assert subject.ends() == {End.GONE: 1}


def test_sheddable_requests_are_refused_while_others_wait() -> None:
    subject = waiting("a")
    (refused,) = subject.offers("batch", priority=-1)[1]
    assert refused.refusal.reason is End.SHED


def test_sheddable_requests_wait_where_nobody_else_does() -> None:
    subject = Queue()
    assert subject.comes("batch", priority=-1) is not None
    assert subject.dispatches() == "batch"


def test_sheddable_requests_give_their_places_to_others() -> None:
    subject = Queue()
    for name in ("b1", "b2", "b3", "b4"):
        subject.comes(name, priority=-1)
    waiter, (shed,) = subject.offers("a")
    assert waiter is not None
    assert (shed.payload, shed.refusal.reason) == ("b4", End.SHED)
    assert subject.dispatches() == "a"


def test_sheddable_requests_give_their_bytes_to_others() -> None:
    subject = Queue()
    for name in ("b1", "b2", "b3"):
        subject.comes(name, priority=-1, size=3000)
    waiter, shed = subject.offers("a", size=5000)
    assert waiter is not None
    assert [one.payload for one in shed] == ["b3", "b2"]
    assert subject.queue.statistics(0.0).bytes == 8000


def test_none_is_shed_for_one_that_could_not_come_in_anyway() -> None:
    subject = Queue()
    subject.comes("batch", priority=-1)
    waiter, (refused,) = subject.offers("huge", size=10_001)
    assert (waiter, refused.payload) == (None, "huge")
    assert len(subject.queue) == 1


def test_sheddable_requests_are_not_shed_for_each_other() -> None:
    subject = Queue()
    for name in ("b1", "b2", "b3", "b4"):
        subject.comes(name, priority=-2)
    (refused,) = subject.offers("b5", priority=-1)[1]
    assert (refused.payload, refused.refusal.reason) == ("b5", End.FULL)


def test_one_that_cannot_be_placed_lets_others_go_first_and_is_tried_again() -> None:
    subject = waiting("a", "b")
    subject.puts_aside()
    assert subject.queue.due() == 1.0
    assert (subject.dispatches(), subject.dispatches()) == ("b", None)
    assert subject.queue.statistics(0.0).aside == 1
    subject.now = 1.0
    assert subject.expires() == []
    subject.comes("c")
    assert subject.dispatches() == "a"


def test_one_that_cannot_be_placed_is_tried_again_until_its_time_is_over() -> None:
    subject = waiting("a")
    for _ in range(9):
        subject.puts_aside()
        subject.now += 1.0
        assert subject.expires() == []
    subject.puts_aside()
    subject.now += 1.0
    (refused,) = subject.queue.expire(subject.now, True)
    assert (refused.payload, refused.refusal.reason) == ("a", End.UNPLACED)
    assert len(subject.queue) == 0


@pytest.mark.parametrize("end", [End.GONE, End.UNPLACED])
def test_one_that_was_set_aside_may_end_there(end: End) -> None:
    subject = Queue(replace(LIMITS, retry_period=20.0))
    waiter = subject.comes("a")
    subject.puts_aside()
    assert waiter is not None
    if end is End.GONE:
        subject.queue.leave(waiter, 1.0)
    else:
        subject.now = 10.0
        subject.expires()
    assert subject.ends() == {end: 1}
    assert (len(subject.queue), subject.queue.due()) == (0, None)


def test_new_limits_hold_for_who_comes_next() -> None:
    subject = waiting("a", "b")
    subject.queue.limits = replace(LIMITS, max_size=1, wait_timeout=1.0)
    assert subject.queue.limits.max_size == 1
    assert subject.comes("c") is None
    subject.now = 5.0
    assert subject.expires() == []
    subject.dispatches()
    subject.dispatches()
    assert subject.comes("d") is not None
    assert subject.queue.due() == 6.0


def test_when_the_pool_goes_everybody_is_refused() -> None:
    subject = waiting("a", "b", "c")
    subject.puts_aside()
    refused = subject.queue.close(2.0)
    assert {one.payload for one in refused} == {"a", "b", "c"}
    assert {one.refusal.capacity for one in refused} == {False}
    assert len(subject.queue) == 0


def test_a_refused_client_is_told_when_the_queue_will_have_drained() -> None:
    subject = Queue(replace(LIMITS, max_size=40, max_bytes=1 << 20))
    for at in range(40):
        subject.comes(f"r{at}")
    for _ in range(20):
        subject.now += 0.5
        subject.dispatches()
        subject.comes("next")
    (refused,) = subject.offers("late")[1]
    assert refused.refusal.retry_after == pytest.approx(20, abs=2)
    assert subject.queue.statistics(subject.now).rate == pytest.approx(2.0, rel=0.1)


def test_before_anything_is_measured_a_refused_client_is_told_the_timeout() -> None:
    """By then all that wait now have been dispatched or refused."""
    subject = waiting("a", "b", "c", "d")
    assert subject.offers("e")[1][0].refusal.retry_after == 10


def test_memory_does_not_grow_with_those_that_came_and_went() -> None:
    subject = Queue(replace(LIMITS, max_size=10))
    subject.comes("stays")
    for at in range(5000):
        gone = subject.comes(f"r{at}")
        assert gone is not None
        subject.queue.leave(gone, 0.0)
    assert len(subject.queue._deadlines) <= 2 + 65


class Life(RuleBasedStateMachine):
    """Anything in any order: requests come, go, are dispatched, set aside, and time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FlowQueue[int] = FlowQueue(Limits(6, 10.0, 1.0, 10_000))
        self.now = 0.0
        self.waiters: dict[int, Waiter[int]] = {}
        self.ended: Counter[int] = Counter()
        self.count = 0

    def refuse(self, refused: list[Refused[int]]) -> None:
        for one in refused:
            self.ended[one.payload] += 1
            assert 1 <= one.refusal.retry_after <= 60

    @rule(priority=st.integers(-2, 2), tenant=st.sampled_from("abc"), size=st.integers(1, 6000), capacity=st.booleans())
    def comes(self, priority: int, tenant: str, size: int, capacity: bool) -> None:
        self.count += 1
        waiter, refused = self.queue.offer(self.count, ask(priority=priority), tenant, size, self.now, capacity)
        self.refuse(refused)
        if waiter is not None:
            self.waiters[self.count] = waiter

    @precondition(lambda self: self.waiters)
    @rule(which=st.integers(0, 1000))
    def leaves(self, which: int) -> None:
        name = list(self.waiters)[which % len(self.waiters)]
        if self.waiters[name].end is None:
            self.ended[name] += 1
        self.queue.leave(self.waiters[name], self.now)

    @rule()
    def dispatched(self) -> None:
        head = self.queue.head(self.now)
        if head is not None:
            assert head.priority == max(one.priority for one in self.waiting() if not one.aside) or head.priority >= 0
            self.ended[self.queue.dispatched(head, self.now)] += 1

    @rule()
    def set_aside(self) -> None:
        head = self.queue.head(self.now)
        if head is not None:
            self.queue.set_aside(head, self.now)

    @rule(seconds=st.floats(0.0, 6.0))
    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.refuse(self.queue.expire(self.now, True))
        assert all(one.expires_at > self.now for one in self.waiting())
        assert (self.queue.due() is None) == (not self.waiting())

    def waiting(self) -> list[Waiter[int]]:
        return [one for one in self.waiters.values() if one.end is None]

    @invariant()
    def nobody_is_lost_or_ends_twice(self) -> None:
        assert set(self.ended.values()) <= {1}
        assert self.count == len(self.ended) + len(self.waiting())
        statistics = self.queue.statistics(self.now)
        assert sum(statistics.ends.values()) == len(self.ended)
        assert len(self.queue) == len(self.waiting()) == sum(statistics.waiting.values()) + statistics.aside

    @invariant()
    def the_limits_hold_and_bytes_are_those_of_who_waits(self) -> None:
        held = self.queue.statistics(self.now).bytes
        assert held == sum(one.size for one in self.waiting()) <= 10_000
        assert len(self.queue) <= 6

    def teardown(self) -> None:
        self.refuse(self.queue.close(self.now))
        self.nobody_is_lost_or_ends_twice()
        assert not self.waiting()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
