"""How far an engine's prefix cache is relied on: learnt from what it finds there, compared with what was expected."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.cache_trust import ENOUGH, CacheTrust, Expected
from igw_extproc.domain import EngineKind, EngineLoad
from igw_extproc.openai import Usage
from igw_testing.builders import Picking, address, arrived, chat
from igw_testing.placing import LONG, first, picking, place


def page(hits: float | None = None, queries: float | None = None, **fields: Any) -> EngineLoad:
    """What an engine says of its cache."""
    return EngineLoad(EngineKind.VLLM, cache_hits_total=hits, cache_queries_total=queries, **fields)


class Engine:
    """An engine whose cache finds this share of what is expected, or nothing is told of it."""

    def __init__(self, **at_first: float) -> None:
        self.trust = CacheTrust()
        self.hits, self.queries = at_first.get("hits", 0.0), at_first.get("queries", 0.0)
        self.says()

    def says(self) -> None:
        """A page."""
        self.trust.told(self.trust.expected, page(self.hits, self.queries))

    def serves(self, count: int, share: float, prompt: int = 1000, cached: int = 800, unit: float = 1.0) -> None:
        """So many requests, a page after each. `unit`: of its tokens in one of ours."""
        for _ in range(count):
            self.trust.answered(prompt, cached)
            self.hits += cached * share * unit
            self.queries += prompt * unit
            self.says()


# ------------------------------------------------------------------------------------------------ pages


def test_an_engine_is_trusted_until_it_has_shown_otherwise() -> None:
    engine = Engine()
    assert engine.trust.value == 1.0
    engine.serves(int(ENOUGH / 800) - 1, share=0.0)
    assert engine.trust.value == 1.0, "too little is known"


def test_one_that_finds_nothing_is_not_trusted_and_one_that_finds_half_by_half() -> None:
    for share in (0.0, 0.25, 0.5):
        engine = Engine()
        engine.serves(10, share)
        assert engine.trust.value == pytest.approx(share)


@pytest.mark.parametrize("unit", [1 / 16, 0.7, 1.0, 1.4])
def test_other_tokens_than_ours_or_blocks_change_nothing(unit: float) -> None:
    """Old vLLM counts blocks of 16; a token is not always four bytes."""
    engine = Engine()
    engine.serves(10, share=1.0, unit=unit)
    assert engine.trust.value == 1.0
    engine.serves(400, share=0.0, unit=unit)
    assert engine.trust.value < 0.01


def test_requests_of_others_that_share_nothing_do_not_count_against_it() -> None:
    engine = Engine()
    for _ in range(20):
        engine.queries += 5000
        engine.serves(1, share=1.0)
    assert engine.trust.value == 1.0


def test_trust_comes_back_with_the_hits() -> None:
    """What the index expects is still compared while it is not believed."""
    engine = Engine()
    engine.serves(200, share=0.0)
    assert engine.trust.value < 0.01
    engine.serves(400, share=1.0)
    assert engine.trust.value == 1.0


def test_what_is_computed_while_a_page_is_on_its_way_is_compared_with_the_next_one() -> None:
    """Its hits may be on this page or not; counted now, they would look missing."""
    trust = CacheTrust()
    trust.told(trust.expected, page(0.0, 0.0))
    for number in range(20):
        asked = trust.expected
        trust.answered(1000, 800)
        trust.told(asked, page(800.0 * number, 1000.0 * number))
    assert trust.value == 1.0


def test_totals_that_fall_are_those_of_another_process_and_prove_nothing() -> None:
    engine = Engine(hits=1e6, queries=2e6)
    engine.hits = engine.queries = 0.0
    engine.trust.answered(100_000, 90_000)
    engine.says()
    assert engine.trust.value == 1.0


def test_an_engine_that_says_that_its_cache_is_off_is_believed_at_once() -> None:
    trust = CacheTrust()
    trust.told(trust.expected, page(caches_prefixes=False))
    assert trust.value == 0.0


def test_a_rate_does_where_there_are_no_totals() -> None:
    for rate, worth in ((0.0, 0.0), (0.4, 0.5), (0.8, 1.0)):
        trust = CacheTrust()
        for _ in range(10):
            trust.answered(1000, 800)
            trust.told(trust.expected, page(cache_hit_rate=rate))
        assert trust.value == pytest.approx(worth)


def test_without_a_word_of_its_cache_an_engine_stays_trusted() -> None:
    trust = CacheTrust()
    for _ in range(50):
        trust.answered(1000, 800)
        trust.told(trust.expected, page())
    assert trust.value == 1.0


@given(
    events=st.lists(
        st.tuples(
            st.integers(0, 10_000),
            st.floats(0, 1),
            st.none() | st.floats(0, 1e6),
            st.none() | st.floats(0, 1e6),
            st.none() | st.floats(0, 1),
            st.none() | st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)),
        ),
        max_size=60,
    )
)
def test_whatever_an_engine_says_trust_is_from_0_to_1(events: list[tuple[Any, ...]]) -> None:
    trust = CacheTrust()
    for prompt, share, hits, queries, rate, usage in events:
        before = trust.expected
        trust.answered(prompt, int(prompt * share))
        trust.told(before, page(hits, queries, cache_hit_rate=rate))
        if usage is not None:
            trust.counted(prompt, int(prompt * share), *usage)
        assert 0.0 <= trust.value <= 1.0


def test_what_was_expected_is_told_as_it_was() -> None:
    trust = CacheTrust()
    trust.answered(10, 4)
    before = trust.expected
    trust.answered(10, 4)
    assert (before, trust.expected) == (Expected(10, 4), Expected(20, 8))


# ------------------------------------------------------------------------------------------------ responses


def test_responses_go_before_pages() -> None:
    """They tell of the very requests of which something was expected."""
    engine = Engine()
    engine.serves(10, share=1.0)
    for _ in range(10):
        engine.trust.counted(1000, 800, counted=900, found=0)
    assert engine.trust.value == 0.0


def test_a_count_in_other_tokens_is_taken_in_ours() -> None:
    trust = CacheTrust()
    for _ in range(10):
        trust.counted(1000, 800, counted=700, found=560)
    assert trust.value == 1.0


def test_more_than_was_expected_does_not_make_up_for_other_requests() -> None:
    trust = CacheTrust()
    for _ in range(10):
        trust.counted(1000, 500, counted=1000, found=1000)
        trust.counted(1000, 500, counted=1000, found=0)
    assert trust.value == pytest.approx(0.5)


def test_a_request_of_which_nothing_was_expected_says_nothing() -> None:
    trust = CacheTrust()
    for _ in range(100):
        trust.counted(10_000, 0, counted=10_000, found=0)
    assert trust.value == 1.0


# ------------------------------------------------------------------------------------------------ placement


def serve(here: Picking, host: int, found: int | None, content: str = LONG) -> None:
    """A request at that engine, which finds so many tokens of it in its cache."""
    placed = place(here, arrived(chat(content=content), subset=[address(host)]))
    placed.flight.first_byte(1.0)
    if found is not None:
        placed.flight.counted(Usage(1300, 1, found))
    here.director.end(placed.flight, 2.0)


def test_an_engine_that_finds_nothing_stops_attracting_what_it_is_believed_to_hold() -> None:
    here = picking(engines=2)
    for _ in range(10):
        serve(here, 1, found=0)
    assert here.ledger(1).trust.value == 0.0
    placed = place(here, arrived(chat(content=LONG)))
    assert placed.flight.decision.cached_tokens == 0


def test_another_one_that_holds_it_too_still_does() -> None:
    here = picking(engines=2)
    for _ in range(10):
        serve(here, 1, found=0)
        serve(here, 2, found=1290)
    for _ in range(3):
        placed = place(here, arrived(chat(content=LONG)))
        assert first(placed) == address(2) and placed.flight.decision.cached_tokens > 1000
        here.director.end(placed.flight, 3.0)


def test_an_engine_that_does_not_tell_stays_trusted() -> None:
    here = picking(engines=1)
    for _ in range(20):
        serve(here, 1, found=None)
    assert here.ledger(1).trust.value == 1.0


def test_a_new_process_and_a_new_endpoint_begin_with_trust() -> None:
    here = picking(engines=2)
    for _ in range(10):
        serve(here, 1, found=0)
    here.ledgers.restarted(address(1))
    assert here.ledger(1).trust.value == 1.0 and not here.ledgers.doubts
    for _ in range(10):
        serve(here, 1, found=0)
    endpoints = [one.endpoint for one in here.ledgers]
    here.ledgers.sync(endpoints[1:])
    assert not here.ledgers.doubts, "its slot will be another's"
    here.ledgers.sync(endpoints)
    assert here.ledger(1).trust.value == 1.0


def test_what_a_failed_or_moved_request_expected_proves_nothing() -> None:
    here = picking(engines=1)
    serve(here, 1, found=None)
    before = here.ledger(1).trust.expected
    placed = place(here, arrived(chat(content=LONG)))
    placed.flight.status = 500
    placed.flight.first_byte(1.0)
    here.director.end(placed.flight, 2.0)
    assert here.ledger(1).trust.expected == before
