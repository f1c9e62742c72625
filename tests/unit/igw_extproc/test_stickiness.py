"""Requests that belong where an earlier one went: about a kept response, or of a session."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_api.split import PrefillFailure, Split
from igw_api.wire import ROLE_LABELS
from igw_extproc import stickiness
from igw_extproc.director import Placed
from igw_extproc.domain import EngineKind, EngineLoad, Stay
from igw_extproc.messages import Responded
from igw_extproc.stickiness import SESSION_IDLE, ResponseIds, Sessions, Sticky, named_in, with_id
from igw_testing.builders import Picking, address, arrived, chat, lead, load, member, members, model, policy, pool
from igw_testing.placing import LONG, first, picking, place

ADDRESSES = [address(host) for host in range(1, 101)]


def ids(seed: int = 1) -> ResponseIds:
    """Ids by repeatable chance."""
    return ResponseIds(random.Random(seed))


# ------------------------------------------------------------------------------------------------ response ids


@given(host=st.integers(1, 250), seed=st.integers())
def test_an_id_tells_any_picker_that_knows_the_pool_who_made_the_response(host: int, seed: int) -> None:
    """Another replica, or the same one after a restart: nothing is remembered."""
    made = ids(seed).new(address(host))
    assert re.fullmatch("resp_[0-9a-f]{32}", made), "it looks like an engine's own"
    assert ids(seed + 1).home(made, [address(one) for one in range(1, 251)]) == address(host)
    assert ids().home(made, [address(one) for one in range(1, 251) if one != host]) is None


def test_ids_of_one_endpoint_do_not_look_alike() -> None:
    one = ids()
    made = {one.new(ADDRESSES[0])[-8:] for _ in range(100)}
    assert len(made) == 100


@pytest.mark.parametrize("made", ["", "resp_", "resp_1", "resp_" + "0" * 32, "resp_" + "g" * 32, "x" * 100_000, "é"])
def test_an_id_that_is_none_of_ours_belongs_to_nobody(made: str) -> None:
    assert ids().home(made, ADDRESSES) is None


def test_a_response_that_a_retry_took_elsewhere_is_found_there() -> None:
    known = ids()
    made = known.new(address(1))
    known.moved(made, address(2))
    assert known.home(made, ADDRESSES) == address(2)
    assert known.home(made, [address(1)]) is None


def test_what_is_remembered_of_retries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stickiness, "MOST_MOVED", 3)
    known = ids()
    made = [known.new(address(1)) for _ in range(5)]
    for one in made:
        known.moved(one, address(2))
    assert [known.home(one, ADDRESSES) for one in made] == [address(1)] * 2 + [address(2)] * 3


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/responses/resp_" + "a" * 32, True),
        ("/v1/responses/resp_" + "a" * 32 + "/cancel", True),
        ("/team/v1/responses/resp_" + "a" * 32 + "?stream=true", True),
        ("/v1/responses/resp_" + "a" * 33, False),
        ("/v1/responses", False),
        ("/v1/files/resp_" + "a" * 32, False),
        (None, False),
    ],
)
def test_a_path_may_be_about_a_response(path: str | None, named: bool) -> None:
    assert named_in(path) == ("resp_" + "a" * 32 if named else None)


@given(document=st.dictionaries(st.text().filter(lambda name: name != "request_id"), st.integers(), min_size=1))
def test_a_body_is_given_an_id_and_stays_what_it_was(document: dict[str, int]) -> None:
    written = with_id(b" \n" + json.dumps(document).encode(), "resp_1")
    assert json.loads(written) == {"request_id": "resp_1", **document}


# ------------------------------------------------------------------------------------------------ placed responses


def respond(previous: str | None = None, **fields: Any) -> bytes:
    """A request of the responses API."""
    continued = {} if previous is None else {"previous_response_id": previous}
    return json.dumps({"model": "m", "input": "hi"} | continued | fields).encode()


def ask(here: Picking, body: bytes, path: str = "/v1/responses", **how: Any) -> Placed:
    """Place it."""
    return place(here, arrived(body, path, **how))


def given_id(placed: Placed) -> str:
    """The id that its response will have."""
    assert placed.placement.body is not None
    return str(json.loads(placed.placement.body)["request_id"])


def test_a_conversation_stays_with_the_engine_that_keeps_it_whatever_its_load() -> None:
    """Also beyond the first turn, where each turn has another id."""
    here = picking(engines=5)
    placed = ask(here, respond())
    home = first(placed)
    for host in range(1, 6):
        here.says(host, load(running=50 if address(host) == home else 0, waiting=30 if address(host) == home else 0))
    for _ in range(4):
        placed = ask(here, respond(given_id(placed)))
        assert placed.placement.destinations == (home,), "others would only say that they do not have it"
        assert placed.sticks == (Sticky("response", "kept"),)


def test_another_picker_places_the_next_turn_where_the_first_one_was() -> None:
    placed = ask(picking(engines=20), respond())
    for seed in range(5):
        assert first(ask(picking(engines=20, seed=seed), respond(given_id(placed)))) == first(placed)


@pytest.mark.parametrize("way", ["", "/cancel", "/input_items?limit=3"])
def test_what_is_asked_about_a_response_goes_to_the_engine_that_keeps_it(way: str) -> None:
    here = picking(engines=10)
    placed = ask(here, respond())
    for _ in range(5):
        assert first(ask(here, b"", f"/v1/responses/{given_id(placed)}{way}")) == first(placed)


def test_a_response_is_looked_for_in_every_pool_of_a_shared_route() -> None:
    """Its path names no model."""
    here = Picking(
        pool("a"), pool("b"), *members(3, "a"), *(member(host, "b") for host in (7, 8, 9)), leads={"r": lead("a", "b")}
    )
    kept = ids().new(address(8))
    assert ask(here, b"", f"/v1/responses/{kept}", route="r").flight.pool == "default/b"


def test_without_its_engine_the_next_turn_goes_elsewhere_for_that_engine_to_answer() -> None:
    """It may know the response from a shared store; if not, its own 404 says so better than we could."""
    here = picking(engines=3)
    placed = ask(here, respond())
    here.ledgers.unreachable(first(placed), "refused", 1.0)
    again = ask(here, respond(given_id(placed)))
    assert first(again) != first(placed) and len(again.placement.destinations) == 2
    assert again.sticks == (Sticky("response", "moved"),)


@pytest.mark.parametrize("split", [Split(on_failure=PrefillFailure.STRICT), Split(dynamic=True)])
def test_where_requests_are_divided_a_conversation_stays_with_the_one_that_answers(split: Split) -> None:
    roles = ("prefill", "prefill", "decode", "decode", "decode")
    engines = [
        replace(one, labels={**one.labels, ROLE_LABELS[0]: role}) for one, role in zip(members(5), roles, strict=True)
    ]
    here = Picking(pool(), *engines, replace(policy("prefix-cache"), split=split))
    placed = ask(here, respond(input=LONG))
    home = int(first(placed).split(".")[3].split(":")[0])
    here.says(home, load(running=60))
    for _ in range(4):
        placed = ask(here, respond(given_id(placed), input=LONG))
        assert placed.placement.destinations == (address(home),)
        assert placed.flight.decision.prefiller in (None, here.ledger(1), here.ledger(2))


def test_an_unknown_response_id_is_the_engines_business() -> None:
    here = picking(engines=3)
    placed = ask(here, respond("resp_made_up"))
    assert len(placed.placement.destinations) == 3
    assert placed.sticks == (Sticky("response", "unknown"),)


def test_a_subset_of_the_proxy_is_kept_to_all_the_same() -> None:
    here = picking(engines=3)
    placed = ask(here, respond())
    other = next(one for one in (address(1), address(2)) if one != first(placed))
    assert first(ask(here, respond(given_id(placed)), subset=[other])) == other


def test_after_a_retry_the_next_turn_goes_to_the_engine_that_answered() -> None:
    here = picking(engines=2)
    placed = ask(here, respond())
    other = address(1) if first(placed) == address(2) else address(2)
    placed.flight.responded(Responded(200, other, None))
    here.director.moved(placed.flight, other)
    assert first(ask(here, respond(given_id(placed)))) == other


@pytest.mark.parametrize(
    ("fields", "why"),
    [({"store": False}, "the engine keeps nothing"), ({"request_id": "resp_own"}, "the client has named it")],
)
def test_a_request_stays_as_it_is_where_an_id_is_of_no_use(fields: dict[str, Any], why: str) -> None:
    assert ask(picking(), respond(**fields)).placement.body is None, why


def test_only_engines_that_take_an_id_are_given_one() -> None:
    here = picking(engines=1)
    here.says(1, EngineLoad(EngineKind.LLAMACPP))
    assert ask(here, respond()).placement.body is None
    here.says(1, EngineLoad(EngineKind.SGLANG))
    assert given_id(ask(here, respond()))


def test_other_apis_and_bodies_that_were_cut_are_not_touched() -> None:
    here = picking()
    assert place(here, arrived(chat())).placement.body is None
    assert ask(here, respond()[:-1], complete=False).placement.body is None


def test_a_target_and_an_id_are_written_into_one_body() -> None:
    here = picking(model("m", served=1))
    written = ask(here, respond()).placement.body
    assert written is not None and json.loads(written)["model"] == "served" and b"request_id" in written


# ------------------------------------------------------------------------------------------------ sessions


def test_a_session_is_known_for_a_while_after_its_last_request() -> None:
    sessions, stay = Sessions(b"0" * 16), Stay(address(1), 100)
    key = sessions.key("default/llm", "s")
    assert sessions.find(key, 0.0) is None
    sessions.keep(key, stay, 10.0)
    assert sessions.find(key, 10.0 + SESSION_IDLE - 1) == stay
    assert sessions.find(key, 10.0 + SESSION_IDLE) is None


def test_sessions_are_bounded_and_the_longest_unused_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stickiness, "MOST_SESSIONS", 2)
    sessions, stay = Sessions(b"0" * 16), Stay(address(1), 100)
    a, b, c = (sessions.key("p", name) for name in "abc")
    for key in (a, b, a, c):
        sessions.keep(key, stay, 0.0)
    assert len(sessions) == 2
    assert [sessions.find(key, 1.0) for key in (a, b, c)] == [stay, None, stay]


def test_a_session_of_one_pool_says_nothing_of_another_and_its_name_is_not_kept() -> None:
    sessions = Sessions(b"0" * 16)
    assert sessions.key("a", "b\0c") != sessions.key("b", "b\0c") != Sessions(b"1" * 16).key("b", "b\0c")
    assert b"secret" not in sessions.key("p", "secret")


def turn(here: Picking, session: str | None = None, content: str = "hello", **fields: Any) -> Placed:
    """A chat completion of that session."""
    headers = {} if session is None else {"x-session-id": session}
    return place(here, arrived(chat(content=content, **fields), headers=headers))


@pytest.mark.parametrize("name", ["prefix-cache", "llm-metric", "least-token", "least-request"])
def test_requests_of_a_session_go_together_where_nothing_speaks_against_it(name: str) -> None:
    here = Picking(pool(), *members(8), policy(name))
    homes = {}
    for session in "abcd":
        placed = turn(here, session)
        homes[session] = first(placed)
        assert placed.sticks == (Sticky("session", "unknown"),)
        here.director.end(placed.flight, 2.0)
    for number in range(20):
        session = "abcd"[number % 4]
        placed = turn(here, session, content=f"question {number}")
        assert first(placed) == homes[session]
        assert placed.sticks == (Sticky("session", "kept"),)
        here.director.end(placed.flight, 2.0)


@pytest.mark.parametrize("name", ["round-robin", "random"])
def test_policies_that_do_not_compare_ignore_sessions(name: str) -> None:
    here = Picking(pool(), *members(4), policy(name))
    assert len({first(turn(here, "s")) for _ in range(40)}) == 4


def test_a_session_is_no_reason_to_overload_its_endpoint() -> None:
    """A hundred requests at once under one name spread over the pool, as others would."""
    here = picking(engines=4)
    chosen = Counter(first(turn(here, "busy", content=f"{number}: {LONG}")) for number in range(100))
    assert len(chosen) == 4 and max(chosen.values()) < 40


def test_a_session_follows_its_last_request() -> None:
    here = picking(engines=2)
    home = first(turn(here, "s"))
    here.ledgers.unreachable(home, "refused", 1.0)
    elsewhere = turn(here, "s")
    assert first(elsewhere) != home and elsewhere.sticks == (Sticky("session", "moved"),)
    here.says(int(home.split(".")[3].split(":")[0]), load())
    assert first(turn(here, "s")) == first(elsewhere)


def test_the_body_may_name_the_session_and_the_header_goes_first() -> None:
    here = picking(engines=8)
    home = first(turn(here, session_id="s"))
    assert first(turn(here, session_id="s")) == home
    assert turn(here, "other", session_id="s").sticks == (Sticky("session", "unknown"),)


def test_what_the_index_knows_of_a_session_s_endpoint_is_not_counted_twice() -> None:
    """A prompt that is cached elsewhere and here alike pulls no harder for being a session's."""
    here = picking(engines=2)
    for _ in range(2):
        placed = turn(here, "s", content=LONG)
        placed.flight.first_byte(1.0)
        here.director.end(placed.flight, 2.0)
    home = first(placed)
    busy = int(home.split(".")[3].split(":")[0])
    # A little more than the prompt's price: the index alone would let go of it here.
    here.says(busy, load(running=110))
    assert first(turn(here, "s", content=LONG)) != home


def test_an_attribute_names_the_session_where_no_headers_come() -> None:
    here = picking(engines=8)
    attributes = {"request.path": "/v1/chat/completions", "request.headers['x-session-id']": "s"}
    request = arrived(chat())._replace(headers={}, attributes=attributes)
    home = first(place(here, request))
    assert place(here, request).sticks == (Sticky("session", "kept"),)
    assert first(place(here, request)) == home
