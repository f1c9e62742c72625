"""An engine dies, freezes, resets or answers errors: what the client sees, and where requests go from then on.

The rule: what has not been answered goes to another endpoint; what has begun is the client's already, and breaks
visibly. Errors of an engine are its own answer, but for 503, which says to try elsewhere.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import pytest_asyncio

from igw_testing.chat_load import ENGINE_HEADER, SHORT_PROMPT, Chat, Load, chat, chat_body, engines, load
from igw_testing.gateway_process import MODEL, Gateway, Sim, running_gateway, running_sims
from igw_testing.standalone import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKERS = 9
# What a chat takes at most where nothing makes it wait, on a busy machine.
QUICK = 2.0
# A killed engine's connections break, and the picker has one of them.
DEATH_SEEN = 1.0
# A frozen one is found out by the next scrape, at most 2.2 s later, which is given 1 s.
FREEZE_SEEN = 4.0
# An engine that is away is asked at least once a second.
RETURN_SEEN = 3.0

# Completions, but not chats, may wait one second for a try. No failure has consequences for requests that come later.
BOUNDED = """
apiVersion: inferencegateway.io/v1alpha1
kind: InferencePoolPolicy
metadata:
  name: forgiving
spec:
  targetRefs:
    - group: inference.networking.x-k8s.io
      name: vllm-llama2-7b-pool
  passiveHealth: {enabled: false}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: bounded
spec:
  parentRefs:
    - name: inference-gateway
      sectionName: llm-gw
  rules:
    - matches:
        - path: {type: Exact, value: /v1/completions}
      backendRefs:
        - group: inference.networking.x-k8s.io
          kind: InferencePool
          name: vllm-llama2-7b-pool
      timeouts:
        request: 10s
        backendRequest: 1s
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_sims_and_gateway(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Gateway, tuple[Sim, ...]]]:
    """Three engines that send headers with the first token, so that an unanswered request looks unanswered."""
    async with AsyncExitStack() as stack:
        sims = await stack.enter_async_context(
            running_sims("one", "two", "three", options=("--headers", "first-token"))
        )
        folder = tmp_path_factory.mktemp("gateway")
        addresses = [sim.address for sim in sims]
        gateway = await stack.enter_async_context(running_gateway(folder, addresses, manifests=BOUNDED))
        yield gateway, sims


@pytest.fixture
def gateway(running_sims_and_gateway: tuple[Gateway, tuple[Sim, ...]]) -> Gateway:
    """The gateway."""
    return running_sims_and_gateway[0]


@pytest_asyncio.fixture(loop_scope="module")
async def sims(running_sims_and_gateway: tuple[Gateway, tuple[Sim, ...]]) -> AsyncIterator[tuple[Sim, ...]]:
    """All engines, in good health before each test. After it, nothing is left over in the picker's accounts."""
    gateway, sims = running_sims_and_gateway
    for sim in sims:
        await sim.fail(gateway.session, clear=True)
    await gateway.sees(*(sim.address for sim in sims))
    yield sims
    await gateway.in_flight_is()


@asynccontextmanager
async def early(gateway: Gateway, sim: Sim) -> AsyncIterator[Sim]:
    """In the place of `sim` an engine that sends headers at once, as most do: each request has begun then."""
    other = Sim("early", ("--headers", "early"), sim.port)
    await sim.kill()
    try:
        await other.start()
        await gateway.sees(other.address)
        yield other
    finally:
        await other.kill()
        await sim.start()


def begun_at(victim: Sim, running: Load) -> set[Chat]:
    """Chats that `victim` has begun to answer and that have not ended."""
    return {one for one in running.answering if one.engine == victim.name and not one.ended}


async def hold_up(gateway: Gateway, victim: Sim, count: int = 2) -> None:
    """Wait until so many requests are in flight at `victim`, which answers none."""

    async def held() -> bool:
        return (await gateway.in_flight()).get(victim.address, 0) >= count

    await until(held, 10)


async def freeze_at_work(gateway: Gateway, victim: Sim) -> None:
    """Freeze it with a request in flight. At a moment without any it would get none any more: then once more."""
    for _ in range(5):
        victim.freeze()
        try:
            return await hold_up(gateway, victim, 1)
        except AssertionError:
            victim.thaw()
            await gateway.sees(victim.address)
    raise AssertionError("it never had a request when it was frozen")


async def place_nothing_on(gateway: Gateway, victim: Sim, running: Load) -> None:
    """Check that the picker leaves out `victim` while requests keep coming."""
    before = (await gateway.placed())[victim.address]
    assert victim.name not in engines(await running.more(4 * WORKERS))
    assert (await gateway.placed())[victim.address] == before


async def place_again_on(gateway: Gateway, victim: Sim) -> None:
    """Wait until the picker uses `victim` again."""
    before = (await gateway.placed())[victim.address]

    async def grown() -> bool:
        return (await gateway.placed())[victim.address] > before

    await until(grown, RETURN_SEEN)


async def test_requests_that_a_killed_engine_had_not_answered_go_elsewhere(
    gateway: Gateway, sims: tuple[Sim, ...]
) -> None:
    """None is placed there any more, and the engine is used again when it is back at its address."""
    victim = sims[0]
    await victim.fail(gateway.session, stall=True)
    async with load(gateway.session, gateway.chat, SHORT_PROMPT, workers=WORKERS) as running:
        await running.more(2 * WORKERS)
        await hold_up(gateway, victim)
        await victim.kill()
        await gateway.misses(victim.address, DEATH_SEEN)
        await place_nothing_on(gateway, victim, running)
        await victim.start()
        await place_again_on(gateway, victim)
    assert running.failed == []
    assert (await gateway.numbers("igw_picker_moved_total"))[victim.address] >= 2


