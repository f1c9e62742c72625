"""The ledgers: what we sent and the engine's word make one load, counted once."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.domain import Ask, Endpoint, EngineKind, EngineLoad
from igw_extproc.inflight import DEFAULT_KV_CAPACITY, STALE_AFTER, Lease, Ledger
from igw_extproc.ledgers import Ledgers
from igw_extproc.speeds import PREFILL_S, STEP_S

BUSY = EngineLoad(EngineKind.VLLM, running=4, waiting=0, kv_usage=0.5, kv_capacity_tokens=10_000)
IDLE = EngineLoad(EngineKind.VLLM, running=0, waiting=0, kv_usage=0.0, kv_capacity_tokens=10_000)


def an_ask(prompt: int = 100, output: int = 50, adapter: str | None = None) -> Ask:
    return Ask(model="llama", prompt_tokens=prompt, output_tokens=output, adapter=adapter)


def a_ledger(load: EngineLoad | None = IDLE) -> Ledger:
    ledger = Ledger(Endpoint("10.0.0.1:8000"))
    if load is not None:
        ledger.scraped(ledger.scrape_started(), load, 0.0)
    return ledger


def a_table(*addresses: str) -> Ledgers:
    table = Ledgers()
    table.sync([Endpoint(address) for address in addresses])
    return table


class Recorder:
    """An expectation that notes what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def confirm(self) -> None:
        self.told.append("confirm")

    def withdraw(self) -> None:
        self.told.append("withdraw")

    def moved(self, slot: int, kv_capacity: int) -> "Recorder":
        self.told.append(f"moved to {slot}")
        return self


def test_an_endpoint_is_not_available_until_its_engine_answered() -> None:
    ledger = a_ledger(load=None)
    assert not ledger.available
    ledger.scraped(ledger.scrape_started(), IDLE, 1.0)
    assert ledger.available
    ledger.unreachable("timeout")
    assert (ledger.available, ledger.unreachable_reason) == (False, "timeout")


def test_without_a_scrape_the_load_is_our_own_accounting() -> None:
    ledger = a_ledger(load=None)
    ledger.reserve(an_ask(prompt=100, output=50), 40, 0.0)
    assert (ledger.requests, ledger.queued, ledger.kv_tokens, ledger.backlog_tokens) == (1, 1, 110, 60)
    assert ledger.kv_capacity == DEFAULT_KV_CAPACITY


def test_the_load_is_the_engines_word_plus_what_we_sent_since() -> None:
    ledger = a_ledger(BUSY)
    ledger.reserve(an_ask(prompt=100, output=50), 0, 1.0)
    assert (ledger.kv_tokens, ledger.queued) == (5_150, 5)
    assert ledger.kv_free == 10_000 - 5_150


def test_a_request_that_the_engine_counts_already_is_not_counted_again() -> None:
    ledger = a_ledger(IDLE)
    ledger.reserve(an_ask(prompt=100, output=50), 0, 1.0)
    mark = ledger.scrape_started()
    ledger.scraped(mark, replace(IDLE, running=1, kv_usage=0.011), 2.0)
    assert (ledger.queued, ledger.kv_tokens) == (1, 110)


def test_what_was_sent_while_the_scrape_was_under_way_is_added_to_its_word() -> None:
    ledger = a_ledger(IDLE)
    mark = ledger.scrape_started()
    ledger.reserve(an_ask(), 0, 1.0)
    ledger.scraped(mark, IDLE, 2.0)
    assert (ledger.queued, ledger.kv_tokens) == (1, 150)


def test_what_ended_since_the_scrape_is_taken_off() -> None:
    ledger = a_ledger(IDLE)
    lease = ledger.reserve(an_ask(prompt=100, output=50), 0, 1.0)
    ledger.scraped(ledger.scrape_started(), BUSY, 2.0)
    lease.close(3.0)
    assert (ledger.queued, ledger.kv_tokens) == (3, 4_850)


