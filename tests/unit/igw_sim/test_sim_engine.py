"""What the simulated engine promises to those who study schedulers with it."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest

from igw_sim.engine import Engine
from igw_sim.model import Finished, Limits, Request, Speed, StepResult

SPEED = Speed(prefill_tokens_per_s=1000, decode_step_s=0.01, decode_per_seq_s=0.001, decode_per_kv_token_s=1e-5)


SMALL = Limits(kv_blocks=100, block_tokens=4, max_sequences=8, max_batched_tokens=16)


def engine(speed: Speed = SPEED, **limits: Any) -> Engine:
    """A small engine, with some of its limits changed."""
    return Engine(replace(SMALL, **limits), speed, Random(1))


def request(name: str, prompt: int = 8, output: int = 4, family: str = "", adapter: str | None = None) -> Request:
    """Requests of one family have equal text; without a family all text is the request's own."""
    hashes = tuple(hash((family or name, adapter, block)) for block in range((prompt + output) // 4))
    return Request(name, prompt, output, hashes, adapter)


def run(subject: Engine, now: float = 0.0, steps: int = 10_000) -> dict[str, Finished]:
    """Step until nothing is left, or `steps` are done; what finished, by id."""
    done: dict[str, Finished] = {}
    for _ in range(steps):
        if not subject.busy:
            break
        result = subject.step(now)
        now += result.duration
        done |= {finished.id: finished for finished in result.finished}
    return done


def emitted(result: StepResult) -> list[str]:
    return [name for name, _ in result.emitted]


def test_an_engine_without_work_takes_no_time() -> None:
    assert engine().step(5.0) == StepResult(0.0)


def test_the_first_token_comes_with_the_step_that_ends_the_prefill() -> None:
    subject = engine()
    subject.submit(request("a", prompt=8, output=2), 0.0)
    assert emitted(subject.step(0.0)) == ["a"]


def test_a_prefill_step_costs_its_tokens_and_the_base() -> None:
    subject = engine()
    subject.submit(request("a", prompt=8), 0.0)
    assert subject.step(0.0).duration == pytest.approx(0.01 + 8 / 1000)


def test_a_decode_step_costs_its_sequences_and_the_tokens_they_read() -> None:
    subject = engine()
    subject.submit(request("a", prompt=8, output=9), 0.0)
    subject.submit(request("b", prompt=6, output=9), 0.0)
    subject.step(0.0)
    # Nine and seven tokens have KV once this step has run.
    assert subject.step(0.1).duration == pytest.approx(0.01 + 2 * 0.001 + (9 + 7) * 1e-5)


def test_times_of_a_request_follow_from_its_steps() -> None:
    subject = engine(Speed(1000, decode_step_s=0.01))
    subject.submit(request("a", prompt=8, output=3), 1.0)
    finished = run(subject, now=1.5)["a"]
    assert finished.queued_s == pytest.approx(0.5)
    assert finished.ttft_s == pytest.approx(0.5 + 0.018)
    assert finished.last_token_at == pytest.approx(1.5 + 0.018 + 2 * 0.01)


def test_a_long_prompt_is_prefilled_in_chunks_of_the_token_budget() -> None:
    subject = engine(max_batched_tokens=16)
    subject.submit(request("a", prompt=40), 0.0)
    assert [subject.step(0.0).prefill_tokens for _ in range(3)] == [16, 16, 8]


def test_decoding_sequences_keep_their_pace_while_a_long_prompt_is_prefilled() -> None:
    subject = engine(max_batched_tokens=16)
    subject.submit(request("short", prompt=4, output=20), 0.0)
    subject.step(0.0)
    subject.submit(request("long", prompt=70), 0.0)
    results = [subject.step(0.0) for _ in range(4)]
    assert [emitted(result) for result in results] == [["short"]] * 4
    assert [result.prefill_tokens for result in results] == [15] * 4


def test_jitter_stays_within_its_share() -> None:
    subject = engine(Speed(1000, decode_step_s=0.01, jitter=0.2))
    subject.submit(request("a", prompt=1, output=200), 0.0)
    subject.step(0.0)
    durations = [subject.step(0.0).duration for _ in range(100)]
    assert min(durations) >= 0.008
    assert max(durations) <= 0.012
    assert len(set(durations)) > 50


def test_a_batch_is_no_larger_than_the_number_of_sequences_allowed() -> None:
    subject = engine(max_sequences=2, max_batched_tokens=64)
    for name in "abc":
        subject.submit(request(name), 0.0)
    subject.step(0.0)
    assert (subject.statistics().running, subject.statistics().waiting) == (2, 1)


def test_a_request_that_does_not_fit_holds_back_those_behind_it() -> None:
    """First come, first served: a small request does not overtake a large one."""
    subject = engine(kv_blocks=10, max_batched_tokens=64)
    subject.submit(request("first", prompt=24, output=4), 0.0)
    subject.submit(request("large", prompt=24, output=4), 0.0)
    subject.submit(request("small", prompt=4, output=1), 0.0)
    done = run(subject)
    assert done["small"].first_token_at >= done["large"].first_token_at


def test_the_youngest_is_preempted_when_blocks_run_out_and_still_gets_all_its_tokens() -> None:
    subject = engine(kv_blocks=6, max_batched_tokens=64)
    subject.submit(request("old", prompt=8, output=12), 0.0)
    subject.submit(request("young", prompt=8, output=12), 0.0)
    counts = {"old": 0, "young": 0}
    preempted = 0
    while subject.busy:
        result = subject.step(0.0)
        preempted += result.preempted
        for name, count in result.emitted:
            counts[name] += count
    assert counts == {"old": 12, "young": 12}
    assert preempted == subject.statistics().preemptions > 0


def test_a_preempted_request_prefills_its_prompt_and_what_it_had_generated() -> None:
    subject = engine(kv_blocks=6, max_batched_tokens=64, prefix_cache=False)
    subject.submit(request("old", prompt=8, output=9), 0.0)
    subject.submit(request("young", prompt=8, output=9), 0.0)
    results = []
    while subject.busy:
        results.append(subject.step(0.0))
    # Both had five tokens out when the sixth needed a block that was not there.
    assert [result.prefill_tokens for result in results if result.prefill_tokens] == [16, 13]


def test_a_prompt_seen_before_is_not_computed_again_but_for_its_last_token() -> None:
    subject = engine(max_batched_tokens=64)
    subject.submit(request("first", prompt=32, family="same"), 0.0)
    run(subject)
    subject.submit(request("second", prompt=32, family="same"), 0.0)
    # Eight full blocks are known, and the last is computed again so that there is something to sample from.
    assert subject.step(0.0).prefill_tokens == 4
    assert run(subject)["second"].cached_tokens == 28


def test_a_prompt_still_in_prefill_is_shared_by_one_that_arrives_behind_it() -> None:
    subject = engine(max_batched_tokens=16)
    subject.submit(request("first", prompt=24, family="same"), 0.0)
    subject.step(0.0)
    subject.submit(request("second", prompt=24, family="same"), 0.0)
    assert subject.step(0.0).prefill_tokens == 8 + 4
    assert subject.statistics().prefix_hit_tokens == 20


def test_generated_text_is_reused_by_the_next_turn() -> None:
    subject = engine(max_batched_tokens=64)
    subject.submit(request("turn", prompt=8, output=9, family="talk"), 0.0)
    run(subject)
    subject.submit(request("next", prompt=20, output=4, family="talk"), 0.0)
    assert run(subject)["next"].cached_tokens == 16


def test_without_a_prefix_cache_nothing_is_reused() -> None:
    subject = engine(prefix_cache=False, max_batched_tokens=64)
    for name in "ab":
        subject.submit(request(name, family="same"), 0.0)
        run(subject)
    assert subject.statistics().prefix_hit_tokens == 0
    assert subject.statistics().kv_cached_blocks == 0


def test_a_request_waits_while_all_adapter_slots_run_other_adapters() -> None:
    subject = engine(max_adapters=1, max_batched_tokens=64)
    subject.submit(request("one", adapter="x", output=5), 0.0)
    subject.submit(request("two", adapter="y"), 0.0)
    subject.submit(request("three", adapter="x"), 0.0)
    subject.submit(request("four"), 0.0)
    assert emitted(subject.step(0.0)) == ["one", "three", "four"]
    statistics = subject.statistics()
    assert statistics.running_adapters == ("x",)
    assert statistics.waiting_adapters == ("y",)
    assert statistics.waiting_for_adapter == 1
    assert set(run(subject)) == {"one", "two", "three", "four"}


def test_loading_an_adapter_takes_time_and_a_resident_one_does_not() -> None:
    subject = engine(Speed(1000, decode_step_s=0.01, adapter_load_s=1.0), max_adapters=1)
    subject.submit(request("a", prompt=8, output=1, adapter="x"), 0.0)
    assert subject.step(0.0).duration == pytest.approx(1.018)
    subject.submit(request("b", prompt=8, output=1, adapter="x"), 0.0)
    assert subject.step(0.0).duration == pytest.approx(0.018)


def test_equal_text_under_two_adapters_is_not_shared() -> None:
    subject = engine(max_adapters=2, max_batched_tokens=64)
    subject.submit(request("a", family="same", adapter="x"), 0.0)
    run(subject)
    subject.submit(request("b", family="same", adapter="y"), 0.0)
    assert run(subject)["b"].cached_tokens == 0


@pytest.mark.parametrize("steps", [0, 1, 3], ids=["waiting", "prefilling", "decoding"])
def test_a_cancelled_request_leaves_nothing_behind(steps: int) -> None:
    subject = engine(max_adapters=1)
    subject.submit(request("a", prompt=24, output=9, adapter="x"), 0.0)
    run(subject, steps=steps)
    assert subject.cancel("a")
    assert not subject.cancel("a")
    assert not subject.busy
    statistics = subject.statistics()
    assert (statistics.kv_used_blocks, statistics.running, statistics.running_adapters) == (0, 0, ())
    subject.submit(request("a", prompt=24, output=9), 0.0)
    assert run(subject)["a"].output_tokens == 9


def test_histograms_count_what_happened() -> None:
    subject = engine(max_batched_tokens=64)
    for name in "abc":
        subject.submit(request(name, output=5), 0.0)
    run(subject)
    data = subject.statistics().histograms
    assert data["ttft_s"].count == data["e2e_s"].count == data["tpot_s"].count == 3
    assert data["itl_s"].count == 3 * 4
    assert data["generation_tokens"].sum == 15
    assert subject.statistics().generation_tokens == 15


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(Request("a", 0, 1), id="no prompt"),
        pytest.param(Request("a", 1, 0), id="no output"),
        pytest.param(Request("a", 300, 200), id="longer than the KV cache"),
        pytest.param(Request("a", 1, 1, adapter="x"), id="an adapter without slots"),
    ],
)
def test_a_request_that_can_never_be_served_is_refused(refused: Request) -> None:
    subject = engine()
    with pytest.raises(ValueError):
        subject.submit(refused, 0.0)
    assert not subject.busy


def test_an_id_in_use_is_refused() -> None:
    subject = engine()
    subject.submit(request("a"), 0.0)
    with pytest.raises(ValueError, match="in use"):
        subject.submit(request("a"), 0.0)


def test_a_token_budget_below_the_batch_size_is_refused() -> None:
    with pytest.raises(ValueError, match="max_batched_tokens"):
        Limits(kv_blocks=10, max_sequences=8, max_batched_tokens=4)


def test_occupancy_says_in_short_what_the_statistics_say() -> None:
    subject = engine(max_sequences=2)
    for name in "abc":
        subject.submit(request(name), 0.0)
    subject.step(0.0)
    known = subject.statistics()
    assert subject.occupancy == (known.running, known.waiting, known.kv_used_blocks, known.generation_tokens)


def test_an_engine_tells_how_much_of_a_prompt_its_cache_holds() -> None:
    """From the first block on, up to the first that it lacks; a look changes nothing."""
    subject, first = engine(), request("one", family="same")
    assert subject.holds(first.block_hashes) == 0
    subject.submit(first, 0.0)
    run(subject)
    assert subject.holds(first.block_hashes) == len(first.block_hashes) - 1
    assert subject.holds((7, *first.block_hashes)) == 0
