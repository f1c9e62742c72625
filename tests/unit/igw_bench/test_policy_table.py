"""The offline benchmark's figures: what is counted, ratios on the same seed, medians, and the table."""

import json
from dataclasses import replace

import pytest

from igw_bench.offline import Outcome, Record
from igw_bench.policies import PUBLISHED, RATIOS, Run, calibration, figures, ratios, slowed_share, table
from igw_bench.workloads import SLOW, SLOW_AT, Job, Workload
from igw_sim.presets import PRESETS

EMPTY = Workload("A", (PRESETS["tiny"],) * 2, ())
FIGURES = dict.fromkeys(("duration", *RATIOS, "ttft_p50", "tpot_mean", "cached", "preemptions", "cut", "refused"), 2.0)


def record(number: int, sent: float, first: float, ended: float, output: int = 11, failed: bool = False) -> Record:
    job = Job(number, 100, output)
    return Record(job, sent, 0, first, ended, cached_tokens=50, tries=1, failed=failed, order=(0, 1))


def outcome(*records: Record, workload: Workload = EMPTY) -> Outcome:
    return Outcome(workload, list(records), (0.5, 0.5), 1, 10)


def run(policy: str, seed: int, value: float) -> Run:
    return Run("A", policy, seed, FIGURES | dict.fromkeys(RATIOS, value), 0.1)


def test_times_are_from_sending_to_the_first_token_and_between_tokens() -> None:
    found = figures(outcome(record(0, 0.0, 1.0, 2.0), record(1, 1.0, 4.0, 4.5)))
    assert found["ttft_mean"] == pytest.approx(2.0)
    assert found["ttft_p99"] == pytest.approx(3.0)
    assert found["tpot_mean"] == pytest.approx(0.075)
    assert found["tokens_per_s"] == pytest.approx(22 / 4.5)
    assert found["cached"] == pytest.approx(0.5)


def test_an_answer_of_one_token_has_no_time_between_tokens() -> None:
    assert figures(outcome(record(0, 0.0, 1.0, 1.0, output=1)))["tpot_mean"] == 0.0


def test_failures_are_counted_and_left_out_of_everything_else() -> None:
    cut, refused = record(1, 0.0, 0.5, 9.0, failed=True), record(2, 0.0, -1.0, 0.1, failed=True)
    found = figures(outcome(record(0, 0.0, 1.0, 2.0), cut, refused))
    assert (found["cut"], found["refused"]) == (1.0, 1.0)
    assert found["ttft_mean"] == pytest.approx(1.0)
    assert found["tokens_per_s"] == pytest.approx(11 / 9.0)


def test_latencies_of_the_cold_start_do_not_count() -> None:
    warm = replace(EMPTY, measured_from=5.0)
    found = figures(outcome(record(0, 0.0, 4.0, 5.0), record(1, 6.0, 6.5, 7.0), workload=warm))
    assert found["ttft_mean"] == pytest.approx(0.5)
    assert found["tokens_per_s"] == pytest.approx(22 / 7.0)


def test_the_slowed_share_is_of_first_choices_and_leaves_out_the_seconds_to_notice() -> None:
    records = []
    for number in range(100):
        sent = number * SLOW_AT / 50
        late = sent >= SLOW_AT + 5.0
        chosen = SLOW if number % (4 if late else 2) == 0 else 0
        records.append(replace(record(number, sent, sent, sent), order=(chosen,)))
    assert slowed_share(records) == pytest.approx(0.5, abs=0.03)


def test_ratios_are_taken_on_the_same_seed_before_the_median() -> None:
    runs = [run("round-robin", seed, seed * 1.0) for seed in (1, 2, 4)]
    runs += [run("other", seed, value) for seed, value in ((1, 3.0), (2, 1.0), (4, 1.0))]
    assert ratios(runs)["A"]["other"] == dict.fromkeys(RATIOS, 0.5)
    assert ratios(runs)["A"]["round-robin"] == dict.fromkeys(RATIOS, 1.0)


def test_small_ratios_keep_their_digits() -> None:
    """At the knee round robin is a thousand times slower; policies are still to be compared with each other."""
    found = ratios([run("round-robin", 1, 1.0), run("other", 1, 0.00123456)])
    assert found["A"]["other"]["ttft_mean"] == 0.001235
    assert json.loads(json.dumps(found)) == found


def test_the_table_has_a_row_for_each_workload_and_policy() -> None:
    lines = table([run("round-robin", 1, 2.0), run("other", 1, 1.0)]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split(" | ")[:2] for line in lines[2:]] == [["| A", "round-robin"], ["| A", "other"]]


def test_the_calibration_tells_how_far_each_published_figure_is() -> None:
    values = {name: value * 1.1 for name, value in PUBLISHED.items()}
    lines = calibration([Run("A", "round-robin", 1, FIGURES | values, 0.1)]).splitlines()
    assert len(lines) == 2 + len(PUBLISHED)
    assert all(line.endswith("+10% |") for line in lines[2:])
