"""What gateways of this kind have been found to get wrong, as requirements: each must not happen here.

Their published code and issues are where these come from. Some are tested in more detail elsewhere; together they are
the list of what to look at again when placement changes.
"""

import json
import random
from collections import Counter
from pathlib import Path

import orjson
import pytest

from igw_api import wire
from igw_api.objects import Policy, Queue
from igw_api.resilience import Retry
from igw_api.split import Split
from igw_extproc import openai
from igw_extproc.cache_trust import ENOUGH, GOOD, WINDOW
from igw_extproc.domain import Ask, Endpoint, EngineKind, EngineLoad
from igw_extproc.errors import BadRequest, NoEndpoints, RoutingError, Saturated, TooLarge, UnknownModel
from igw_extproc.inflight import DEFAULT_KV_CAPACITY, STALE_AFTER
from igw_extproc.ledgers import Ledgers
from igw_extproc.messages import Arrived
from igw_extproc.scheduling.framework import Scheduler
from igw_extproc.scheduling.policies import POLICIES
from igw_extproc.scheduling.prefix import DEFAULT_MAX_ENTRIES, PrefixIndex, chain, seed
from igw_extproc.scheduling.split import SplitScheduler
from igw_extproc.stickiness import MOST_SESSIONS, SESSION_IDLE
from igw_extproc.transport import GrpcStatus
from igw_testing.builders import Picking, address, arrived, chat, load, members, policy, pool
from igw_testing.conversations import Serving, duplex
from igw_testing.ext_proc import headers_set, kind, response_body, response_headers
from igw_testing.manifest_texts import accepted, manifest
from igw_testing.placing import LONG, first, picking, place

ROLES = ("prefill", "decode")


def finished(here: Picking, request: Arrived) -> str:
    """Place a request, which is answered and ends; where it went."""
    placed = place(here, request)
    placed.flight.first_byte(1.0)
    here.director.end(placed.flight, 2.0)
    return first(placed)


# ------------------------------------------------------------------------------------------------ sessions


def test_a_session_needs_nothing_that_a_client_would_have_to_find_in_a_response() -> None:
    """A token that is added after the response's headers have gone never reaches the client: ours needs none."""
    here = Serving(Picking(pool(), *members(8)))
    body = chat(session_id="s")
    chosen = set()
    for _ in range(6):
        stream = here.stream()
        head, *_ = duplex(stream, body)
        chosen.add(headers_set(head)[wire.DESTINATION_HEADER].partition(",")[0])
        (answered,) = stream.tell(response_headers())
        assert set(headers_set(answered)) <= {wire.WENT_INTO_RESPONSE_HEADER}
        stream.conversation.ended()
    assert len(chosen) == 1


def test_an_id_that_clients_send_anew_with_each_request_is_no_key() -> None:
    """Request and trace ids would make placement random for those who send them."""
    here = picking(engines=8)
    names = ("x-request-id", "traceparent", "x-b3-traceid", "x-correlation-id")
    chosen = {
        finished(here, arrived(chat(content=LONG), headers={name: f"{number}-{name}" for name in names}))
        for number in range(10)
    }
    assert len(chosen) == 1


# ------------------------------------------------------------------------------------------------ prefill/decode


