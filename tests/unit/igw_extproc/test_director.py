"""From a request to a placement: what is read of it, what it is taken to cost, and where it is sent."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from igw_api import wire
from igw_extproc.answers import DEFAULT_TOKENS
from igw_extproc.domain import EngineKind, EngineLoad
from igw_extproc.errors import BadRequest, UnknownModel
from igw_extproc.messages import Arrived, Responded
from igw_extproc.openai import Usage
from igw_testing.builders import (
    Picking,
    address,
    arrived,
    chat,
    load,
    member,
    members,
    model,
    objective,
    policy,
    pool,
    rewrite,
    rule,
)
from igw_testing.placing import LONG, ask, first, picking, place, refused

# ------------------------------------------------------------------------------------------------ where to


def test_the_idle_engine_is_named_first_and_the_others_after_it() -> None:
    here = picking(engines=3)
    here.says(1, load(running=50, waiting=5))
    here.says(2, load(running=10))
    assert place(here, arrived(chat())).placement.destinations == (address(3), address(2), address(1))


def test_a_burst_spreads_although_no_scrape_comes_between() -> None:
    """Each pick counts the ones before it."""
    here = picking(engines=4)
    assert Counter(first(place(here, arrived(chat()))) for _ in range(40)) == {
        address(host): 10 for host in range(1, 5)
    }


def test_requests_with_the_same_beginning_go_together() -> None:
    here = picking(engines=8)
    one = first(place(here, arrived(chat(content=LONG + "first question"))))
    assert {first(place(here, arrived(chat(content=LONG + str(number))))) for number in range(3)} == {one}


@pytest.mark.parametrize(
    "other",
    [arrived(chat("other", LONG)), arrived(chat(content=LONG, cache_salt="tenant"))],
    ids=["another model", "another salt"],
)
def test_engines_share_no_cache_across_models_and_salts(other: Arrived) -> None:
    here = picking(engines=8)
    placed = place(here, arrived(chat(content=LONG)))
    placed.flight.first_byte(2.0)
    assert place(here, other).flight.decision.cached_tokens == 0
    assert place(here, arrived(chat(content=LONG))).flight.decision.cached_tokens > 0


@pytest.mark.parametrize("name", ["round-robin", "random", "least-request", "least-token", "llm-metric"])
def test_each_pool_places_by_its_own_policy(name: str) -> None:
    here = picking(policy(name), default_policy="prefix-cache")
    assert ask(place(here, arrived(chat(content=LONG)))).prefix == (), "only one policy looks at prefixes"


def test_a_change_of_policy_or_endpoints_keeps_what_was_learnt() -> None:
    """A manifest is applied every few minutes; caches live for hours."""
    here = picking(engines=8)
    placed = place(here, arrived(chat(content=LONG)))
    here.director.end(placed.flight, 2.0)
    here.serve(pool(), *members(8), policy("round-robin"))
    turns = [first(place(here, arrived(chat()))) for _ in range(3)]
    here.serve(pool(), *members(9), policy("prefix-cache"))
    again = place(here, arrived(chat(content=LONG)))
    assert first(again) == first(placed)
    assert again.flight.decision.cached_tokens > 0
    assert len(set(turns)) == 3, "the other policy was in force meanwhile"


def test_taking_turns_goes_on_through_changes_of_the_objects() -> None:
    """Else every change would send the next requests to the same first endpoint."""
    here = picking(policy("round-robin"), engines=3)
    chosen = []
    for _ in range(3):
        chosen.append(first(place(here, arrived(chat()))))
        here.serve(pool(), *members(3), policy("round-robin"))
    assert len(set(chosen)) == 3


def test_the_route_tells_the_pool() -> None:
    here = Picking(pool("a"), pool("b"), member(1, "a"), member(2, "b"))
    assert refused(here, arrived(chat(), route="default/c")).status == 503
    assert first(place(here, arrived(chat(), route="default/b"))) == address(2)


# ------------------------------------------------------------------------------------------------ what to read


def test_in_one_message_attributes_tell_what_headers_would() -> None:
    """Both ways must lead to the same decision."""
    here = picking(model("m", served=1), objective("urgent", 9))
    headers = arrived(chat(None), headers={wire.MODEL_HEADER: "m", wire.OBJECTIVE_HEADER: "urgent"})
    attributes = {
        "request.path": "/v1/chat/completions",
        "request.headers['content-type']": "application/json",
        f"request.headers['{wire.MODEL_HEADER}']": "m",
        f"request.headers['{wire.OBJECTIVE_HEADER}']": "urgent",
    }
    one_message = Arrived({}, attributes, chat(None), True, None)
    asks = [ask(place(here, request)) for request in (headers, one_message)]
    assert asks[0] == asks[1]
    assert (asks[0].model, asks[0].priority) == ("served", 9)


def test_the_model_in_the_body_goes_before_the_header() -> None:
    here = picking()
    assert ask(place(here, arrived(chat("body"), headers={wire.MODEL_HEADER: "header"}))).model == "body"


@pytest.mark.parametrize("header", ["", None])
def test_a_whole_body_without_a_model_is_refused(header: str | None) -> None:
    headers = {} if header is None else {wire.MODEL_HEADER: header}
    error = refused(picking(), arrived(chat(None), headers=headers))
    assert isinstance(error, BadRequest)
    assert "`model`" in str(error)


@pytest.mark.parametrize(("names", "asked"), [(["m"], "m"), (["m", "n"], ""), ([], "")])
def test_a_cut_body_without_a_model_is_taken_for_the_only_one_and_never_refused(names: list[str], asked: str) -> None:
    """Some clients name the model last."""
    here = picking(*(model(name, priority=2) for name in names))
    placed = place(here, arrived(b'{"messages":[{"role":"user","content":"so far', complete=False))
    assert placed.flight.model == asked
    assert ask(placed).model == asked


def test_a_model_that_is_not_declared_is_refused() -> None:
    error = refused(picking(model("m")), arrived(chat("gpt-9")))
    assert isinstance(error, UnknownModel)
    assert error.status == 404


def test_paths_that_we_do_not_know_are_placed_unread() -> None:
    here = picking(model("m"))
    placed = place(here, arrived(b"\x00\xff" * 400, "/generate"))
    assert (ask(placed).prompt_tokens, placed.placement.body) == (201, None)


def test_a_request_without_a_body_is_placed() -> None:
    assert first(place(picking(), arrived(path="/v1/models"))) in (address(1), address(2))


# ------------------------------------------------------------------------------------------------ what it costs


@pytest.mark.parametrize(
    ("path", "body", "output"),
    [
        ("/v1/chat/completions", chat(), DEFAULT_TOKENS),
        ("/v1/chat/completions", chat(max_tokens=7), 7),
        ("/v1/chat/completions", chat(max_tokens=100_000), DEFAULT_TOKENS),
        ("/v1/embeddings", b'{"model":"m","input":"x","max_tokens":7}', 0),
        ("/rerank", b'{"model":"m","query":"x"}', 0),
        ("/generate", b"x", DEFAULT_TOKENS),
    ],
)
def test_the_output_is_guessed_by_api_and_bounded_by_the_request(path: str, body: bytes, output: int) -> None:
    assert ask(place(picking(), arrived(body, path))).output_tokens == output


def paced(here: Picking, step_s: float) -> None:
    """Engines that make a token every `step_s` for each of ten requests."""
    for made, now in ((0.0, 0.0), (10 / step_s, 1.0)):
        for host in (1, 2):
            here.says(host, replace(load(running=10), generation_tokens_total=made), now)


def test_answers_are_taken_to_be_as_long_as_the_streams_that_ended() -> None:
    here = picking()
    paced(here, 0.02)
    for _ in range(400):
        placed = place(here, arrived(chat(stream=True)), now=1.0)
        placed.flight.first_byte(2.0)
        here.director.end(placed.flight, 2.8)
    assert ask(place(here, arrived(chat()))).output_tokens == pytest.approx(41, abs=5)
    assert ask(place(here, arrived(chat(max_tokens=7)))).output_tokens == 7


def test_an_answer_that_comes_at_once_or_fails_tells_no_length() -> None:
    here = picking()
    paced(here, 0.02)
    for number in range(200):
        placed = place(here, arrived(chat(stream=bool(number % 2))), now=1.0)
        placed.flight.responded(Responded(500 if number % 2 else 200, None, None))
        placed.flight.first_byte(2.0)
        here.director.end(placed.flight, 2.01)
    assert ask(place(here, arrived(chat()))).output_tokens == DEFAULT_TOKENS


def test_the_engines_own_count_of_an_answer_is_better_than_its_time() -> None:
    here = picking()
    for _ in range(400):
        placed = place(here, arrived(chat()))
        placed.flight.counted(Usage(prompt=10, completion=900, cached=None))
        here.director.end(placed.flight, 5.0)
    assert ask(place(here, arrived(chat()))).output_tokens > 850


def test_the_prompt_is_its_text_in_tokens_of_four_bytes() -> None:
    assert ask(place(picking(), arrived(chat(content="x" * 4000)))).prompt_tokens == pytest.approx(1000, abs=3)


# ------------------------------------------------------------------------------------------------ names


def test_targets_follow_their_weights_and_the_body_names_the_target() -> None:
    here = picking(model("m", stable=3, canary=1), seed=42)
    names: Counter[str] = Counter()
    for _ in range(400):
        placed = place(here, arrived(chat("m", temperature=0.5)))
        assert placed.placement.body is not None
        body = json.loads(placed.placement.body)
        assert body == {**json.loads(chat("m", temperature=0.5)), "model": body["model"]}
        assert placed.placement.restore_model == (body["model"], "m")
        names[body["model"]] += 1
    assert 250 < names["stable"] < 350 and names.total() == 400


def test_a_body_that_has_the_right_name_stays_as_it_is() -> None:
    """Byte for byte: nothing is gained by writing it anew."""
    placed = place(picking(model("m", m=1)), arrived(chat("m")))
    assert (placed.placement.body, placed.placement.restore_model) == (None, None)


def test_rules_and_the_rewrite_header_change_the_body_too() -> None:
    here = picking(rewrite("r", rule("m", ruled=1)))
    bodies = [
        place(here, arrived(chat(name), headers={wire.MODEL_REWRITE_HEADER: "header"})).placement.body
        for name in ("m", "n")
    ]
    assert [json.loads(body or b"")["model"] for body in bodies] == ["ruled", "header"]


@pytest.mark.parametrize(
    "request_",
    [
        arrived(chat("m")[:-5], complete=False),
        arrived(b"audio", "/v1/audio/transcriptions", headers={wire.MODEL_HEADER: "m"}),
    ],
    ids=["cut", "opaque"],
)
def test_a_body_that_we_do_not_have_whole_is_never_replaced(request_: Arrived) -> None:
    """Then nothing need be restored in the response either."""
    placed = place(picking(model("m", other=1)), request_)
    assert (placed.placement.body, placed.placement.restore_model) == (None, None)
    assert ask(placed).model == "other"


def test_a_body_that_cannot_be_written_anew_is_refused_before_anything_is_reserved() -> None:
    body = b'{"model":"m","messages":[1],"metadata":%s}' % (b"[" * 500 + b"]" * 500)
    assert refused(picking(model("m", other=1)), arrived(body)).status == 400


def test_another_name_is_an_adapter_only_where_engines_tell_of_adapters() -> None:
    """Else requests for a renamed base model would crowd where the first of them went."""
    here = picking(model("m", other=1))
    assert ask(place(here, arrived(chat("m")))).adapter is None
    here.says(1, EngineLoad(EngineKind.VLLM, max_adapters=4))
    assert ask(place(here, arrived(chat("m")))).adapter == "other"


def test_only_declared_names_become_labels() -> None:
    """What clients make up has no end."""
    here = picking(model("declared", target=1))
    assert place(here, arrived(chat("declared"))).flight.model == "declared"
    free = picking()
    models = {place(free, arrived(chat(f"made-up-{number}"))).flight.model for number in range(5)}
    assert models == {""}
