"""Requests that wait in the picker, as a proxy's streams see it: answered when there is room, or refused in time."""

import gc
import sys
from collections.abc import Iterator

import pytest

from igw_api import wire
from igw_api.objects import AnyObject, Queue
from igw_api.standby import Standby
from igw_extproc.domain import Ask, EngineLoad
from igw_protos import ext_proc_pb2 as pb
from igw_testing.builders import Picking, address, chat, load, members, model, policy, pool
from igw_testing.conversations import Serving, Stream, duplex, modes
from igw_testing.ext_proc import (
    BUFFERED,
    BUFFERED_PARTIAL,
    FULL_DUPLEX,
    NONE,
    destinations,
    headers_set,
    kind,
    refusal,
    request_body,
    request_headers,
    request_trailers,
    response_body,
    response_headers,
    with_attributes,
    with_subset,
)

DEFAULTS = Queue()
FULL = load(running=8, waiting=4, kv_usage=1.0, kv_capacity_tokens=10_000)
ROOMY = load(running=8, kv_usage=0.1, kv_capacity_tokens=10_000)


@pytest.fixture
def here() -> Serving:
    """A picker with two full engines, where requests may wait."""
    return serving()


def serving(queue: Queue = DEFAULTS, engines: int = 2) -> Serving:
    picking = Picking(*objects(queue, engines))
    made = Serving(picking)
    for host in range(1, engines + 1):
        # One of ours is there already: an engine without any takes the next, whatever it says.
        picking.ledger(host).reserve(Ask("m", 0, 10), 0, made.now)
        picking.says(host, FULL, made.now)
    return made


def counted(here: Serving) -> int:
    """Requests that have their place at an engine, but for the one that was there before."""
    return here.in_flight() - len(here.picking.ledgers)


def objects(queue: Queue = DEFAULTS, engines: int = 2) -> list[AnyObject]:
    """A pool with a queue and models of three priorities."""
    models = [model("m"), model("batch", priority=-1), model("first", priority=1)]
    return [pool(), policy("prefix-cache", queue=queue), *members(engines), *models]


def room(here: Serving, host: int = 1) -> None:
    """The engine at `host` says that it has room, as the next scrape tells us."""
    says(here, host, ROOMY)


def says(here: Serving, host: int, said: EngineLoad) -> None:
    """The engine at `host` was scraped."""
    here.picking.says(host, said, here.now)
    here.wake(host)


def ask_for(here: Serving, name: str = "m", **headers: str) -> Stream:
    """A request whose proxy buffers the body."""
    stream = here.stream()
    stream.tell(modes(request_headers(headers), BUFFERED, NONE), request_body(chat(name)))
    return stream


def answers(stream: Stream) -> int:
    """What the proxy was told, but for the answer to the headers."""
    return len(stream.said) - 1


def test_without_room_a_request_waits_and_is_placed_when_there_is_some(here: Serving) -> None:
    stream = ask_for(here)
    assert (answers(stream), counted(here), here.admission.waiting) == (0, 1, 1), "it has its place there"
    room(here)
    assert (answers(stream), counted(here), here.admission.waiting) == (1, 1, 0)
    stream.conversation.ended()
    assert counted(here) == 0


def test_with_room_nobody_waits() -> None:
    here = serving()
    room(here)
    assert (answers(ask_for(here)), here.admission.waiting) == (1, 0)


def test_who_comes_later_waits_behind_who_waits() -> None:
    """Room is first for those who wait, even before anybody has looked for it on their behalf."""
    here = serving()
    first = ask_for(here)
    here.picking.says(1, ROOMY, here.now)
    second = ask_for(here)
    assert (answers(first), answers(second)) == (0, 0)
    here.wake(1)
    assert (answers(first), answers(second)) == (1, 1)


def test_the_end_of_a_request_makes_room_for_the_next() -> None:
    here = serving()
    room(here)
    placed = ask_for(here)
    here.picking.says(1, load(running=8, waiting=2, kv_usage=1.0, kv_capacity_tokens=10_000), here.now)
    waits = ask_for(here)
    assert answers(waits) == 0
    placed.conversation.ended()
    assert answers(waits) == 1