@pytest.mark.parametrize(("held", "divided"), [(0, True), (1_000, True), (6_900, False)])
def test_whether_a_prompt_is_divided_is_decided_by_what_is_truly_cached(held: int, divided: bool) -> None:
    """Not by a hit that an earlier step has replaced with another number."""
    index, ask = PrefixIndex(), Ask("m", 7_000, 100, chain(LONG.encode() * 6, seed("m")))
    ledgers = Ledgers(index.forget)
    ledgers.sync([Endpoint(f"10.0.0.{at}:8000", {wire.ROLE_LABELS[0]: role}) for at, role in enumerate(ROLES)])
    for one in ledgers:
        running = 20 if one.slot else 0
        said = EngineLoad(EngineKind.VLLM, running=running, kv_usage=0.1, kv_capacity_tokens=1_000_000)
        one.scraped(one.scrape_started(), said, 0.0)
    known = tuple(block for block in ask.prefix if block[1] <= held)
    index.expect(1, known, 10**6).confirm()
    scheduler = SplitScheduler(Split(dynamic=True), index)
    scheduler.serve(tuple(ledgers))
    decision = scheduler.pick(scheduler.candidates(tuple(ledgers)), ask, 1.0, random.Random(1))
    assert decision is not None and (decision.prefiller is not None) is divided


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadRequest("x"), 400),
        (UnknownModel("x", []), 404),
        (TooLarge("x"), 413),
        (Saturated("x"), 429),
        (NoEndpoints("x"), 503),
    ],
)
def test_no_reason_for_a_refusal_becomes_a_500(error: RoutingError, status: int) -> None:
    assert error.status == status
    body = orjson.loads(error.body())["error"]
    assert body["message"] and body["code"]


def test_a_full_pool_s_refusal_says_when_to_come_back() -> None:
    here = Serving(Picking(pool(), *members(1), policy("prefix-cache", queue=Queue(max_size=1))))
    here.picking.says(1, load(running=50, waiting=50, kv_usage=1.0, kv_capacity_tokens=1000))
    _, _, (reply,) = (duplex(here.stream()) for _ in range(3))
    assert reply.immediate_response.status.code == 429
    told = {one.header.key: one.header.raw_value for one in reply.immediate_response.headers.set_headers}
    assert int(told["retry-after"]) >= 1


# ------------------------------------------------------------------------------------------------ responses


def test_a_response_s_status_is_read_where_proxies_put_it() -> None:
    """`:status`; a header that an engine calls `status` is the engine's own."""
    here = Serving(Picking(pool(), *members(1)))
    stream = here.stream()
    duplex(stream)
    stream.tell(response_headers({"status": "200"}, status=503))
    assert Counter(code for _, code in here.telemetry.responses) == {"5xx": 1}
    assert here.suspects == [address(1)]


@pytest.mark.parametrize("details", ["prompt_tokens_details", "input_tokens_details"])
def test_cached_tokens_are_read_under_the_names_that_engines_use(details: str) -> None:
    """And no other: `prompt_token_details` is nobody's."""
    usage = {"prompt_tokens": 10, "completion_tokens": 2, details: {"cached_tokens": 8}}
    assert openai.read_usage(json.dumps({"usage": usage}).encode()) == openai.Usage(10, 2, 8)
    here = Serving(Picking(pool(), *members(1)))
    stream = here.stream()
    duplex(stream)
    stream.tell(response_headers())
    replies = stream.tell(response_body(json.dumps({"usage": usage}).encode(), end=True))
    assert {kind(reply) for reply in replies} == {"response_body"}
    assert here.telemetry.tokens[("default/llm", "cached")] == 8


# ------------------------------------------------------------------------------------------------ bounds and defaults


def test_the_bounds_of_a_queue_that_are_promised_are_in_force_without_being_named() -> None:
    """`queue: {}` in a manifest, or nothing, and the request after the 512th waiting one is refused."""
    text = manifest(
        "InferencePoolPolicy", "inferencegateway.io/v1alpha1", {"targetRefs": [{"name": "llm"}], "queue": {}}
    )
    declared = accepted(text, Policy)
    assert declared.queue == Queue()
    here = Serving(Picking(pool(), *members(1), policy("prefix-cache", queue=declared.queue)))
    here.picking.says(1, load(running=50, waiting=50, kv_usage=1.0, kv_capacity_tokens=1000))
    assert duplex(here.stream()), "the first of ours goes"
    waiting = [here.stream() for _ in range(512)]
    assert not any(duplex(stream) for stream in waiting), "they wait"
    (refused,) = duplex(here.stream())
    assert refused.immediate_response.status.code == 429
    assert all(stream.status is None for stream in waiting)


