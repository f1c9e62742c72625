"""What `igw bench` reports: percentiles, goodput, balance, time series, medians and ratios."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_bench.command.document import Facts, document
from igw_bench.command.figures import BUCKETS, Slo, by_endpoint, distribution, headline, in_flight, of_run, over_time
from igw_bench.command.samples import FAILED, REFUSED, Run, Sample

SLO = Slo(ttft=1.0, tpot=0.1)


def sample(
    number: int = 0, due: float = 0.0, ttft: float = 0.5, tpot: float = 0.05, tokens: int = 11, **more: Any
) -> Sample:
    """An answer in full."""
    first = due + ttft
    last = first + tpot * (tokens - 1)
    return Sample(
        number,
        due,
        more.pop("sent_at", due),
        last,
        first_at=first,
        last_at=last,
        output_tokens=tokens,
        prompt_tokens=100,
        **more,
    )


def close(*values: float) -> object:
    return pytest.approx(values)


def refused(number: int, due: float = 0.0, status: int = 429) -> Sample:
    return Sample(number, due, due, due + 0.01, REFUSED, status=status)


def failed(number: int, due: float = 0.0, error: str = "connection lost: ServerDisconnectedError") -> Sample:
    return Sample(number, due, due, due + 0.5, FAILED, error=error)


def run(samples: Iterable[Sample], policy: str = "round-robin", seed: int = 1, **more: Any) -> Run:
    return Run(policy, seed, list(samples), **more)


def head(samples: Iterable[Sample], **more: Any) -> dict[str, float | None]:
    return headline(run(samples, **more), SLO)


# ------------------------------------------------------------------------------------------------ latencies


def test_percentiles_are_values_that_were_measured_by_nearest_rank() -> None:
    found = head(sample(at, ttft=at / 100) for at in range(1, 101))
    assert (found["ttft_p50"], found["ttft_p90"], found["ttft_p99"]) == (0.5, 0.9, 0.99)
    assert (found["ttft_max"], found["ttft_mean"]) == close(1.0, 0.505)


def test_latencies_count_from_when_a_request_was_due_not_from_when_it_was_sent() -> None:
    late = sample(due=1.0, ttft=0.5, sent_at=1.4)
    assert late.ttft == pytest.approx(0.5)
    assert head([late])["late_p99"] == pytest.approx(0.4)


def test_the_first_token_has_no_part_in_the_time_per_token() -> None:
    assert sample(ttft=9.0, tpot=0.02, tokens=5).tpot == pytest.approx(0.02)
    assert sample(tokens=1).tpot is None


def test_requests_before_the_warmup_is_over_count_in_rates_but_not_in_latencies() -> None:
    found = head([sample(0, 0.0, ttft=5.0), sample(1, 10.0, ttft=0.2)], counted_from=5.0)
    assert (found["ttft_max"], found["counted"], found["answered"]) == close(0.2, 1, 2)


def test_a_faster_target_is_told_on_the_workloads_clock() -> None:
    scaled = sample(due=101.0, ttft=0.1).on_clock(began=100.0, speed=10.0)
    assert (scaled.due_at, scaled.ttft) == close(10.0, 1.0)


# ------------------------------------------------------------------------------------------------ rates


def test_goodput_counts_answers_that_kept_both_limits_only() -> None:
    samples = [
        sample(0),
        sample(1, ttft=1.5),
        sample(2, tpot=0.2),
        sample(3, tokens=1),  # nothing to miss after the first token
        refused(4),
        failed(5),
    ]
    found = head(samples)
    duration = found["duration"]
    assert duration is not None
    assert found["good_share"] == pytest.approx(2 / 6)
    assert found["goodput"] == pytest.approx(2 / duration)


def test_throughput_is_of_answers_in_full_over_the_time_to_the_last_end() -> None:
    found = head([sample(0, tokens=21, tpot=0.1, ttft=1.0), refused(1), failed(2)])
    assert (found["duration"], found["tokens_per_s"]) == close(3.0, 7.0)


def test_refusals_are_told_by_status_and_failures_by_kind() -> None:
    told = of_run(run([refused(0), refused(1), refused(2, status=503), failed(3, error="cut")]), SLO)
    assert told["refusals"] == {"429": 2, "503": 1}
    assert told["errors"] == {"cut": 1}


def test_the_cached_share_is_of_answers_that_tell_it() -> None:
    assert head([sample(0, cached_tokens=50), sample(1, cached_tokens=0), sample(2)])["cached_share"] == 0.25
    assert head([sample(0)])["cached_share"] is None


def test_nothing_measured_is_none_not_zero() -> None:
    found = head([refused(0)])
    assert (found["ttft_mean"], found["tpot_p99"], found["answered"]) == (None, None, 0)
    assert head([])["duration"] == 0.0


# ------------------------------------------------------------------------------------------------ balance and time


def test_balance_shows_endpoints_that_got_nothing() -> None:
    one = run([sample(0, endpoint="a", tokens=30), sample(1, endpoint="a", tokens=10)], endpoints=("a", "b"))
    busy, idle = by_endpoint(one)
    assert (busy.requests, busy.output_tokens, idle.requests, idle.ttft_mean) == (2, 40, 0, None)
    assert headline(one, SLO)["imbalance"] == 2.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 50)), min_size=1, max_size=40))
def test_requests_in_flight_over_time_add_up_to_all_their_times(spans: list[tuple[float, float]]) -> None:
    samples = [Sample(at, begin, begin, begin + length) for at, (begin, length) in enumerate(spans)]
    start, end = min(one.due_at for one in samples), max(one.ended_at for one in samples)
    held = in_flight(samples, start, (end - start) / BUCKETS, BUCKETS)
    assert sum(held) * (end - start) / BUCKETS == pytest.approx(sum(length for _, length in spans), rel=1e-2)


def test_a_time_series_has_each_end_in_its_piece() -> None:
    time = over_time(run([sample(0, due=0.0), sample(1, due=59.0)]), buckets=10)
    assert sum(time["requests_per_s"]) * time["bucket_s"] == pytest.approx(2, rel=1e-3)
    assert time["requests_per_s"][5] == 0.0
    assert [value is None for value in time["ttft_mean"]] == [False] + [True] * 8 + [False]


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=300))
def test_a_distribution_ascends_from_the_least_to_the_most(values: list[float]) -> None:
    found = distribution(values)
    assert found == sorted(found)
    assert (found[0], found[-1]) == pytest.approx((min(values), max(values)), rel=1e-3)


# ------------------------------------------------------------------------------------------------ the document

FACTS = Facts("offline", "two engines", {"workload": "sharegpt"}, "2026-01-01T00:00:00+00:00")


def test_ratios_are_taken_seed_by_seed_and_then_their_median() -> None:
    pairs = [(1, 1.0, 0.5), (2, 2.0, 0.2), (3, 4.0, 3.6)]
    runs = [run([sample(ttft=base)], seed=seed) for seed, base, _ in pairs]
    runs += [run([sample(ttft=other)], "mine", seed) for seed, _, other in pairs]
    mine = document(FACTS, runs, SLO)["policies"]["mine"]
    assert mine["ratio"]["ttft_mean"] == pytest.approx(0.5)  # of 0.5, 0.1 and 0.9
    assert [mine[name]["ttft_mean"] for name in ("least", "median", "most")] == [
        pytest.approx(0.2), pytest.approx(0.5), pytest.approx(3.6)
    ]  # fmt: skip


def test_without_round_robin_the_first_policy_is_the_baseline() -> None:
    made = document(FACTS, [run([sample()], "mine"), run([sample()], "other")], SLO)
    assert made["baseline"] == "mine"
    assert made["policies"]["other"]["ratio"]["ttft_mean"] == 1.0


def test_a_sender_that_measured_itself_is_said_so() -> None:
    late = [sample(0, due=1.0, ttft=0.5, sent_at=1.4)]
    assert document(FACTS, [run(late, busy=0.95)], SLO)["warnings"] == [
        "round-robin, seed 1: the sender took 95% of a core; its own waits count as latency",
        "round-robin, seed 1: one request in a hundred was sent 0.40 s late or more",
    ]
    assert document(FACTS, [run([replace(late[0], sent_at=1.0)], busy=0.2)], SLO)["warnings"] == []