def test_a_first_byte_makes_room_for_the_next() -> None:
    here = serving(engines=1)
    here.picking.says(1, load(running=1, kv_usage=0.0, kv_capacity_tokens=10**6), here.now)
    streams = [here.stream() for _ in range(9)]
    for at, stream in enumerate(streams):
        duplex(stream, chat("m", f"{at} is long " * 900))
    assert [len(stream.said) > 0 for stream in streams] == [True] * 8 + [False]
    streams[0].tell(response_headers({"content-type": "application/json"}), response_body(b"{", end=False))
    assert streams[8].said


def test_higher_priorities_go_first() -> None:
    """Among those who wait for the same engine."""
    here = serving(engines=1)
    later, first = ask_for(here), ask_for(here, "first")
    says(here, 1, load(running=8, waiting=1, kv_usage=1.0, kv_capacity_tokens=10_000))
    assert (answers(later), answers(first)) == (0, 1)


def test_tenants_take_turns() -> None:
    here = serving(engines=1)
    greedy = [ask_for(here, **{wire.FAIRNESS_HEADER: "greedy"}) for _ in range(3)]
    modest = ask_for(here, authorization="Bearer key")
    says(here, 1, load(running=8, waiting=0, kv_usage=1.0, kv_capacity_tokens=10_000))
    assert [answers(stream) for stream in (*greedy, modest)] == [1, 0, 0, 1]


def test_who_waits_too_long_is_refused_with_advice(here: Serving) -> None:
    stream = ask_for(here)
    assert here.alarms == [here.now + 1.0]
    while here.now < 110.0:
        assert (answers(stream), here.admission.due()) == (0, here.now + 1.0)
        here.now += 1.0
        here.admission.expire(here.now)
    assert here.admission.due() is None
    reply = last(stream)
    refusal(reply, 429, "rejected-saturated")
    assert headers_set(reply)["retry-after"].isdecimal()
    assert here.admission.waiting == 0


def test_an_empty_pool_is_waited_for_and_then_unavailable() -> None:
    here = serving(engines=0)
    stream = ask_for(here)
    here.now += 10.0
    here.admission.expire(here.now)
    refusal(last(stream), 503, "rejected-no-endpoints")


def test_an_endpoint_that_joins_an_empty_pool_serves_who_waits() -> None:
    here = serving(engines=0)
    stream = ask_for(here)
    here.picking.serve(*objects(engines=1))
    here.admission.refresh(here.now)
    assert answers(stream) == 0, "the proxy may not know it yet"
    here.now += 1.0
    assert here.now in here.alarms
    here.admission.expire(here.now)
    assert destinations(last(stream)) == [address(1)]


def test_when_the_line_is_full_the_next_is_refused_at_once() -> None:
    here = serving(Queue(max_size=1))
    ask_for(here)
    refusal(last(ask_for(here)), 429, "rejected-saturated")


def test_sheddable_requests_do_not_wait_where_all_is_full(here: Serving) -> None:
    refusal(last(ask_for(here, "batch")), 429, "rejected-saturated")
    assert here.admission.waiting == 0


def test_sheddable_requests_are_refused_while_others_wait() -> None:
    """Here the cache would hold no more, though by the pool's saturation it is not full."""
    here = serving(engines=1)
    tight = load(running=8, waiting=3, kv_usage=0.7, kv_capacity_tokens=10_000)
    here.picking.says(1, tight, here.now)
    assert answers(ask_for(here, "batch")) == 0
    ask_for(here)
    refusal(last(ask_for(here, "batch")), 429, "rejected-saturated")


def test_a_client_that_goes_leaves_the_line(here: Serving) -> None:
    stream = ask_for(here)
    stream.conversation.ended()
    assert (here.admission.waiting, here.telemetry.open_streams) == (0, 0)
    room(here)
    assert counted(here) == 0