def test_what_the_documentation_says_of_defaults_and_bounds_is_what_the_code_has() -> None:
    text = " ".join((Path(__file__).parents[3] / "docs" / "policies.md").read_text().split())
    queue = Queue()
    written = f"maxSize: {queue.max_size}, waitTimeout: {queue.wait_timeout:g}s, retryPeriod: {queue.retry_period:g}s"
    assert f"{written}, retries: {Retry().attempts}}}" in text
    assert DEFAULT_MAX_ENTRIES == 1_000_000 and "all together by a million" in text
    assert f"older than {STALE_AFTER:g} s" in text
    assert f"taken as {DEFAULT_KV_CAPACITY:,} tokens" in text
    assert f"for {SESSION_IDLE / 60:g} minutes after their last request, up to {MOST_SESSIONS:,}" in text
    assert f"less than {GOOD} of it" in text
    assert ENOUGH == 4_000 and f"Four thousand expected tokens are enough to judge, the last {WINDOW:,.0f}" in text


# ------------------------------------------------------------------------------------------------ the prefix index


def test_an_engine_s_block_size_does_not_decide_how_much_of_a_prompt_is_compared() -> None:
    """Pages of one token with a bound on their number would compare the first kilobyte only."""
    here = picking(engines=2)
    for host in (1, 2):
        here.says(host, EngineLoad(EngineKind.SGLANG, kv_capacity_tokens=1_000_000))
    common = "they all begin with the same hundred thousand tokens " * 8_000
    home = finished(here, arrived(chat(content=common + "A" * 40_000)))
    placed = place(here, arrived(chat(content=common + "B" * 40_000)))
    assert first(placed) == home
    assert placed.flight.decision.cached_tokens > 0.85 * len(common) / 4


def test_the_index_has_room_for_the_prefixes_of_a_real_cluster() -> None:
    """A thousand tenants with 6,000 tokens each, known at 16 endpoints, take less than half of it."""
    entries = sum(len(chain(bytes(24_000), seed("m", str(tenant)))) for tenant in range(1_000)) * 16
    assert entries < DEFAULT_MAX_ENTRIES / 2


def test_the_index_does_not_grow_without_bound() -> None:
    index = PrefixIndex(max_entries=500)
    for number in range(3_000):
        index.expect(number % 4, chain(f"{number} {LONG}".encode(), seed("m")), 10**9).confirm()
    assert len(index) <= 500
    assert index.match(chain(f"2999 {LONG}".encode(), seed("m"))), "the newest are kept"


def test_the_order_of_messages_counts_and_equal_ones_do_not_cancel_each_other() -> None:
    here = picking(engines=1)
    one, two = {"role": "user", "content": LONG}, {"role": "user", "content": LONG.upper()}

    def hit(*messages: dict[str, str]) -> int:
        placed = place(here, arrived(json.dumps({"model": "m", "messages": messages}).encode()))
        here.director.end(placed.flight, 2.0)
        return placed.flight.decision.cached_tokens

    assert hit(one, two) == 0
    assert hit(two, one) == 0, "the other way round it is another prompt"
    alone = hit(one)
    assert alone > 1_000 and hit(one, one) >= alone
    assert hit(one, one) > 1.8 * alone, "said twice it is twice as long"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
        ("/v1/completions", {"prompt": LONG}),
        ("/v1/responses", {"input": LONG}),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": LONG}]}]}),
    ],
)
def test_every_api_s_prompts_are_compared(path: str, body: dict[str, object]) -> None:
    here = picking(engines=4)
    request = arrived(json.dumps({"model": "m", **body}).encode(), path)
    home = finished(here, request)
    again = place(here, request)
    assert first(again) == home and again.flight.decision.cached_tokens > 1_000


# ------------------------------------------------------------------------------------------------ load


