"""What a pool cannot take goes along its chain of standbys, each request decided anew, as a proxy's stream sees it."""

import json
from typing import Any

import pytest

from igw_api import wire
from igw_api.objects import AnyObject, Queue
from igw_api.standby import Provider, Standby
from igw_extproc.domain import Ask, Outcome
from igw_extproc.errors import NoEndpoints
from igw_protos import ext_proc_pb2 as pb
from igw_testing.builders import Picking, address, arrived, chat, load, members, model, policy, pool
from igw_testing.conversations import Serving, Stream, modes
from igw_testing.ext_proc import (
    BUFFERED,
    NONE,
    common,
    headers_set,
    kind,
    refusal,
    request_body,
    request_headers,
    with_attributes,
)

KEY = "standby/default/policy/cloud"
SERVICE = Provider("api.example.com", 443, True, "/v1")
CLOUD = Standby(KEY, "cloud", provider=SERVICE, models={"m": "big"}, per_minute=2)
NEIGHBOUR = Standby("default/other", "neighbour", pool="default/other", model="small")
FULL = load(running=8, waiting=4, kv_usage=1.0, kv_capacity_tokens=10_000)


def serving(
    *chain: Standby, engines: int = 0, others: int = 0, queue: Queue | None = None, down: bool = False
) -> Serving:
    """A picker whose pool `llm` has that chain; engines are full, those of the pool `other` idle."""
    objects: list[AnyObject] = [
        *(pool(), pool("other"), policy("prefix-cache", standbys=chain, queue=queue)),
        *(model("m"), model("batch", priority=-1), model("small", pool="other")),
        *members(engines),
        *members(engines + others, "other")[engines:],
    ]
    here = Serving(Picking(*objects))
    for host in range(1, engines + 1):
        here.picking.ledger(host).reserve(Ask("m", 0, 10), 0, here.now)
        here.picking.says(host, FULL, here.now)
        if down:
            here.picking.ledgers.unreachable(address(host), "refused", here.now)
    return here


def asked(here: Serving, name: str = "m", path: str = "/v1/chat/completions", **fields: Any) -> Stream:
    """A request whose proxy buffers the body."""
    stream = here.stream()
    tell(stream, "default/llm", path, chat(name, **fields))
    return stream


def tell(stream: Stream, route: str, path: str, body: bytes) -> None:
    """A request on the route of that pool."""
    headers = modes(request_headers(path=path), BUFFERED, NONE)
    stream.tell(with_attributes(headers, {"xds.route_name": route}), request_body(body))


def last(stream: Stream) -> pb.ProcessingResponse:
    """What the proxy was told last."""
    return pb.ProcessingResponse.FromString(stream.said[-1])


def sent(stream: Stream) -> tuple[str, str]:
    """Which standby the proxy was told, and the model's name in the body."""
    answer = last(stream)
    assert common(answer).clear_route_cache
    body = common(answer).body_mutation.body
    return headers_set(answer)[wire.POOL_HEADER], json.loads(body)["model"] if body else ""


def told(stream: Stream, status: int) -> str:
    """The message of a refusal."""
    outcome = "rejected-saturated" if status == 429 else "rejected-no-endpoints"
    message: str = refusal(last(stream), status, outcome)["message"]
    return message


def test_an_empty_pools_request_goes_to_the_provider_under_its_name_of_the_model_and_is_not_waited_for() -> None:
    here = serving(CLOUD)
    stream = asked(here)
    assert sent(stream) == (KEY, "big")
    assert wire.DESTINATION_HEADER not in headers_set(last(stream))
    assert here.admission.waiting == 0
    assert here.telemetry.requests[("default/llm", "m", Outcome.DIVERTED.value)] == 1


def test_a_model_that_has_no_other_name_there_leaves_the_body_as_it_is() -> None:
    same = Standby(KEY, "cloud", provider=SERVICE)
    assert sent(asked(serving(same))) == (KEY, "")


def test_each_request_is_decided_anew() -> None:
    here = serving(CLOUD)
    assert sent(asked(here)) == (KEY, "big")
    here.picking.serve(pool(), policy("prefix-cache", standbys=(CLOUD,)), model("m"), *members(1))
    assert headers_set(last(asked(here)))[wire.DESTINATION_HEADER] == address(1)