def test_a_pool_that_goes_takes_its_line_with_it(here: Serving) -> None:
    stream = ask_for(here)
    here.picking.serve(pool("other"))
    here.admission.refresh(here.now)
    refusal(last(stream), 503, "rejected-no-endpoints")
    assert here.admission.statistics(here.now) == {}


def test_what_comes_while_a_request_waits_is_answered_after_it(here: Serving) -> None:
    stream = ask_for(here)
    assert stream.tell(request_trailers()) == []
    room(here)
    assert [kind(reply) for reply in replies(stream)] == ["request_headers", "request_body", "request_trailers"]


def test_room_that_no_event_tells_of_is_found_within_a_retry_period() -> None:
    here = serving(Queue(retry_period=0.5))
    stream = ask_for(here)
    here.picking.says(1, ROOMY, here.now)
    here.now += 0.5
    assert here.admission.due() == here.now
    here.admission.expire(here.now)
    assert answers(stream) == 1


def test_one_whose_own_endpoints_left_is_tried_again_until_its_time_is_over() -> None:
    """Others go first meanwhile."""
    here = serving()
    stream = here.stream()
    headers = with_subset(modes(request_headers(), BUFFERED, NONE), [address(1)])
    stream.tell(headers, request_body(chat("m")))
    here.picking.serve(pool(), policy("prefix-cache", queue=DEFAULTS), members(2)[1], model("m"))
    other = ask_for(here)
    here.picking.says(2, ROOMY, here.now)
    here.admission.refresh(here.now)
    assert (answers(stream), answers(other)) == (0, 1)
    for _ in range(10):
        assert (answers(stream), here.alarms[-1]) == (0, here.now + 1.0)
        here.now += 1.0
        here.admission.expire(here.now)
    refusal(last(stream), 429, "rejected-saturated")


def test_one_whose_own_endpoint_comes_back_in_time_is_served() -> None:
    here = serving()
    stream = here.stream()
    headers = with_subset(modes(request_headers(), BUFFERED, NONE), [address(1)])
    stream.tell(headers, request_body(chat("m")))
    here.picking.serve(pool(), policy("prefix-cache", queue=DEFAULTS), members(2)[1], model("m"))
    here.admission.refresh(here.now)
    here.now += 8.0
    here.admission.expire(here.now)
    here.picking.serve(*objects())
    here.picking.says(1, ROOMY, here.now)
    here.now += 1.0
    here.admission.expire(here.now)
    assert destinations(last(stream)) == [address(1)]


def test_a_subset_without_an_endpoint_is_refused_at_once(here: Serving) -> None:
    stream = here.stream()
    stream.tell(with_subset(modes(request_headers(), BUFFERED, NONE), [address(9)]), request_body(chat("m")))
    refusal(last(stream), 503, "rejected-no-endpoints")


def test_a_change_of_the_queue_holds_for_who_comes_next(here: Serving) -> None:
    waits = ask_for(here)
    here.picking.serve(*objects(Queue(max_size=1, wait_timeout=1.0)))
    here.admission.refresh(here.now)
    assert answers(waits) == 0
    refusal(last(ask_for(here)), 429, "rejected-saturated")


def test_a_request_waits_for_the_engine_that_holds_its_prefix(here: Serving) -> None:
    """Though another has room: to compute the prompt again would take longer than the wait."""
    prompt = chat("m", "What we all know. " * 4000)
    room(here)
    first = here.stream()
    first.tell(modes(request_headers(), BUFFERED, NONE), request_body(prompt))
    holder = destinations(last(first))[0]
    for host in (1, 2):
        says(here, host, FULL if holder == address(host) else ROOMY)
    again = here.stream()
    again.tell(modes(request_headers(), BUFFERED, NONE), request_body(prompt))
    assert answers(again) == 0
    first.conversation.ended()
    says(here, 1 if holder == address(1) else 2, load(running=4, waiting=0, kv_usage=0.9, kv_capacity_tokens=10_000))
    assert destinations(last(again))[0] == holder


