"""A divided pool as a proxy's streams see it: what the endpoint is told, what the sidecar's word changes, who waits."""

from dataclasses import replace

import pytest

from igw_api import wire
from igw_api.objects import Member, Queue
from igw_api.split import PrefillFailure, Role, Split
from igw_extproc.errors import NoEndpoints
from igw_testing.builders import Picking, address, arrived, chat, load, member, policy, pool
from igw_testing.conversations import Serving, Stream, duplex, modes
from igw_testing.ext_proc import (
    BUFFERED,
    NONE,
    STREAMED,
    destinations,
    headers_set,
    metadata,
    request_body,
    request_headers,
    response_headers,
    with_attributes,
)

STATIC, STRICT = Split(), Split(on_failure=PrefillFailure.STRICT)
WAITS = Split(on_failure=PrefillFailure.QUEUE)


def engine(host: int, role: Role) -> Member:
    return replace(member(host), labels={"pool": "llm", wire.ROLE_LABELS[0]: role.value})


def divided(split: Split = STATIC, *roles: Role, queue: Queue | None = None) -> Picking:
    """A pool with endpoints of these roles, at hosts from 1 on; by default one for each."""
    engines = [engine(host, role) for host, role in enumerate(roles or (Role.PREFILL, Role.DECODE), 1)]
    return Picking(pool(), *engines, policy("pd-split", split=split, queue=queue))


def serving(split: Split = STATIC, *roles: Role, queue: Queue | None = None) -> Serving:
    return Serving(divided(split, *roles, queue=queue))


@pytest.mark.parametrize(("split", "failure"), [(STATIC, "decode"), (STRICT, "strict"), (WAITS, "decode")])
def test_the_endpoint_is_told_where_its_prompt_is_computed_and_what_to_do_if_that_fails(
    split: Split, failure: str
) -> None:
    """Who has waited for a prefill endpoint has waited enough."""
    here = serving(split)
    told = {wire.PREFILLER_HEADER: address(1), wire.PREFILL_FAILURE_HEADER: failure}
    head = duplex(here.stream())[0]
    assert destinations(head) == [address(2)]
    assert told.items() <= headers_set(head).items()
    one_message = here.stream().tell(modes(request_body(chat()), BUFFERED, NONE))[0]
    assert told.items() <= metadata(one_message).items(), "where no header can be set any more"


def test_what_is_computed_where_it_is_answered_comes_without_such_headers() -> None:
    here = serving(STATIC, Role.DECODE)
    assert not {wire.PREFILLER_HEADER, wire.PREFILL_FAILURE_HEADER} & headers_set(duplex(here.stream())[0]).keys()


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/audio/transcriptions", "/v1/rerank"])
def test_only_completions_are_divided(path: str) -> None:
    here = divided(STRICT, Role.DECODE)
    body = b'{"model":"m","input":"x","query":"x","documents":["x"]}'
    placed = here.director.place(arrived(body, path), 1.0)
    assert placed.placement.destinations == (address(1),) and placed.placement.headers == ()


def test_both_endpoints_are_released_when_the_client_goes() -> None:
    here = serving()
    stream = here.stream()
    duplex(stream)
    assert here.in_flight() == 2
    stream.conversation.ended()
    assert here.in_flight() == 0


def answered(here: Serving, outcome: str, status: int = 200) -> Stream:
    """A request whose response has begun, with what the sidecar says."""
    stream = here.stream()
    duplex(stream)
    headers = {"content-type": "text/event-stream", wire.PREFILL_OUTCOME_HEADER: outcome}
    stream.tell(response_headers(headers, status=status))
    return stream


def test_a_prefiller_that_is_done_is_released_when_the_response_begins() -> None:
    here = serving()
    answered(here, wire.PREFILLED_REMOTELY)
    assert (here.picking.ledger(1).requests, here.picking.ledger(2).requests) == (0, 1)
    assert here.suspects == []


def test_a_prefiller_that_failed_is_released_and_asked_whether_it_lives() -> None:
    here = serving()
    stream = answered(here, wire.PREFILL_FAILED)
    assert (here.picking.ledger(1).requests, here.picking.ledger(2).requests) == (0, 1)
    assert here.suspects == [address(1)]
    stream.conversation.ended()
    assert here.in_flight() == 0


def test_a_prefiller_that_keeps_failing_is_passed_over_but_not_for_requests_that_are_wrong() -> None:
    """A client must not be able to turn prompts away from an endpoint."""
    here = serving(STATIC, Role.PREFILL, Role.PREFILL, Role.DECODE)
    chosen = headers_set(duplex(here.stream())[0])[wire.PREFILLER_HEADER]
    other = ({address(1), address(2)} - {chosen}).pop()
    here.picking.says(1 if other == address(1) else 2, load(running=50, waiting=50), here.now)
    for _ in range(4):
        answered(here, wire.PREFILL_FAILED, status=400).conversation.ended()
    assert here.suspects == []
    for _ in range(3):
        answered(here, wire.PREFILL_FAILED).conversation.ended()
    assert here.suspects == [chosen] * 3
    assert headers_set(duplex(here.stream())[0])[wire.PREFILLER_HEADER] == other


def test_the_first_byte_filter_tells_it_too() -> None:
    here = serving()
    stream = here.stream()
    lease = headers_set(duplex(stream)[0])[wire.LEASE_HEADER]
    said = {"content-type": "text/event-stream", wire.PREFILL_OUTCOME_HEADER: wire.PREFILL_FAILED}
    message = modes(response_headers(said), NONE, STREAMED)
    here.stream().tell(with_attributes(message, {f"request.headers['{wire.LEASE_HEADER}']": lease}))
    assert here.suspects == [address(1)]


def test_who_computed_its_own_prompt_and_says_so_changes_nothing() -> None:
    here = serving(STATIC, Role.DECODE)
    answered(here, wire.PREFILLED_LOCALLY)
    assert (here.in_flight(), here.suspects) == (1, [])


def test_a_strict_pool_refuses_at_once_even_if_others_may_wait() -> None:
    here = divided(STRICT, Role.DECODE, queue=Queue())
    with pytest.raises(NoEndpoints, match="No prefill endpoint of the pool default/llm answers"):
        here.director.place(arrived(chat()), 1.0)


def test_requests_wait_for_a_prefill_endpoint_where_the_pool_wants_it() -> None:
    here = serving(WAITS, queue=Queue())
    here.picking.ledger(1).unreachable("refused")
    stream = here.stream()
    stream.tell(modes(request_headers(), BUFFERED, NONE), request_body(chat()))
    assert here.admission.waiting == 1
    here.picking.says(1, load(), here.now)
    here.now += 1.0
    here.admission.wake(here.now)
    here.now += 2.0
    here.admission.expire(here.now)
    assert here.admission.waiting == 0 and here.picking.ledger(1).requests == 1


def test_a_pool_may_be_divided_and_be_one_again() -> None:
    """What is in flight ends as it began."""
    here = divided()
    before = here.director.place(arrived(chat()), 1.0).flight
    engines = [engine(1, Role.PREFILL), engine(2, Role.DECODE)]
    here.serve(pool(), *engines, policy("least-request"))
    placed = here.director.place(arrived(chat()), 1.0)
    assert placed.placement.headers == () and len(placed.placement.destinations) == 2
    here.director.end(placed.flight, 2.0)
    here.director.end(before, 2.0)
    assert here.in_flight() == 0
    here.serve(pool(), *engines, policy("pd-split", split=STATIC))
    assert here.director.place(arrived(chat()), 3.0).placement.destinations == (address(2),)
