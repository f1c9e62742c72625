"""A shadow policy: what it tells of itself and of the active one, and that it changes nothing."""

import logging
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igw_api.objects import Shadow
from igw_extproc.director import Placed
from igw_extproc.inflight import STALE_AFTER
from igw_extproc.scheduling.policies import POLICIES
from igw_extproc.scheduling.shadow import ShadowStatistics
from igw_testing.builders import Picking, address, arrived, chat, load, member, members, model, policy, pool
from igw_testing.placing import LONG, first, place

NAMES = sorted(POLICIES)
NAME = "default/llm"


def shadowed(active: str, shadow: str, sampling: float = 1.0, engines: int = 3) -> Picking:
    """A pool with idle engines, and a second policy beside the active one."""
    return Picking(pool(), *members(engines), policy(active, shadow=Shadow(shadow, sampling)))


def told(here: Picking) -> ShadowStatistics:
    """What the shadow has counted."""
    return here.director.shadows.statistics()[NAME]


# ------------------------------------------------------------------------------------------------ it changes nothing

EVENTS = st.one_of(
    st.tuples(st.just("beside"), st.sampled_from(["a", "c" * 300])),
    st.tuples(st.just("place"), st.sampled_from(["a", "b", "c" * 700, "c" * 300, "adapted"])),
    st.tuples(st.just("end"), st.integers(0, 5)),
    st.tuples(st.just("answer"), st.integers(0, 5)),
    st.tuples(st.just("scrape"), st.integers(1, 3)),
    st.tuples(st.just("later"), st.sampled_from([0.1, STALE_AFTER + 1.0])),
)