def test_an_engine_that_no_longer_answers_gives_its_line_to_the_others(here: Serving) -> None:
    streams = [ask_for(here) for _ in range(4)]
    here.picking.ledgers.unreachable(address(1), "refused", here.now)
    here.wake(1)
    assert here.picking.ledger(1).held == 0
    assert here.picking.ledger(2).held == 4
    room(here, 2)
    assert [destinations(last(stream)) for stream in streams] == [[address(2)]] * 4


def test_who_waits_finds_an_engine_again_though_all_were_down() -> None:
    here = serving(engines=1)
    stream = ask_for(here)
    here.picking.ledgers.unreachable(address(1), "refused", here.now)
    here.wake(1)
    assert counted(here) == 0
    room(here)
    assert destinations(last(stream)) == [address(1)]


def test_a_refused_request_leaves_no_trace_at_its_engine() -> None:
    here = serving(Queue(max_size=1), engines=1)
    ask_for(here)
    ask_for(here)
    assert counted(here) == 1
    here.now += 10.0
    here.admission.expire(here.now)
    assert counted(here) == here.picking.ledger(1).held == 0


def test_an_engine_with_nothing_of_ours_takes_one_whatever_it_says() -> None:
    """What others sent there ends when they please: nobody waits for that."""
    here = Serving(Picking(*objects(engines=1)))
    here.picking.says(1, FULL, here.now)
    assert [answers(ask_for(here)) for _ in range(2)] == [1, 0]


def test_a_more_urgent_newcomer_does_not_wait_behind_others() -> None:
    here = serving(engines=1)
    waits = ask_for(here)
    here.picking.says(1, load(running=8, waiting=1, kv_usage=1.0, kv_capacity_tokens=10_000), here.now)
    assert (answers(ask_for(here, "first")), answers(waits)) == (1, 0)


def test_a_request_for_one_engine_is_not_taken_by_another(here: Serving) -> None:
    stream = here.stream()
    stream.tell(with_subset(modes(request_headers(), BUFFERED, NONE), [address(1)]), request_body(chat("m")))
    room(here, 2)
    assert answers(stream) == 0
    room(here, 1)
    assert destinations(last(stream)) == [address(1)]


def test_without_a_queue_requests_wait_in_the_engines() -> None:
    here = serving(Queue(max_size=0), engines=1)
    assert [answers(ask_for(here)) for _ in range(3)] == [1, 1, 1]
    refusal(last(ask_for(serving(Queue(max_size=0), engines=0))), 503, "rejected-no-endpoints")


def test_every_pool_has_a_queue_unless_its_policy_says_otherwise() -> None:
    here = Serving(Picking(pool(), *members(1)))
    here.picking.says(1, FULL, here.now)
    assert [answers(ask_for(here)) for _ in range(2)] == [1, 0]


