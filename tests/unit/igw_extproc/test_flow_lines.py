"""A line for each endpoint: each in its own order, and what is counted over all."""

from igw_extproc.flowcontrol.lines import Lines
from igw_extproc.flowcontrol.waiters import Waiter
from igw_extproc.inflight import Ledger
from igw_testing.builders import ledger
from igw_testing.waiting import waiter

HERE, THERE = ledger(1), ledger(2)


def at(place: Ledger | None, priority: int = 0) -> Waiter[object]:
    made = waiter(priority=priority)
    made.place = place
    return made


def lines(*waiters: Waiter[object]) -> Lines[object]:
    made: Lines[object] = Lines(2.5)
    for one in waiters:
        made.push(one)
    return made


def test_each_endpoint_has_its_own_head() -> None:
    here, there, anywhere = at(HERE), at(THERE, 5), at(None)
    subject = lines(here, there, anywhere)
    assert [subject.head(place, 0.0) for place in (HERE, THERE, None)] == [here, there, anywhere]
    assert (subject.highest(HERE), subject.highest(THERE), subject.highest(ledger(3))) == (0, 5, None)


def test_a_line_is_there_while_somebody_waits_in_it() -> None:
    only = at(HERE)
    subject = lines(only)
    assert subject.places() == [HERE]
    subject.served(only, 0.0)
    assert (subject.places(), len(subject), subject.head(HERE, 0.0)) == ([], 0, None)


def test_numbers_are_of_all_lines() -> None:
    subject = lines(at(HERE), at(THERE), at(THERE, -1), at(None, 3))
    assert dict(subject.lengths()) == {0: 2, -1: 1, 3: 1}
    assert (len(subject), subject.sheddable, subject.sheddable_bytes) == (4, 1, 1000)


def test_the_newest_of_the_lowest_sheddable_is_shed_wherever_it_waits() -> None:
    subject = lines(at(HERE, -1), at(HERE, -5), lowest := at(THERE, -5), at(None))
    assert subject.last_sheddable() is lowest
    assert lines(at(HERE)).last_sheddable() is None


def test_everybody_in_a_line_is_told_in_order() -> None:
    first, second, urgent = at(HERE), at(HERE), at(HERE, 1)
    subject = lines(first, second, urgent, at(THERE))
    assert subject.waiting_for(HERE) == [urgent, first, second]
    assert subject.waiting_for(ledger(3)) == []


def test_other_lines_are_shown_a_few_at_a_time_and_in_turn() -> None:
    places = [ledger(host) for host in range(1, 31)]
    subject = lines(at(None), *(at(place) for place in places))
    seen: set[int] = set()
    for _ in range(10):
        heads = list(subject.elsewhere(places[0], 4, 0.0))
        assert len(heads) <= 4
        seen.update(id(head.place) for head in heads)
    assert seen == {id(place) for place in places[1:]}


def test_all_lines_age_alike() -> None:
    low, high = at(HERE), at(HERE, 1)
    subject = lines(low, high)
    subject.age_after(0.0)
    for _ in range(8):
        head = subject.head(HERE, 1.0)
        assert head is not None
        subject.served(head, 1.0)
        if head is low:
            break
        subject.push(at(HERE, 1))
    assert subject.highest(HERE) == 1
    assert all(one is not low for one in subject.waiting_for(HERE))