def test_the_load_is_never_below_zero() -> None:
    ledger = a_ledger(IDLE)
    leases = [ledger.reserve(an_ask(), 0, 1.0) for _ in range(3)]
    ledger.scraped(ledger.scrape_started(), replace(IDLE, running=1, kv_usage=0.001), 2.0)
    for lease in leases:
        lease.close(3.0)
    assert (ledger.queued, ledger.kv_tokens, ledger.backlog_tokens) == (0, 0, 0)


def test_the_queue_of_a_full_engine_counts_though_it_holds_no_kv_yet() -> None:
    full = replace(BUSY, kv_usage=1.0)
    queueing = replace(full, waiting=10)
    assert a_ledger(queueing).kv_tokens > a_ledger(full).kv_tokens
    assert a_ledger(queueing).backlog_tokens > a_ledger(full).backlog_tokens


def test_a_word_that_is_too_old_is_not_mistaken_for_an_idle_engine() -> None:
    """The engine had not yet seen our requests when it spoke; then it fell silent."""
    ledger = a_ledger(IDLE)
    for _ in range(3):
        ledger.reserve(an_ask(prompt=100, output=50), 0, 0.0)
    ledger.scraped(ledger.scrape_started(), IDLE, 1.0)
    assert ledger.queued == 0
    ledger.age(1.0 + STALE_AFTER / 2)
    assert ledger.queued == 0
    ledger.age(1.0 + STALE_AFTER)
    assert (ledger.queued, ledger.kv_tokens, ledger.backlog_tokens) == (3, 450, 300)


def test_a_busy_word_stays_when_it_grows_old() -> None:
    ledger = a_ledger(BUSY)
    ledger.age(100.0)
    assert (ledger.queued, ledger.kv_tokens) == (4, 5_000)


def test_an_engine_that_tells_nothing_is_counted_by_our_own_accounting() -> None:
    ledger = a_ledger(None)
    lease = ledger.reserve(an_ask(prompt=100, output=50), 0, 0.0)
    ledger.scraped(ledger.scrape_started(), EngineLoad(EngineKind.UNKNOWN), 1.0)
    assert (ledger.available, ledger.queued, ledger.kv_tokens) == (True, 1, 150)
    lease.close(2.0)
    assert (ledger.queued, ledger.kv_tokens) == (0, 0)


def test_an_engine_without_kv_usage_is_charged_for_the_requests_of_others() -> None:
    ledger = a_ledger(EngineLoad(EngineKind.TGI, running=2, waiting=1))
    assert (ledger.queued, ledger.kv_tokens > 0) == (3, True)


def test_the_backlog_is_what_waits_for_its_first_byte() -> None:
    ledger = a_ledger(IDLE)
    first, second = ledger.reserve(an_ask(prompt=100), 30, 0.0), ledger.reserve(an_ask(prompt=200), 0, 0.0)
    assert ledger.backlog_tokens == 270
    first.first_byte(1.0)
    first.first_byte(1.5)
    assert ledger.backlog_tokens == 200
    second.close(2.0)
    assert (ledger.backlog_tokens, ledger.requests) == (0, 1)


def test_others_queue_counts_where_it_exceeds_ours() -> None:
    ledger = a_ledger(IDLE)
    ledger.reserve(an_ask(), 0, 0.0).first_byte(0.5)
    ledger.reserve(an_ask(prompt=100), 0, 1.0)
    ledger.scraped(ledger.scrape_started(), replace(IDLE, waiting=1), 2.0)
    with_one_waiting = ledger.backlog_tokens
    ledger.scraped(ledger.scrape_started(), replace(IDLE, waiting=11), 3.0)
    assert ledger.backlog_tokens > with_one_waiting >= 100