async def test_only_answers_that_had_begun_break_with_a_killed_engine(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """The client is told: no answer that was cut short looks whole."""
    async with early(gateway, sims[1]) as victim:
        await victim.fail(gateway.session, stall=True)
        async with load(gateway.session, gateway.chat, SHORT_PROMPT, workers=WORKERS, streams=[True]) as running:
            await running.more(2 * WORKERS)
            await until(lambda: len(begun_at(victim, running)) >= 2)
            begun = begun_at(victim, running)
            await victim.kill()
            await running.more(2 * WORKERS)
    assert begun <= set(running.failed)
    # More may have begun after the count; nothing else may fail.
    assert {one.engine for one in running.failed} == {victim.name}
    assert all("ClientPayloadError" in one.problem for one in running.failed)


async def test_a_frozen_engine_gets_no_more_requests_and_finishes_what_it_has(
    gateway: Gateway, sims: tuple[Sim, ...]
) -> None:
    """Nothing tells a frozen engine from a full one at first: its requests wait. The others' do not."""
    victim = sims[2]
    async with load(gateway.session, gateway.chat, SHORT_PROMPT, workers=WORKERS) as running:
        await running.more(2 * WORKERS)
        try:
            await freeze_at_work(gateway, victim)
            await gateway.misses(victim.address, FREEZE_SEEN)
            await place_nothing_on(gateway, victim, running)
            prompt = await running.more(WORKERS)
        finally:
            victim.thaw()
        await place_again_on(gateway, victim)
    assert running.failed == []
    assert victim.name in engines(one for one in running.chats if one.seconds > max(quick.seconds for quick in prompt))
    assert max(one.seconds for one in prompt) < QUICK


async def test_a_time_limit_for_a_try_takes_requests_away_from_a_frozen_engine(
    gateway: Gateway, sims: tuple[Sim, ...]
) -> None:
    """`timeouts.backendRequest` of an HTTPRoute is that limit: until the response's headers, for each try."""
    victim = sims[0]
    url = gateway.chat.replace("chat/completions", "completions")
    body = {"model": MODEL, "prompt": SHORT_PROMPT, "max_tokens": 5}

    async def complete() -> tuple[int, str, float]:
        begun = asyncio.get_running_loop().time()
        async with gateway.session.post(url, json=body) as answer:
            await answer.read()
            return answer.status, answer.headers[ENGINE_HEADER], asyncio.get_running_loop().time() - begun

    victim.freeze()
    try:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(complete()) for _ in range(3 * len(sims))]
    finally:
        victim.thaw()
    answers = [one.result() for one in asked]
    assert {status for status, _, _ in answers} == {200}
    assert {name for _, name, _ in answers} == {sim.name for sim in sims[1:]}
    moved = [seconds for _, _, seconds in answers if seconds >= 1.0]
    assert moved and max(moved) < 1.0 + QUICK


async def test_an_engines_error_is_passed_on_as_it_is(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """A 500 may be the request's own fault, and repeating it could fell one engine after the other."""
    for sim in sims:
        await sim.fail(gateway.session, errors=1)
    async with gateway.session.post(gateway.chat, json=chat_body(SHORT_PROMPT)) as answer:
        assert answer.status == 500
        assert (await answer.json())["error"]["message"] == "injected failure"
    left = [(await sim.fail(gateway.session))["errors"] for sim in sims]
    assert sorted(left) == [0, 1, 1], "one engine was asked, once"


async def test_an_engine_that_is_not_ready_is_passed_over(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """503 is what engines say while they load or drain. With no other engine left, the client gets it."""
    *unready, ready = sims
    for sim in unready:
        await sim.fail(gateway.session, errors=1000, error_status=503)
    for stream in (False, True) * 5:
        answer = await chat(gateway.session, gateway.chat, stream=stream)
        assert answer.good and answer.engine == ready.name, answer
    await ready.fail(gateway.session, errors=1000, error_status=503)
    answer = await chat(gateway.session, gateway.chat)
    assert answer.status == 503 and b"injected failure" in answer.body


async def test_a_connection_reset_before_the_answer_costs_a_retry(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """Two of three engines reset every request."""
    *broken, whole = sims
    for sim in broken:
        await sim.fail(gateway.session, reset="before")
    for stream in (False, True) * 5:
        answer = await chat(gateway.session, gateway.chat, stream=stream)
        assert answer.good and answer.engine == whole.name, answer


async def test_a_stream_that_is_reset_never_looks_complete(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """The client has the headers already, so there is no retry: its connection ends with an error."""
    async with early(gateway, sims[0]) as broken:
        await broken.fail(gateway.session, reset="after")
        for sim in sims[1:]:
            await sim.fail(gateway.session, errors=1000, error_status=503)
        for _ in range(5):
            answer = await chat(gateway.session, gateway.chat, stream=True)
            assert (answer.status, answer.engine) == (200, broken.name)
            assert "ClientPayloadError" in answer.problem, answer


async def test_engines_too_busy_for_their_metrics_page_still_serve(gateway: Gateway, sims: tuple[Sim, ...]) -> None:
    """One that does answer is preferred."""
    for sim in sims:
        await sim.fail(gateway.session, metrics="hang")
    for sim in sims:
        await gateway.misses(sim.address, FREEZE_SEEN)
    for stream in (False, True) * 5:
        assert (await chat(gateway.session, gateway.chat, stream=stream)).good
    await sims[1].fail(gateway.session, clear=True)
    await gateway.sees(sims[1].address)
    for _ in range(5):
        assert (await chat(gateway.session, gateway.chat)).engine == sims[1].name