def test_over_the_budget_a_full_pool_says_what_it_said_and_why_its_standby_does_not_help() -> None:
    here = serving(CLOUD, engines=1, queue=Queue(max_size=1, wait_timeout=1.0))
    waits = asked(here)
    assert here.admission.waiting == 1, "the pool may still have room in time"
    assert [sent(asked(here)) for _ in range(2)] == [(KEY, "big")] * 2
    message = told(asked(here), 429)
    assert message.startswith("As many requests as may wait for the pool default/llm do.")
    assert message.endswith("Its standby cloud does not take it: its budget of 2 requests a minute is used up.")
    here.now += 60.0
    here.admission.expire(here.now)
    assert sent(waits) == (KEY, "big"), "it has waited in vain, and there is budget again"
    (row,) = here.admission.overflow.statistics(here.now)
    assert (row.taken, row.declined, row.left) == (
        {"saturated": 3, "empty": 0, "out": 0, "late": 0, "limited": 0},
        1,
        1,
    )


def test_a_pool_whose_endpoints_are_all_out_does_not_wait_either() -> None:
    here = serving(CLOUD, engines=1, down=True)
    assert sent(asked(here)) == (KEY, "big")
    (row,) = here.admission.overflow.statistics(here.now)
    assert row.taken["out"] == 1


def test_over_the_budget_an_empty_pools_request_waits_as_ever() -> None:
    here = serving(Standby(KEY, "cloud", provider=SERVICE, per_minute=1), queue=Queue(wait_timeout=1.0))
    asked(here)
    waits = asked(here)
    assert here.admission.waiting == 1
    here.now += 1.5
    here.admission.expire(here.now)
    assert told(waits, 503).endswith(
        "Its standby cloud does not take it: its budget of 1 requests a minute is used up."
    )


def test_another_pool_takes_it_under_its_own_name_of_the_model_and_counts_it() -> None:
    here = serving(NEIGHBOUR, CLOUD, others=1)
    stream = asked(here)
    assert sent(stream) == ("default/other", "small")
    assert headers_set(last(stream))[wire.DESTINATION_HEADER] == address(1)
    assert here.in_flight() == 1
    stream.conversation.ended()
    assert here.in_flight() == 0


@pytest.mark.parametrize("why", ["no room", "nobody", "gone"])
def test_where_the_other_pool_cannot_the_next_of_the_chain_does(why: str) -> None:
    here = serving(NEIGHBOUR, CLOUD, others=0 if why == "nobody" else 1)
    if why == "no room":
        here.picking.ledger(1).reserve(Ask("m", 0, 10), 0, here.now)
        here.picking.says(1, FULL, here.now)
    if why == "gone":
        here.picking.serve(pool(), policy("prefix-cache", standbys=(NEIGHBOUR, CLOUD)), model("m"))
    assert sent(asked(here)) == (KEY, "big")
    assert here.in_flight() == (1 if why == "no room" else 0), "what it had reserved there is given back"


def test_a_pool_for_which_others_wait_takes_nobody_elses_requests() -> None:
    chain = policy("prefix-cache", standbys=(NEIGHBOUR,), queue=Queue(max_size=0))
    here = Serving(Picking(pool(), pool("other"), chain, model("m"), model("small", pool="other")))
    tell(here.stream(), "default/other", "/v1/chat/completions", chat("small"))
    assert here.admission.waiting == 1
    assert "Its standby neighbour does not take it: others wait there." in told(asked(here), 503)


@pytest.mark.parametrize(
    ("path", "fields", "name"),
    [
        ("/llm/v1/chat/completions", {}, "m"),
        ("/v1/something/else", {}, "m"),
        ("/v1/responses", {"input": "x", "previous_response_id": "resp_1"}, "m"),
        ("/v1/chat/completions", {}, "batch"),
    ],
    ids=["no path of its", "nothing that we can read", "what an engine keeps", "sheddable"],
)
def test_what_a_provider_cannot_or_shall_not_be_asked_is_refused_as_ever(
    path: str, fields: dict[str, Any], name: str
) -> None:
    here = serving(CLOUD, queue=Queue(max_size=0))
    stream = asked(here, name, path, **fields)
    assert kind(last(stream)) == "immediate_response"
    assert "cloud does not take it" in told(stream, 503)


