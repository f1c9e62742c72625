"""Who goes to an endpoint that has room: who waits for it, else one who waits elsewhere and loses little by it."""

import random

from igw_extproc.domain import Ask
from igw_extproc.flowcontrol.queue import FlowQueue
from igw_extproc.flowcontrol.turns import LOOK, serve
from igw_extproc.flowcontrol.waiters import Limits, Waiter
from igw_extproc.inflight import Ledger
from igw_extproc.scheduling.framework import Reservation, Scheduler
from igw_extproc.scheduling.policies import POLICIES
from igw_extproc.scheduling.prefix import PrefixIndex
from igw_testing.builders import address, ledger, load

# Room for a request or two beside what the engine says.
FULL = load(running=40, waiting=5, kv_usage=0.99, kv_capacity_tokens=300_000)
ROOMY = load(running=10, kv_usage=0.1, kv_capacity_tokens=300_000)
LONG = tuple((at, at * 1000) for at in range(1, 9))


class Pool:
    """Endpoints with the real policy, and requests by name."""

    def __init__(self, *said: object) -> None:
        self.index = PrefixIndex()
        self.ledgers = [ledger(host, said=one) for host, one in enumerate(said, 1)]  # type: ignore[arg-type]
        for slot, one in enumerate(self.ledgers):
            one.slot = slot
            one.reserve(Ask("m", 0, 10), 0, 0.0)  # an endpoint without any of ours takes whatever comes
        self.queue: FlowQueue[str] = FlowQueue(Limits(max_size=10_000))
        self.leases: dict[str, Reservation] = {}
        self.went: dict[str, str] = {}
        self.forbidden: set[str] = set()
        self.asked = 0
        self._scheduler = Scheduler(POLICIES["prefix-cache"], self.index)

    def waits(self, name: str, ask: Ask, among: list[Ledger] | None = None) -> Ledger:
        """It waits for the endpoint that is best for it."""
        place = self._reserve(name, ask, among or self.ledgers)
        self.queue.offer(name, ask, "", 1, 0.0, capacity=True, place=place)
        return place

    def serve(self, at: int) -> None:
        """There may be room at that endpoint."""
        serve(self.queue, self.ledgers[at], self, 0.0)

    def extra(self, payload: str, ledger: Ledger) -> int | None:
        """By the index."""
        self.asked += 1
        lease = self.leases[payload]
        cached = self.index.match(lease.ask.prefix)
        return None if payload in self.forbidden else cached.get(lease.ledger.slot, 0) - cached.get(ledger.slot, 0)

    def chooses(self, payload: str, ledger: Ledger, now: float) -> bool:
        """By the policy."""
        before = self.leases[payload]
        before.close(now, succeeded=False)
        return self._reserve(payload, before.ask, [ledger, before.ledger]) is ledger

    def goes(self, waiter: Waiter[str], now: float) -> None:
        """Write down where."""
        name = self.queue.dispatched(waiter, now)
        self.leases[name].send(now)
        self.went[name] = self.leases[name].ledger.endpoint.address

    def _reserve(self, name: str, ask: Ask, among: list[Ledger]) -> Ledger:
        decision = self._scheduler.pick(among, ask, 0.0, random.Random(0))
        assert decision is not None
        self.leases[name] = decision.lease
        decision.lease.hold()
        return decision.lease.ledger


def ask(prompt: int = 500, prefix: tuple[tuple[int, int], ...] = (), priority: int = 0) -> Ask:
    return Ask("m", prompt, 100, prefix, None, priority)


def test_who_waits_for_an_endpoint_goes_there_when_it_has_room() -> None:
    pool = Pool(FULL)
    pool.waits("a", ask())
    pool.serve(0)
    assert pool.went == {}
    pool.ledgers[0].scraped(pool.ledgers[0].scrape_started(), ROOMY, 0.0)
    pool.serve(0)
    assert pool.went == {"a": address(1)}


def test_an_endpoint_with_room_takes_one_who_waits_elsewhere() -> None:
    pool = Pool(FULL, FULL)
    place = pool.waits("a", ask(), pool.ledgers[:1])
    assert place is pool.ledgers[0]
    pool.ledgers[1].scraped(pool.ledgers[1].scrape_started(), ROOMY, 0.0)
    pool.serve(1)
    assert pool.went == {"a": address(2)}
    assert (pool.ledgers[0].requests, pool.ledgers[0].held) == (1, 0)


def test_one_whose_prefix_is_worth_the_wait_stays() -> None:
    pool = Pool(FULL, ROOMY)
    pool.index.expect(0, LONG, 300_000)
    pool.waits("a", ask(8_500, LONG))
    pool.serve(1)
    assert pool.went == {}
    assert pool.ledgers[0].held == 1


def test_the_one_who_loses_least_is_taken() -> None:
    pool = Pool(FULL, FULL, FULL)
    pool.index.expect(0, LONG[:1], 300_000)
    pool.waits("knows", ask(1_500, LONG[:1]), pool.ledgers[:1])
    pool.waits("stranger", ask(1_500), pool.ledgers[1:2])
    pool.ledgers[2].scraped(pool.ledgers[2].scrape_started(), FULL, 0.0)
    spare = load(running=40, waiting=1, kv_usage=0.99, kv_capacity_tokens=300_000)
    pool.ledgers[2].scraped(pool.ledgers[2].scrape_started(), spare, 0.0)
    pool.serve(2)
    assert pool.went == {"stranger": address(3)}


def test_one_who_may_not_go_there_stays() -> None:
    pool = Pool(FULL, ROOMY)
    pool.forbidden.add("a")
    pool.waits("a", ask(), pool.ledgers[:1])
    pool.serve(1)
    assert pool.went == {}


def test_an_endpoint_asks_few_of_many_lines_and_others_each_time() -> None:
    pool = Pool(*[FULL] * 40, ROOMY)
    names = [f"r{at}" for at in range(40)]
    for at, name in enumerate(names):
        pool.forbidden.add(name)
        pool.waits(name, ask(), pool.ledgers[at : at + 1])
    pool.serve(40)
    assert pool.asked == LOOK
    pool.forbidden -= set(names)
    pool.serve(40)
    assert len(pool.went) > LOOK
