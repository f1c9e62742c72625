"""What the picker remembers of the last requests, and how it says why they went where they went."""

import dataclasses
import json
from typing import Any

import pytest

from igw_api import wire
from igw_extproc.explanation import MOST_TOLD, explained, listed
from igw_extproc.flight import Flight
from igw_extproc.history import History, Refused
from igw_protos import ext_proc_pb2 as pb
from igw_testing.builders import Picking, address, chat, member, members, policy, pool
from igw_testing.conversations import USAGE, Serving, Stream, duplex, modes
from igw_testing.ext_proc import (
    BUFFERED,
    FULL_DUPLEX,
    NONE,
    request_body,
    request_headers,
    response_body,
    response_headers,
    with_attributes,
)


def serving(engines: int = 2, explains: bool = False) -> Serving:
    """Idle engines. `explains`: the pool's policy allows it to tell clients."""
    placing = dataclasses.replace(policy("least-request"), explains=explains)
    return Serving(Picking(pool(), placing, *members(engines)))


def send(here: Serving, name: str, **headers: str) -> Stream:
    """One request that the proxy calls `name`."""
    stream = here.stream()
    head = request_headers({"x-request-id": name, **{key.replace("_", "-"): value for key, value in headers.items()}})
    stream.tell(modes(head, FULL_DUPLEX, FULL_DUPLEX), request_body(chat()))
    return stream


def known(here: Serving, name: str) -> dict[str, Any]:
    told = here.picker.history.find(name)
    assert told is not None
    found = explained(told, here.now)
    assert json.loads(json.dumps(found)) == found, "it can be told as JSON"
    return found


def test_a_running_request_is_explained_by_what_was_weighed() -> None:
    here = serving()
    send(here, "first")
    send(here, "second")
    here.now += 2.0
    first, second = known(here, "first"), known(here, "second")
    assert first["decided_by"] == ["all 2 cost the same: by turn or by chance"]
    assert second["decided_by"] == ["the lowest cost of 2, 0; the next has 1"]
    assert first["endpoint"] != second["endpoint"]
    assert [(one["cost"], one["chosen"]) for one in second["weighed"][0]["candidates"]] == [(0.0, True), (1.0, False)]
    assert (second["outcome"], second["running_s"], second["took_s"]) == ("placed", 2.0, None)


def test_what_became_of_a_request_is_told_with_its_times() -> None:
    here = serving()
    stream = send(here, "one")
    here.now += 0.5
    stream.tell(response_headers(served=address(2)), response_body(USAGE, end=True))
    here.now += 1.0
    stream.conversation.ended()
    here.now += 9.0
    told = known(here, "one")
    assert (told["first_byte_s"], told["took_s"], told["age_s"]) == (0.5, 1.5, 10.5)
    assert (told["status"], told["endpoint"], told["running_s"]) == (200, address(2), None)
    assert (told["prompt_tokens"], told["answer_tokens"]) == (7, 10)


def test_a_request_is_found_by_its_lease_too() -> None:
    """That is what engines are told."""
    here = serving()
    send(here, "one")
    lease = known(here, "one")["lease"]
    assert lease in here.director.flights
    assert known(here, lease)["request_id"] == "one"
    assert here.picker.history.find("another") is None


def test_its_name_comes_as_an_attribute_where_the_proxy_sends_no_headers() -> None:
    here = serving()
    stream = here.stream()
    stream.tell(modes(with_attributes(request_body(chat()), {"request.id": "one"}), BUFFERED, NONE))
    assert known(here, "one")["outcome"] == "placed"


def test_a_refused_request_is_remembered_with_what_the_client_was_told() -> None:
    here = Serving(Picking(pool()))
    here.picking.serve(dataclasses.replace(policy("least-request"), queue=None), pool())
    stream = here.stream()
    stream.tell(modes(request_headers({"x-request-id": "one"}), FULL_DUPLEX, FULL_DUPLEX), request_body(b"no json"))
    told = known(here, "one")
    assert (told["outcome"], told["status"]) == ("refused", 400)
    assert "no json" not in json.dumps(told), "what clients write stays out"


def test_nothing_that_grows_with_the_prompt_is_kept_after_the_end() -> None:
    here = Serving(Picking(pool(), *members(2)))
    stream = here.stream()
    stream.tell(modes(request_headers(), FULL_DUPLEX, FULL_DUPLEX), request_body(chat(content="word " * 1000)))
    flight = next(iter(here.picker.history))
    assert isinstance(flight, Flight)
    assert len(flight.decision.lease.ask.prefix) > 1
    stream.conversation.ended()
    assert flight.decision.lease.ask.prefix == ()


def test_only_the_last_requests_are_remembered() -> None:
    history = History(most=3)
    for at in range(5):
        history.add(Refused(str(at), 0.0, 503, "no_endpoints", "none"))
    assert [told.request_id for told in history] == ["4", "3", "2"]


def test_many_candidates_shorten_the_memory() -> None:
    here = serving(engines=10)
    here.picker.history = History(most=10, most_weighed=25)
    for at in range(5):
        send(here, str(at))
    assert [told.request_id for told in here.picker.history] == ["4", "3"]
    here.picker.history = History(most=10, most_weighed=5)
    send(here, "alone")
    assert [told.request_id for told in here.picker.history] == ["alone"], "the last is always there"


def test_of_many_candidates_the_best_are_told_and_the_chosen_one() -> None:
    here = serving(engines=MOST_TOLD + 10)
    send(here, "one")
    (weighed,) = known(here, "one")["weighed"]
    assert weighed["of"] == MOST_TOLD + 10
    assert len(weighed["candidates"]) == MOST_TOLD
    assert [one["chosen"] for one in weighed["candidates"]].count(True) == 1


def test_a_list_leaves_out_what_was_weighed() -> None:
    here = serving()
    send(here, "one")
    told = next(iter(here.picker.history))
    assert listed(told, here.now).keys() == explained(told, here.now).keys() - {"weighed"}


def test_the_only_candidate_is_no_choice() -> None:
    here = Serving(Picking(pool(), member(1)))
    send(here, "one")
    assert known(here, "one")["decided_by"] == ["the only candidate"]


# ------------------------------------------------------------------------------------------------ in the response


def decision_of(here: Serving, **headers: str) -> str | None:
    """What the proxy is told for the response's header."""
    stream = send(here, "one", **headers)
    answers = [pb.ProcessingResponse.FromString(data) for data in stream.said]
    fields = answers[0].dynamic_metadata.fields[wire.LB_NAMESPACE].struct_value.fields
    return fields[wire.DECISION_HEADER].string_value if wire.DECISION_HEADER in fields else None


def test_a_client_that_asks_is_told_in_one_line() -> None:
    here = serving(explains=True)
    told = decision_of(here, x_igw_explain="1")
    assert told is not None
    parts = dict(part.split("=", 1) for part in told.split("; "))
    assert parts["endpoint"] in (address(1), address(2))
    assert (parts["policy"], parts["cost"], parts["candidates"]) == ("least-request", "0", "2")
    assert parts["waited"] == "0.000"


@pytest.mark.parametrize(("allowed", "headers"), [(True, {}), (False, {"x_igw_explain": "1"})])
def test_nobody_is_told_who_does_not_ask_or_may_not(allowed: bool, headers: dict[str, str]) -> None:
    """It names endpoints, so the pool's policy must allow it."""
    assert decision_of(serving(explains=allowed), **headers) is None


def test_duplex_requests_without_a_name_are_remembered_all_the_same() -> None:
    here = serving()
    duplex(here.stream())
    assert next(iter(here.picker.history)).request_id == ""