def test_of_those_that_hold_a_prompt_the_one_with_less_to_do_is_chosen() -> None:
    """Not any of them, and not always the first one that had it."""
    here = picking(engines=3)
    for host in (1, 2):
        finished(here, arrived(chat(content=LONG), subset=[address(host)]))
    for busy, idle in ((1, 2), (2, 1)):
        here.says(busy, load(running=20))
        here.says(idle, load())
        assert finished(here, arrived(chat(content=LONG))) == address(idle)


def test_an_unknown_prompt_goes_by_load_and_not_where_least_is_remembered() -> None:
    here = picking(engines=3)
    for number in range(20):
        finished(here, arrived(chat(content=f"{number} {LONG}"), subset=[address(1 + number % 2)]))
    here.says(3, load(running=30, waiting=10))
    assert finished(here, arrived(chat(content="never seen " * 500))) != address(3)


def test_an_uneven_load_does_not_make_all_prompts_forget_where_they_are_cached() -> None:
    """One busy engine moves its own prompts; the others' stay."""
    here = picking(engines=3)
    for host, tenant in ((2, "two"), (3, "three")):
        finished(here, arrived(chat(content=f"{tenant} {LONG}"), subset=[address(host)]))
    here.says(1, load(running=200, waiting=100))
    for _ in range(5):
        assert finished(here, arrived(chat(content=f"two {LONG}"))) == address(2)
        assert finished(here, arrived(chat(content=f"three {LONG}"))) == address(3)


def test_few_requests_one_after_the_other_do_not_all_go_to_one_idle_engine() -> None:
    here = picking(engines=4)
    chosen = Counter(finished(here, arrived(chat(content=f"{number} {LONG}"))) for number in range(80))
    assert len(chosen) == 4 and max(chosen.values()) < 40


def test_a_hot_prefix_is_more_than_one_engine_s_business() -> None:
    here = picking(engines=4)
    chosen = Counter(first(place(here, arrived(chat(content=f"{LONG} {number}")))) for number in range(200))
    assert len(chosen) == 4


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_who_asks_decides_when_a_request_is_served_and_never_where(name: str) -> None:
    """A tenant's past volume must not pick an endpoint, nor send all light tenants to the first one."""
    chosen = []
    for tenants in (["light"], ["heavy", "light", "other"]):
        here = Picking(pool(), *members(4), policy(name), seed=3)
        for number in range(60):
            headers = {wire.FAIRNESS_HEADER: tenants[number % len(tenants)]}
            chosen.append(first(place(here, arrived(chat(content="x" * 400 * (1 + number % 7)), headers=headers))))
    assert chosen[:60] == chosen[60:]


def test_all_candidates_are_looked_at_whatever_their_order() -> None:
    """What holds for the first endpoint of a list must not be taken for all of them."""
    here = picking(engines=3)
    ledgers = [here.ledger(host) for host in (1, 2, 3)]
    for host, capacity in ((1, 1_000), (2, 1_000_000), (3, 1_000)):
        here.says(host, load(kv_usage=0.5, kv_capacity_tokens=capacity))
    request = Ask("m", 10_000, 100)
    for order in (ledgers, ledgers[::-1], ledgers[1:] + ledgers[:1]):
        decision = Scheduler(POLICIES["llm-metric"], PrefixIndex()).pick(order, request, 1.0, random.Random(1))
        assert decision is not None and decision.order[0] is ledgers[1]
        decision.lease.close(1.0)


def test_a_request_that_makes_no_sense_ends_its_stream_and_costs_nothing() -> None:
    """Rather than being counted for ever at an endpoint that nobody told of it."""
    here = Serving(Picking(pool(), *members(1)))
    stream = here.stream()
    stream.conversation.receive(b"\xff\xff")
    assert stream.status is GrpcStatus.INVALID_ARGUMENT
    stream.conversation.ended()
    assert here.in_flight() == 0