def test_where_no_first_byte_is_seen_the_engines_queue_stands_for_the_backlog() -> None:
    """Else every request in decode would look like a prompt that still waits."""
    ledger = a_ledger(IDLE)
    old = [ledger.reserve(an_ask(prompt=100), 0, 0.0) for _ in range(3)]
    ledger.scraped(ledger.scrape_started(), replace(IDLE, running=3), 1.0)
    assert ledger.backlog_tokens == 0
    ledger.reserve(an_ask(prompt=70), 0, 2.0)
    assert ledger.backlog_tokens == 70
    for lease in old:
        lease.close(3.0)
    assert ledger.backlog_tokens == 70


def test_closing_twice_counts_once_and_a_late_first_byte_counts_nothing() -> None:
    ledger = a_ledger(IDLE)
    lease = ledger.reserve(an_ask(), 0, 0.0)
    lease.close(1.0)
    lease.close(2.0)
    lease.first_byte(3.0)
    lease.moved_to(a_ledger(IDLE))
    assert (ledger.requests, ledger.queued, ledger.kv_tokens, ledger.backlog_tokens) == (0, 0, 0, 0)


def test_a_request_retried_elsewhere_moves_with_its_load() -> None:
    one, other = a_ledger(IDLE), a_ledger(IDLE)
    lease = one.reserve(an_ask(prompt=100, output=50), 80, 0.0)
    lease.moved_to(other)
    assert (one.requests, one.kv_tokens, one.backlog_tokens) == (0, 0, 0)
    assert (other.requests, other.kv_tokens, other.backlog_tokens) == (1, 150, 100)
    lease.close(1.0)
    assert (other.requests, other.kv_tokens) == (0, 0)


def test_the_index_learns_from_the_first_byte_and_only_once() -> None:
    told = Recorder()
    lease = a_ledger().reserve(an_ask(), 0, 0.0, told)
    assert told.told == []
    lease.first_byte(1.0)
    lease.close(2.0, succeeded=False)
    assert told.told == ["confirm"]


def test_the_index_learns_nothing_from_a_failure() -> None:
    told = Recorder()
    a_ledger().reserve(an_ask(), 0, 0.0, told).close(1.0, succeeded=False)
    assert told.told == ["withdraw"]


def test_requests_in_flight_are_counted_by_adapter() -> None:
    ledger = a_ledger()
    leases = [ledger.reserve(an_ask(adapter="sql"), 0, 0.0) for _ in range(2)]
    assert ledger.adapters == {"sql": 2}
    for lease in leases:
        lease.close(1.0)
    assert ledger.adapters == {}


def test_an_endpoint_that_left_with_requests_in_flight_lets_them_end() -> None:
    table = a_table("a:1", "b:1")
    ledger = table.get("a:1")
    assert ledger is not None
    lease = ledger.reserve(an_ask(), 0, 0.0)
    table.sync([Endpoint("b:1")])
    assert (table.get("a:1"), len(table), ledger.available) == (None, 1, False)
    lease.close(1.0)
    assert ledger.requests == 0


def test_a_slot_is_given_away_only_after_its_holder_is_gone() -> None:
    gone: list[int] = []
    table = Ledgers(gone.append)
    table.sync([Endpoint("a:1"), Endpoint("b:1")])
    slot = table.select(["a:1"])[0].slot
    table.sync([Endpoint("b:1"), Endpoint("c:1")])
    assert gone == [slot]
    assert sorted(ledger.slot for ledger in table) == [0, 1]


def test_new_labels_keep_the_ledger() -> None:
    table = a_table("a:1")
    before = table.get("a:1")
    table.sync([Endpoint("a:1", {"role": "decode"})])
    assert table.get("a:1") is before
    assert before is not None
    assert before.endpoint.labels == {"role": "decode"}


def test_an_engine_that_restarted_holds_nothing() -> None:
    gone: list[int] = []
    table = Ledgers(gone.append)
    table.sync([Endpoint("a:1")])
    table.restarted("a:1")
    assert gone == [0]