def test_a_fault_in_one_answer_leaves_the_others(here: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, fine = ask_for(here), ask_for(here)

    def fail(message: bytes) -> None:
        raise ValueError(len(message))

    monkeypatch.setattr(broken, "send", fail)
    room(here)
    assert answers(fine) == 1
    assert (broken.status is not None, here.telemetry.faults["place"]) == (True, 1)


def test_statistics_tell_who_waits(here: Serving) -> None:
    ask_for(here)
    ask_for(here, "first")
    (statistics,) = here.admission.statistics(here.now).values()
    assert dict(statistics.waiting) == {1: 1, 0: 1}
    assert here.admission.due() == here.now + 1.0, "room is looked for"


def test_nothing_is_due_when_nobody_waits(here: Serving) -> None:
    assert here.admission.due() is None


def replies(stream: Stream) -> list[pb.ProcessingResponse]:
    """All that the proxy was told."""
    return [pb.ProcessingResponse.FromString(data) for data in stream.said]


def last(stream: Stream) -> pb.ProcessingResponse:
    """What it was told last, but for the stream's end."""
    return replies(stream)[-1]


def one_message(here: Serving, key: str, **others: str) -> Stream:
    """A request of our own Envoy: its body, and as attributes a few of its headers."""
    stream = here.stream()
    message = modes(request_body(chat("m")), BUFFERED_PARTIAL, NONE)
    told = {"request.path": "/v1/chat/completions", "request.headers['content-type']": "application/json"}
    stream.tell(with_attributes(message, {**told, "request.headers['authorization']": f"Bearer {key}", **others}))
    return stream


def test_in_one_message_too_who_has_another_key_has_a_turn_before_the_rest_of_a_flood() -> None:
    here = serving(engines=1)
    flood = [one_message(here, "one") for _ in range(3)]
    other = one_message(here, "two")
    assert here.admission.waiting == 4
    says(here, 1, load(running=1, kv_usage=1.0, kv_capacity_tokens=10_000))
    assert [len(stream.said) for stream in (*flood, other)] == [1, 0, 0, 1], "two keep a full engine's batch full"


@pytest.mark.parametrize(
    ("whole", "standbys"),
    [
        pytest.param(False, (), id="one message"),
        pytest.param(True, (), id="headers"),
        pytest.param(True, (Standby("b1", "neighbour", pool="default/other"),), id="a standby may get it"),
    ],
)
def test_while_a_request_waits_nobody_has_its_key(whole: bool, standbys: tuple[Standby, ...]) -> None:
    """Only a keyed digest. What the codec remembers of earlier messages has none either."""
    here, backwards = serving(), "-".join(("71tc", "ks"))
    here.picking.serve(pool(), policy("prefix-cache", queue=DEFAULTS, standbys=standbys), *members(2), model("m"))
    key = backwards[::-1]
    stream = ask_for(here, authorization=f"Bearer {key}") if whole else one_message(here, key)
    del key
    assert here.admission.waiting == 1
    assert not list(holding(backwards)), stream
    kept = [{"x": backwards[::-1]}]
    assert list(holding(backwards)), f"the search finds what is there: {len(kept)}"


def holding(backwards: str) -> Iterator[object]:
    """Whatever in this process has that text, the other way round."""
    secret = backwards[::-1]
    gc.collect()
    # Python looks after containers of containers; those that only hold texts are found in them.
    todo, last = gc.get_objects(), sys._getframe()
    while todo:
        holder = todo.pop()
        for held in gc.get_referents(holder) if holder is not last else ():
            text = held.decode("latin-1") if isinstance(held, bytes) else held
            if isinstance(text, str):
                if secret in text and held is not secret:
                    yield holder
            elif isinstance(held, (dict, tuple)) and not gc.is_tracked(held):
                todo.append(held)


def test_a_tenant_whose_answers_are_longer_than_expected_waits_longer_for_its_next() -> None:
    """Charged by what the engine counted, once it is known."""
    here = serving(engines=1)
    a, b = {wire.FAIRNESS_HEADER: "a"}, {wire.FAIRNESS_HEADER: "b"}
    first, *others = [duplex_of(here, headers) for headers in (a, a, b, a, b, b)]
    says(here, 1, load(running=8, waiting=1, kv_usage=1.0, kv_capacity_tokens=10_000))
    assert [bool(one.said) for one in (first, *others)] == [True] + [False] * 5
    first.tell(response_headers({"content-type": "application/json"}))
    first.tell(response_body(b'{"usage":{"prompt_tokens":5,"completion_tokens":3000,"total_tokens":3005}}'))
    first.conversation.ended()
    for _ in range(2):
        says(here, 1, load(running=8, waiting=1, kv_usage=1.0, kv_capacity_tokens=10_000))
    assert [bool(one.said) for one in others] == [False, True, False, True, True]


def duplex_of(here: Serving, headers: dict[str, str]) -> Stream:
    """A request whose proxy shows the picker all of it, and all of its answer."""
    stream = here.stream()
    stream.tell(modes(request_headers(headers), FULL_DUPLEX, FULL_DUPLEX), request_body(chat("m")))
    return stream
