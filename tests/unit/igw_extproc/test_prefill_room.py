"""Requests of a divided pool wait in the picker while the endpoints for prompts are full, as for those that answer."""

from dataclasses import replace

import pytest

from igw_api import wire
from igw_api.objects import Member, Queue
from igw_api.split import PrefillFailure, Role, Split
from igw_extproc.domain import Ask, EngineLoad
from igw_protos import ext_proc_pb2 as pb
from igw_testing.builders import Picking, chat, load, member, policy, pool
from igw_testing.conversations import Serving, Stream, modes
from igw_testing.ext_proc import BUFFERED, NONE, refusal, request_body, request_headers, response_headers

FULL = load(running=8, waiting=4, kv_usage=1.0, kv_capacity_tokens=10_000)
ROOMY = load(running=8, kv_usage=0.1, kv_capacity_tokens=10_000)
DYNAMIC = Split(dynamic=True, min_uncached=100)
LONG, SHORT = chat("m", "a long word " * 200), chat("m", "short")
P1, P2, D = 1, 2, 3


def engine(host: int, role: Role) -> Member:
    return replace(member(host), labels={"pool": "llm", wire.ROLE_LABELS[0]: role.value})


def serving(split: Split, *roles: Role) -> Serving:
    """Engines of these roles, at hosts from 1 on, with room; and one of ours at each."""
    engines = [engine(host, role) for host, role in enumerate(roles, 1)]
    here = Serving(Picking(pool(), *engines, policy("pd-split", split=split, queue=Queue())))
    for host in range(1, len(roles) + 1):
        here.picking.ledger(host).reserve(Ask("m", 0, 10), 0, here.now)
        here.picking.says(host, ROOMY, here.now)
    return here


@pytest.fixture
def here() -> Serving:
    """Two endpoints for prompts and one that answers."""
    return serving(Split(), Role.PREFILL, Role.PREFILL, Role.DECODE)


def says(here: Serving, host: int, said: EngineLoad) -> None:
    here.picking.says(host, said, here.now)
    here.wake(host)


def ask_for(here: Serving, body: bytes = LONG) -> Stream:
    stream = here.stream()
    stream.tell(modes(request_headers(), BUFFERED, NONE), request_body(body))
    return stream


def placed(stream: Stream) -> bool:
    return len(stream.said) == 2


def counted(here: Serving) -> list[int]:
    """Requests at each engine, but for the one that was there before."""
    return [one.requests - 1 for one in here.picking.ledgers]


def test_a_request_waits_while_all_prefillers_are_full(here: Serving) -> None:
    for host in (P1, P2):
        says(here, host, FULL)
    stream = ask_for(here)
    assert not placed(stream) and here.admission.waiting == 1
    assert sum(counted(here)) == 2, "it has its places meanwhile"
    says(here, D, ROOMY)
    assert not placed(stream), "where it will be answered there was room before"
    for host in (P1, P2):
        says(here, host, ROOMY)
    assert placed(stream) and here.admission.waiting == 0
    stream.conversation.ended()
    assert counted(here) == [0, 0, 0]


def test_with_room_at_one_prefiller_nobody_waits(here: Serving) -> None:
    says(here, P1, FULL)
    assert placed(ask_for(here))


def test_a_prefiller_with_room_takes_who_waits_for_another_one(here: Serving) -> None:
    """Otherwise it would have nothing to do while others have a queue."""
    for host in (P1, P2):
        says(here, host, FULL)
    streams = [ask_for(here) for _ in range(4)]
    assert not any(map(placed, streams))
    says(here, P2, load(running=0, kv_usage=0.0, kv_capacity_tokens=1_000_000))
    assert all(map(placed, streams))
    assert counted(here) == [0, 4, 4]


def test_the_prompts_end_makes_room_before_the_answers(here: Serving) -> None:
    """The sidecar's word is enough: the prefiller has nothing to do with the rest."""
    busy = load(running=8, waiting=2, kv_usage=1.0, kv_capacity_tokens=10_000)
    first = ask_for(here)
    for host in (P1, P2):
        says(here, host, busy)
    second = ask_for(here)
    assert placed(first) and not placed(second)
    first.tell(response_headers({wire.PREFILL_OUTCOME_HEADER: wire.PREFILLED_REMOTELY}))
    assert placed(second)


def test_who_needs_no_prefiller_does_not_wait_behind_who_does() -> None:
    here = serving(DYNAMIC, Role.PREFILL, Role.DECODE, Role.DECODE)
    says(here, 1, load(running=8, waiting=2, kv_usage=0.1, kv_capacity_tokens=1_000_000))
    for host in (2, 3):
        # So busy with answers that a prompt is worth a wait elsewhere.
        for _ in range(100):
            here.picking.ledger(host).reserve(Ask("m", 0, 1), 0, here.now)
        says(here, host, load(running=101, kv_usage=0.1, kv_capacity_tokens=1_000_000))
    long, short = ask_for(here), ask_for(here, SHORT)
    assert (placed(long), placed(short)) == (False, True)


def test_room_is_needed_at_both_in_either_order(here: Serving) -> None:
    for host in (P1, P2, D):
        says(here, host, FULL)
    stream = ask_for(here)
    for host in (P1, P2):
        says(here, host, ROOMY)
    assert not placed(stream), "nobody has room for its answer"
    for host in (P1, P2):
        says(here, host, FULL)
    says(here, D, ROOMY)
    assert not placed(stream), "now it is the prompt's turn to wait"
    for host in (P1, P2):
        says(here, host, ROOMY)
    assert placed(stream)


def test_a_client_that_goes_while_it_waits_leaves_nothing(here: Serving) -> None:
    for host in (P1, P2):
        says(here, host, FULL)
    ask_for(here).conversation.ended()
    assert (here.admission.waiting, counted(here)) == (0, [0, 0, 0])


@pytest.mark.parametrize("failure", list(PrefillFailure))
def test_full_is_not_failed(failure: PrefillFailure) -> None:
    """Whatever shall happen without a prefiller: there is one."""
    here = serving(Split(on_failure=failure), Role.PREFILL, Role.DECODE)
    says(here, 1, FULL)
    stream = ask_for(here)
    assert not placed(stream)
    here.now += Queue().wait_timeout + 1.0
    here.admission.expire(here.now)
    refusal(pb.ProcessingResponse.FromString(stream.said[-1]), 429, "rejected-saturated")
    assert counted(here) == [0, 0]


def test_who_waits_for_a_prefiller_that_dies_looks_for_another_one(here: Serving) -> None:
    for host in (P1, P2):
        says(here, host, FULL)
    streams = [ask_for(here) for _ in range(2)]
    here.picking.ledger(P1).unreachable("refused")
    here.wake(P1)
    assert counted(here) == [0, 2, 2]
    says(here, P2, ROOMY)
    assert all(map(placed, streams))