def test_a_scrape_of_an_endpoint_that_left_or_came_back_changes_nothing() -> None:
    table = a_table("a:1")
    mark = table.scrape_started("a:1")
    table.sync([])
    table.scraped("a:1", mark, BUSY, 1.0)
    table.unreachable("a:1", "timeout", 1.0)
    table.restarted("a:1")
    assert table.scrape_started("a:1") is None
    table.sync([Endpoint("a:1")])
    table.scraped("a:1", mark, BUSY, 1.0)
    assert not table.select(["a:1"])[0].available


def test_statistics_are_a_snapshot() -> None:
    table = a_table("a:1")
    table.scraped("a:1", table.scrape_started("a:1"), BUSY, 1.0)
    (told,) = table.statistics()
    table.select(["a:1"])[0].reserve(an_ask(), 0, 2.0)
    assert (told.address, told.engine, told.requests, told.queued) == ("a:1", EngineKind.VLLM, 0, 4)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "first_byte", "close", "move", "scrape_started", "scraped", "age", "unreachable"]),
        st.integers(0, 20),
        st.integers(0, 5_000),
    ),
    max_size=60,
)


def use(lease: Lease, verb: str, other: Ledger, now: float) -> None:
    if verb == "first_byte":
        lease.first_byte(now)
    elif verb == "close":
        lease.close(now)
    else:
        lease.moved_to(other)


@given(STEPS)
def test_when_all_leases_are_closed_nothing_of_ours_is_left(steps: list[tuple[str, int, int]]) -> None:
    ledgers = [a_ledger(None), a_ledger(None)]
    leases: list[Lease] = []
    marks = [ledger.scrape_started() for ledger in ledgers]
    for now, (verb, which, tokens) in enumerate(steps):
        at = which % 2
        ledger = ledgers[at]
        if verb == "reserve":
            leases.append(ledger.reserve(an_ask(prompt=tokens, output=which, adapter="x" if at else None), which, now))
        elif verb == "scrape_started":
            marks[at] = ledger.scrape_started()
        elif verb == "scraped":
            ledger.scraped(marks[at], replace(BUSY, waiting=which, kv_usage=tokens / 5_000), now)
        elif verb == "age":
            ledger.age(now)
        elif verb == "unreachable":
            ledger.unreachable("gone")
        elif leases:
            use(leases[which % len(leases)], verb, ledger, now)
        assert min(ledger.queued, ledger.kv_tokens, ledger.backlog_tokens, ledger.requests) >= 0
    for lease in leases:
        lease.close(100.0)
    for ledger in ledgers:
        ledger.unreachable("end")
        assert (ledger.requests, ledger.queued, ledger.kv_tokens, ledger.backlog_tokens) == (0, 0, 0, 0)
        assert ledger.adapters == {}


def test_the_first_token_is_predicted_from_what_is_in_its_way_and_its_own_prompt() -> None:
    ledger = a_ledger(IDLE)
    idle = ledger.first_token_s(an_ask(prompt=2_000), 0)
    assert idle == pytest.approx(2_000 * PREFILL_S + 1.5 * STEP_S)
    assert ledger.first_token_s(an_ask(prompt=2_000), 1_500) == pytest.approx(idle - 1_500 * PREFILL_S)
    ledger.reserve(an_ask(prompt=4_000), 0, 0.0)
    assert ledger.first_token_s(an_ask(prompt=2_000), 0) > idle + 4_000 * PREFILL_S


def test_a_request_that_does_not_fit_is_predicted_to_wait_until_others_have_ended() -> None:
    ledger = a_ledger(replace(IDLE, running=10, kv_usage=1.0))
    small, large = an_ask(prompt=100, output=100), an_ask(prompt=2_100, output=100)
    wait = ledger.first_token_s(large, 0) - 2_100 * PREFILL_S - ledger.first_token_s(small, 0) + 100 * PREFILL_S
    # A fifth of the cache must come free, at the pace of answers of 100 tokens in doubled steps.
    assert wait == pytest.approx(0.2 * 100 * 2 * STEP_S)