def test_a_proxy_that_has_chosen_its_route_already_is_not_asked_to_choose_another() -> None:
    """It showed no headers, so it would not route anew."""
    here = serving(CLOUD, NEIGHBOUR, others=1, queue=Queue(max_size=0))
    request = arrived(chat("m"))._replace(
        headers={}, attributes={"request.path": "/v1/chat/completions", "xds.route_name": "default/llm"}
    )
    with pytest.raises(NoEndpoints, match="none that could be sent there"):
        here.admission.admit(request, here.stream().conversation, here.now)  # type: ignore[arg-type]


def test_what_is_known_of_standbys_that_are_gone_is_forgotten() -> None:
    here = serving(CLOUD)
    asked(here)
    here.picking.serve(pool(), policy("prefix-cache"), model("m"))
    here.admission.refresh(here.now)
    assert here.admission.overflow.statistics(here.now) == []
    here.picking.serve(pool(), policy("prefix-cache", standbys=(CLOUD,)), model("m"))
    (row,) = here.admission.overflow.statistics(here.now)
    assert (row.left, row.taken["empty"]) == (0, 0), "of no request there is no share"


def hurried(*chain: Standby, engines: int = 1, late: float = 0.5) -> Serving:
    """The pool `llm` whose streams must begin within so many seconds."""
    here = serving(*chain, engines=engines)
    here.picking.serve(
        *(pool(), policy("prefix-cache", standbys=chain, first_byte=late), model("m")), *members(engines)
    )
    return here


def test_a_stream_waits_no_longer_than_its_first_byte_may_take_and_then_goes_to_the_standby() -> None:
    here = hurried(CLOUD, late=5.0)
    waits, patient = asked(here, stream=True), asked(here)
    assert here.admission.waiting == 2, "it may still be in time"
    here.now += 5.0
    here.admission.expire(here.now)
    assert sent(waits) == (KEY, "big")
    assert here.admission.waiting == 1, "what is no stream has the queue's time"
    (row,) = here.admission.overflow.statistics(here.now)
    assert row.taken["late"] == 1
    patient.conversation.ended()


def test_without_a_standby_a_late_stream_is_refused() -> None:
    here = hurried()
    waits = asked(here, stream=True)
    here.now += 0.6
    here.admission.expire(here.now)
    assert told(waits, 429).startswith("No engine of the pool default/llm could take the request in time.")


def test_a_stream_that_is_placed_tells_the_proxy_how_long_an_engine_may_take() -> None:
    here = hurried(engines=1)
    here.picking.says(1, load(), here.now)
    stream, whole = asked(here, stream=True), asked(here)
    assert headers_set(last(stream))[wire.TRY_TIMEOUT_HEADER] == "500"
    assert wire.TRY_TIMEOUT_HEADER not in headers_set(last(whole))


def test_a_stream_whose_first_byte_is_expected_too_late_goes_to_the_standby_at_once() -> None:
    """By what the engine has to compute first; what is no stream stays."""
    here = hurried(CLOUD, late=0.05)
    here.picking.says(1, load(), here.now)
    prompt = "a long prompt " * 2000
    assert sent(asked(here, stream=True, content=prompt)) == (KEY, "big")
    assert here.in_flight() == 1, "its place is given back"
    assert headers_set(last(asked(here, content=prompt)))[wire.DESTINATION_HEADER] == address(1)


def test_another_pool_that_would_be_late_too_does_not_take_it() -> None:
    here = serving(NEIGHBOUR, CLOUD, engines=1, others=1)
    chain = policy("prefix-cache", standbys=(NEIGHBOUR, CLOUD), first_byte=0.05)
    models = (model("m"), model("small", pool="other"))
    here.picking.serve(pool(), pool("other"), chain, *models, *members(1), *members(2, "other")[1:])
    assert sent(asked(here, stream=True, content="a long prompt " * 2000)) == (KEY, "big")
