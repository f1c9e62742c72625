"""What the picker learns of an endpoint's speed: right in a few samples, and never a trap."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_extproc.domain import Ask, Endpoint, EngineKind, EngineLoad
from igw_extproc.inflight import Ledger
from igw_extproc.speeds import PREFILL_S, STEP_S, Decode, Prefill, level


def learned(tokens_per_s: float, step_s: float = 0.02, samples: int = 60) -> Prefill:
    """First bytes of an engine that computes so many prompt tokens a second, after a step under way."""
    rng, prefill = random.Random(1), Prefill()
    for _ in range(samples):
        tokens = rng.randint(20, 4_000)
        prefill.answered(tokens, rng.uniform(0, step_s) + tokens / tokens_per_s, prefill.seconds)
    return prefill


def a_ledger(prefill: Prefill | None = None, base: float | None = None) -> Ledger:
    ledger = Ledger(Endpoint("10.0.0.1:8000"), available=True)
    if prefill is not None:
        ledger.prefill = prefill
    if base is not None:
        ledger.decode.observed(1.0, 10 / base, 10.0, 0.0, 0.0)
    return ledger


@pytest.mark.parametrize("speed", [2_000, 8_000, 40_000])
def test_the_time_of_a_prompt_token_is_learned_from_first_bytes(speed: int) -> None:
    assert 1 / learned(speed).seconds == pytest.approx(speed, rel=0.3)


def test_an_engine_that_is_throttled_is_noticed_after_some_requests() -> None:
    prefill = learned(20_000)
    for tokens in range(200, 6_000, 100):
        prefill.answered(tokens, tokens / 4_000, PREFILL_S)
    assert 1 / prefill.seconds < 8_000


@given(st.lists(st.tuples(st.integers(0, 200_000), st.floats(0, 1e6)), max_size=50))
def test_no_sequence_of_first_bytes_gives_a_speed_that_no_gpu_has(samples: list[tuple[int, float]]) -> None:
    prefill = Prefill()
    for tokens, seconds in samples:
        prefill.answered(tokens, seconds, PREFILL_S)
    assert 1e-6 <= prefill.seconds <= 0.1


def test_one_first_byte_that_waited_for_something_else_changes_little() -> None:
    prefill = learned(10_000)
    before = prefill.seconds
    prefill.answered(1_000, 600.0, PREFILL_S)
    assert prefill.seconds == pytest.approx(before, rel=0.25)


@pytest.mark.parametrize("seed", range(8))
def test_short_prompts_on_a_busy_machine_tell_nothing_of_its_speed(seed: int) -> None:
    """What they wait for is chance. Once it set one of five engines alike apart, which then got no requests."""
    rng, prefill = random.Random(seed), Prefill()
    for _ in range(200):
        prefill.answered(rng.randint(5, 40), rng.uniform(0.005, 0.12), PREFILL_S)
    assert PREFILL_S / 1.5 < prefill.seconds < 1.5 * PREFILL_S


def test_the_step_of_an_empty_engine_is_what_remains_without_kv_and_prompts() -> None:
    decode = Decode()
    for _ in range(5):
        # 20 ms a step when empty, 30 ms with half a cache; a fifth of the time goes to prompts.
        decode.observed(1.0, 20 * 0.8 / 0.03, 20.0, 0.5, 0.2)
    assert decode.base == pytest.approx(0.02)
    assert decode.step == pytest.approx(0.0375)


@pytest.mark.parametrize(
    ("tokens", "sequences", "prefill_s"),
    [
        pytest.param(0.0, 0.0, 0.0, id="nothing runs"),
        pytest.param(5.0, 3.0, 0.0, id="too few tokens"),
        pytest.param(500.0, 20.0, 0.7, id="mostly prompts"),
        pytest.param(500.0, 20.0, float("inf"), id="a full engine"),
    ],
)
def test_what_says_nothing_of_the_engine_alone_is_not_judged(tokens: float, sequences: float, prefill_s: float) -> None:
    decode = Decode()
    decode.observed(1.0, tokens, sequences, 0.3, prefill_s)
    assert decode.base is None


def test_what_was_learned_is_forgotten_when_nothing_confirms_it() -> None:
    """Else an engine that was slow once would never be asked again."""
    decode = Decode()
    decode.observed(1.0, 1_000.0, 20.0, 0.3, 0.0)
    for _ in range(30):
        decode.observed(1.0, 0.0, 0.0, 0.0, 0.0)
    assert decode.base is not None
    for _ in range(60):
        decode.observed(1.0, 0.0, 0.0, 0.0, 0.0)
    assert decode.base is None


def test_endpoints_that_differ_by_less_than_half_are_alike() -> None:
    ledgers = [a_ledger(learned(speed), base) for speed, base in ((9_000, 0.02), (10_000, 0.025), (12_000, 0.022))]
    level(ledgers)
    assert len({ledger.prefill_s for ledger in ledgers}) == 1
    assert len({ledger.step_s for ledger in ledgers}) == 1


def test_an_endpoint_that_is_three_times_as_slow_costs_more_from_then_on() -> None:
    ledgers = [a_ledger(learned(10_000), 0.02), a_ledger(learned(10_000), 0.02), a_ledger(learned(3_000), 0.06)]
    level(ledgers)
    assert ledgers[0].step_s == ledgers[1].step_s == 0.0
    assert ledgers[2].step_s == pytest.approx(0.02)
    assert ledgers[2].prefill_s > 1.5 * ledgers[0].prefill_s


def test_shorter_steps_are_no_merit_and_a_wrong_speed_draws_nobody() -> None:
    """One endpoint with a wild number once took all requests of a simulated pool."""
    wild = Prefill()
    for _ in range(64):
        wild.answered(5_000, 0.0, PREFILL_S)
        wild.answered(10, 0.5, PREFILL_S)
    ledgers = [a_ledger(learned(4_000), 0.02), a_ledger(learned(4_000), 0.02), a_ledger(wild, 0.001)]
    level(ledgers)
    assert ledgers[2].step_s == 0.0
    assert ledgers[2].prefill_s >= ledgers[0].prefill_s / 3


def test_an_endpoint_of_which_nothing_is_known_is_like_the_others() -> None:
    ledgers = [a_ledger(learned(2_000), 0.04), a_ledger(learned(2_000), 0.04), a_ledger()]
    level(ledgers)
    assert all(before.prefill_s == after.prefill_s for before, after in pairwise(ledgers))
    nobody = [a_ledger(), a_ledger()]
    level(nobody)
    assert [ledger.prefill_s for ledger in nobody] == [PREFILL_S, PREFILL_S]


def test_a_ledger_learns_from_its_leases_and_its_engines_pages() -> None:
    ledger = a_ledger()
    told = EngineLoad(EngineKind.VLLM, running=10, kv_usage=0.0, kv_capacity_tokens=100_000, generation_tokens_total=0)
    ledger.scraped(ledger.scrape_started(), told, 0.0)
    for at in range(1, 30):
        lease = ledger.reserve(Ask("llama", 100 * at, 10), 0, float(at))
        lease.first_byte(at + 0.01 + 100 * at / 2_000)
        lease.close(float(at + 1))
        made = EngineLoad(
            EngineKind.VLLM, running=10, kv_usage=0.0, kv_capacity_tokens=100_000, generation_tokens_total=400.0 * at
        )
        ledger.scraped(ledger.scrape_started(), made, float(at))
    assert 1 / ledger.prefill.seconds == pytest.approx(2_000, rel=0.3)
    assert ledger.decode.step == pytest.approx(10 / 400)


def test_a_request_that_had_to_wait_for_room_tells_nothing_of_the_speed() -> None:
    ledger = a_ledger()
    full = EngineLoad(EngineKind.VLLM, running=10, waiting=3, kv_usage=1.0, kv_capacity_tokens=1_000)
    ledger.scraped(ledger.scrape_started(), full, 0.0)
    ledger.reserve(Ask("llama", 500, 10), 0, 1.0).first_byte(60.0)
    assert ledger.prefill.samples == 0


def test_until_anything_is_known_a_step_is_that_of_a_mid_size_gpu() -> None:
    ledger = a_ledger()
    half = EngineLoad(EngineKind.VLLM, running=0, kv_usage=0.5, kv_capacity_tokens=100_000)
    ledger.scraped(ledger.scrape_started(), half, 0.0)
    assert ledger.step_s == pytest.approx(0.5 * STEP_S)
