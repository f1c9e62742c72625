"""Fair between tenants by tokens: nobody gains by many requests, by long ones, by leaving or by having been idle."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.flowcontrol.fairness import IDLE_TENANTS, FairQueue
from igw_testing.waiting import Line

COSTS = st.integers(1, 1000)


def test_one_tenants_requests_go_in_order_of_arrival() -> None:
    line = Line()
    first, second = line.comes("a", 500), line.comes("a", 1)
    assert line.served() is first
    assert line.served() is second
    assert line.served() is None


def test_tenants_take_turns() -> None:
    line = Line()
    for _ in range(3):
        line.comes("a", 10)
    for _ in range(3):
        line.comes("b", 10)
    assert line.tenants(6) == "ababab"


def test_turns_are_counted_in_tokens_not_in_requests() -> None:
    line = Line()
    for _ in range(3):
        line.comes("long", 300)
    for _ in range(9):
        line.comes("short", 100)
    served = Counter(waiter.tenant for waiter in line.all_served(8))
    assert served == {"long": 2, "short": 6}


def test_who_comes_back_has_saved_nothing_up() -> None:
    """Else a tenant that was idle for an hour would shut everybody out for as long."""
    line = Line()
    for _ in range(100):
        line.comes("busy ", 10)
    line.all_served(50)
    for _ in range(10):
        line.comes("back ", 10)
    assert line.tenants(6).split().count("back") == 3


def test_leaving_the_line_empty_for_a_moment_gains_nothing() -> None:
    line = Line()
    line.comes("other", 10)
    line.comes("other", 10)
    line.comes("greedy", 1000)
    assert line.tenants(2) == "othergreedy"
    line.comes("greedy", 1000)
    assert line.tenants(2) == "othergreedy"


def test_requests_that_leave_unserved_cost_their_tenant_nothing() -> None:
    line = Line()
    leaver, stays = line.comes("a", 1000), line.comes("a", 10)
    line.comes("b", 10)
    line.leaves(leaver)
    assert line.served() is stays
    assert line.tenants(1) == "b"


def test_a_tenant_that_leaves_and_returns_has_its_turn_again() -> None:
    line = Line()
    line.comes("b", 10)
    line.leaves(line.comes("a", 10))
    back = line.comes("a", 10)
    assert back in line.all_served(2)


def test_one_that_is_put_back_is_first_of_its_tenants() -> None:
    line = Line()
    first, second = line.comes("a", 10), line.comes("a", 10)
    line.leaves(first)
    line.queue.push(first, front=True)
    assert [line.served(), line.served()] == [first, second]


def test_the_newest_is_the_one_that_was_added_last() -> None:
    line = Line()
    assert line.queue.newest() is None
    line.comes("b", 10)
    newest = line.comes("a", 10)
    assert line.queue.newest() is newest


def test_made_up_tenants_that_come_and_go_leave_no_more_than_a_bounded_memory() -> None:
    line = Line()
    line.comes("stays", 10)
    for at in range(10 * IDLE_TENANTS):
        line.leaves(line.comes(f"made-up-{at}", 10))
    assert len(line.queue._flows) <= IDLE_TENANTS + 1
    assert len(line.queue._heads) <= 2 * IDLE_TENANTS + 66
    assert line.tenants(1) == "stays"


def test_with_the_last_one_all_memory_goes() -> None:
    line = Line()
    for at in range(50):
        line.comes(f"t{at}", 10)
    line.all_served(50)
    assert (len(line.queue), line.queue._flows, line.queue._heads) == (0, {}, [])


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(COSTS, min_size=1, max_size=20), min_size=2))
def test_tenants_that_wait_together_are_served_alike_but_for_one_largest_request(costs: dict[str, list[int]]) -> None:
    """All begin at once, and as long as both still wait."""
    line = Line()
    for tenant, sizes in costs.items():
        for cost in sizes:
            line.comes(tenant, cost)
    left = {tenant: len(sizes) for tenant, sizes in costs.items()}
    largest = max(cost for sizes in costs.values() for cost in sizes)
    served = dict.fromkeys(costs, 0)
    while all(left.values()):
        waiter = line.served()
        assert waiter is not None
        served[waiter.tenant] += waiter.cost
        left[waiter.tenant] -= 1
        assert max(served.values()) - min(served.values()) <= largest


@given(
    st.lists(st.tuples(st.sampled_from("xyz"), COSTS, st.booleans()), max_size=40),
    st.lists(COSTS, min_size=30, max_size=30),
)
def test_whatever_went_before_two_tenants_that_wait_differ_by_two_requests_at_most(
    before: list[tuple[str, int, bool]], costs: list[int]
) -> None:
    """The bound of start-time fair queueing for any stretch in which both wait."""
    line = Line()
    for tenant, cost, serves in before:
        line.comes(tenant, cost)
        if serves:
            line.served()
    for cost in costs:
        line.comes("x", cost)
        line.comes("y", cost)
    largest = max([*costs, *(cost for _, cost, _ in before)])
    difference, lowest, highest = 0, 0, 0
    for waiter in line.all_served(len(costs)):
        # Of each, more wait than are served here.
        difference += {"x": waiter.cost, "y": -waiter.cost}.get(waiter.tenant, 0)
        lowest, highest = min(lowest, difference), max(highest, difference)
    assert highest - lowest <= 2 * largest


@given(st.lists(st.tuples(st.sampled_from(["comes", "leaves", "served"]), st.integers(0, 5), COSTS), max_size=200))
def test_every_request_that_stays_is_served_once(steps: list[tuple[str, int, int]]) -> None:
    line = Line()
    came, left, done = [], [], []
    for what, number, cost in steps:
        if what == "comes":
            came.append(line.comes(f"t{number}", cost))
        elif what == "leaves" and (waiting := [one for one in came if one not in left and one not in done]):
            left.append(waiting[number % len(waiting)])
            line.leaves(left[-1])
        elif what == "served" and (waiter := line.served()) is not None:
            done.append(waiter)
    done += line.all_served(len(line.queue))
    assert sorted(one.sequence for one in done + left) == [one.sequence for one in came]


def test_a_queue_says_how_many_wait() -> None:
    queue: FairQueue[object] = FairQueue()
    assert len(queue) == 0
    assert queue.head() is None


# ------------------------------------------------------------------------------------------------ real use


def shares(line: Line, turns: int, used: dict[str, int]) -> Counter[str]:
    """Tokens that each tenant has really used, while each always has requests waiting that say they need 100."""
    found: Counter[str] = Counter()
    for tenant in used:
        line.comes(tenant, 100)
        line.comes(tenant, 100)
    for _ in range(turns):
        one = line.served()
        assert one is not None
        found[one.tenant] += used[one.tenant]
        line.comes(one.tenant, 100)
        one.used(used[one.tenant])
    return found


def test_who_uses_more_than_was_expected_pays_for_it_and_who_uses_less_gets_it_back() -> None:
    found = shares(Line(), 600, {"long": 400, "as said": 100, "short": 10})
    assert max(found.values()) - min(found.values()) <= 2 * 400


@given(st.lists(st.integers(0, 2000), min_size=2, max_size=5), st.integers(50, 400))
def test_tenants_share_what_is_really_used(used: list[int], turns: int) -> None:
    """Whatever was expected of their requests: nobody is behind by more than what two of the largest come to."""
    found = shares(Line(), turns, {f"t{at}": max(one, 1) for at, one in enumerate(used)})
    for tenant, tokens in found.items():
        assert tokens <= min(found.values()) + 2 * max(*used, 100) + 200, tenant


def test_what_one_gets_back_is_not_saved_up_in_idleness() -> None:
    line = Line()
    early = line.comes("back", 100)
    for _ in range(200):
        line.comes("busy", 10)
    while line.served() is not early:
        pass
    line.all_served(60)  # now the other has caught up and more
    early.used(0)
    for _ in range(10):
        line.comes("back", 10)
    assert [one.tenant for one in line.all_served(6)].count("back") == 3


def test_a_bill_is_paid_once_and_by_nobody_else() -> None:
    line = Line()
    one = line.comes("a", 100)
    assert line.served() is one
    for tenant in ("a", "b"):
        line.comes(tenant, 100)
    one.used(10_000)
    one.used(10_000)
    assert line.tenants(2) == "ab", "nobody waited any more when it was served: all began anew"