class Live:
    """One picker under a series of events; `seen` is all that it decided."""

    def __init__(self, active: str, shadow: Shadow | None) -> None:
        rewritten = model("adapted", adapter=1)
        anything = [model("m"), rewritten]
        # Another pool at the same engines reads the live prefix index, which the shadow must not feed.
        beside = policy("prefix-cache", "beside", name="beside")
        shared = replace(pool("beside"), selector=pool().selector)
        self.here = Picking(pool(), *members(3), *anything, policy(active, shadow=shadow), shared, beside)
        self.now = 1.0
        self.open: list[Placed] = []
        self.seen: list[tuple[str, ...]] = []

    def does(self, what: str, value: object) -> None:
        """One event."""
        if what in ("place", "beside"):
            named = "adapted" if value == "adapted" else "m"
            route = NAME if what == "place" else "default/beside"
            placed = place(self.here, arrived(chat(named, f"{value} " * 20), route=route), self.now)
            self.open.append(placed)
            self.seen.append(placed.placement.destinations)
        elif what == "later":
            assert isinstance(value, float)
            self.now += value
        elif what == "scrape":
            assert isinstance(value, int)
            told = load(running=value, waiting=value // 2, kv_usage=0.2 * value, kv_capacity_tokens=2_000)
            self.here.says(value, told, self.now)
        elif self.open:
            assert isinstance(value, int)
            placed = self.open[value % len(self.open)]
            if what == "answer":
                placed.flight.first_byte(self.now)
            else:
                self.open.remove(placed)
                self.here.director.end(placed.flight, self.now)


@given(
    active=st.sampled_from(NAMES),
    shadow=st.sampled_from(NAMES),
    sampling=st.sampled_from([0.0, 0.5, 1.0]),
    events=st.lists(EVENTS, max_size=40),
)
@settings(deadline=None)
def test_with_and_without_a_shadow_the_same_requests_go_to_the_same_endpoints(
    active: str, shadow: str, sampling: float, events: list[tuple[str, object]]
) -> None:
    alone, watched = Live(active, None), Live(active, Shadow(shadow, sampling))
    for what, value in events:
        alone.does(what, value)
        watched.does(what, value)
    assert watched.seen == alone.seen
    assert watched.here.ledgers.statistics() == alone.here.ledgers.statistics()
    assert len(watched.here.index) == len(alone.here.index), "the live prefix index holds the same"
    compared = told(watched.here).compared
    assert compared <= len(watched.seen) and (sampling or not compared)


# ------------------------------------------------------------------------------------------------ what it tells


def places(here: Picking, count: int) -> list[str]:
    """So many requests that stay; where they went."""
    return [first(place(here, arrived(chat()))) for _ in range(count)]


def test_a_shadow_that_chooses_as_the_active_policy_does_agrees_and_gains_nothing() -> None:
    here = shadowed("least-request", "least-request", engines=2)
    here.says(1, load(running=9))
    places(here, 4)
    seen = told(here)
    assert (seen.compared, seen.agreed) == (4, 4)
    assert seen.active == seen.shadow
    assert seen.shadow.choices == {address(2): 4} and seen.shadow.gain == 0


def test_the_gain_is_what_a_choice_costs_less_by_the_chooser_s_own_formula() -> None:
    """Round robin walks over a loaded engine; least-request would not, and says how many requests that is."""
    here = shadowed("round-robin", "least-request", engines=2)
    here.says(1, load(running=9))
    here.says(2, load(running=2))
    assert places(here, 2) == [address(1), address(2)]
    seen = told(here)
    assert (seen.compared, seen.agreed) == (2, 1)
    assert seen.active.choices == {address(1): 1, address(2): 1}
    assert seen.shadow.choices == {address(2): 2}
    assert (seen.active.gain, seen.shadow.gain) == (0.0, 7.0), "who does not compare gains nothing"


def test_each_policy_gains_in_its_own_eyes_where_they_differ() -> None:
    here = shadowed("least-request", "least-token", engines=2)
    here.says(1, load(running=1, kv_usage=0.5, kv_capacity_tokens=10_000))
    here.says(2, load(running=4, kv_usage=0.1, kv_capacity_tokens=10_000))
    places(here, 1)
    seen = told(here)
    assert seen.agreed == 0
    assert (seen.active.gain, seen.shadow.gain) == (3.0, 4_000.0)


@pytest.mark.parametrize(("active", "shadow"), [("prefix-cache", "round-robin"), ("round-robin", "prefix-cache")])
def test_cached_tokens_are_expected_of_both_choices_whichever_policy_reads_the_index(active: str, shadow: str) -> None:
    here = shadowed(active, shadow, engines=2)
    for _ in range(6):
        placed = place(here, arrived(chat(content=LONG)))
        placed.flight.first_byte(1.0)
        here.director.end(placed.flight, 2.0)
    seen = told(here)
    hits = {side.policy: side.cached_tokens for side in (seen.active, seen.shadow)}
    assert hits["prefix-cache"] >= hits["round-robin"] > 0


def test_what_a_shadow_believes_of_an_engine_is_gone_when_the_engine_restarts() -> None:
    here = shadowed("round-robin", "prefix-cache", engines=1)
    for _ in range(2):
        here.director.end(place(here, arrived(chat(content=LONG))).flight, 2.0)
    known = told(here).shadow.cached_tokens
    assert known > 0
    here.ledgers.restarted(address(1))
    place(here, arrived(chat(content=LONG)))
    assert told(here).shadow.cached_tokens == known


def test_only_a_share_of_the_placements_is_compared_when_asked_for() -> None:
    here = shadowed("prefix-cache", "random", sampling=0.25)
    for _ in range(400):
        here.director.end(place(here, arrived(chat())).flight, 2.0)
    assert 60 < told(here).compared < 140


def test_a_choice_that_may_only_look_idle_is_not_compared() -> None:
    """Its engine has said nothing for too long; the active policy would have looked again."""
    here = shadowed("round-robin", "least-request", engines=2)
    here.says(1, load(running=3), now=10.0)
    here.says(2, load(), now=1.0)
    place(here, arrived(chat()), now=10.0)
    assert told(here).compared == 0


def test_each_comparison_shows_in_the_debug_log_without_anything_of_the_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = shadowed("round-robin", "least-request", engines=1)
    with caplog.at_level(logging.DEBUG, "igw_extproc.scheduling.shadow"):
        place(here, arrived(chat(content="secret")))
    (line,) = (record.getMessage() for record in caplog.records if record.name.endswith("shadow"))
    assert line == f"shadow pool={NAME} policy=least-request would={address(1)} does={address(1)}"


# ------------------------------------------------------------------------------------------------ changes while it runs


def serve(here: Picking, hosts: Iterable[int], active: str, shadow: Shadow | None) -> None:
    """Other objects from now on."""
    here.serve(pool(), *(member(host) for host in hosts), policy(active, shadow=shadow))


def test_a_shadow_comes_changes_and_goes_with_its_policy_object() -> None:
    here = Picking(pool(), *members(2))
    places(here, 1)
    assert here.director.shadows.statistics() == {}
    serve(here, (1, 2), "prefix-cache", Shadow("round-robin"))
    places(here, 2)
    assert told(here).compared == 2
    serve(here, (1, 2), "prefix-cache", Shadow("round-robin", 0.0))
    places(here, 2)
    assert told(here).compared == 2, "another share keeps the counts"
    serve(here, (1, 2), "prefix-cache", Shadow("least-token"))
    assert told(here).compared == 0, "another policy is another comparison"
    places(here, 1)
    serve(here, (1, 2), "llm-metric", Shadow("least-token"))
    assert told(here).compared == 0
    serve(here, (1, 2), "llm-metric", None)
    assert here.director.shadows.statistics() == {}
    places(here, 1)


def test_choices_of_endpoints_that_left_are_forgotten() -> None:
    here = shadowed("round-robin", "round-robin", engines=3)
    places(here, 3)
    assert len(told(here).shadow.choices) == 3
    serve(here, (1, 2), "round-robin", Shadow("round-robin"))
    assert sorted(told(here).shadow.choices) == [address(1), address(2)]


def test_a_shadow_that_this_picker_does_not_know_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """A newer operator may know more: the pool is served all the same."""
    here = shadowed("prefix-cache", "of-next-year")
    assert places(here, 1)
    assert here.director.shadows.statistics() == {}
    assert "of-next-year" in caplog.text
