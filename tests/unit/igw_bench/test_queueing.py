"""The queue behind the offline benchmark: the product's parts, and nobody lost between them."""

from dataclasses import replace
from random import Random

from igw_bench.offline import Outcome
from igw_bench.queueing import FLOOD, PATIENT, few_seats, flooded, measured, simulate, table
from igw_bench.workloads import Workload, decode_bound, decode_heavy
from igw_extproc.flowcontrol.waiters import Limits

# Twice what the engines can serve at once.
CLIENTS = 250


def crowd(seed: int = 1, count: int = 900) -> Workload:
    workload = decode_heavy(Random(seed), count, CLIENTS)
    jobs = tuple(replace(job, priority=job.number % 10 == 0) for job in workload.jobs)
    return replace(workload, jobs=jobs)


def numbers(outcome: Outcome) -> list[int]:
    return sorted(record.job.number for record in outcome.records if not record.failed)


def test_everybody_is_served_once_where_nobody_is_refused() -> None:
    assert numbers(simulate(crowd(), PATIENT, 1)) == list(range(900))


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (measured(simulate(crowd(count=300), PATIENT, 1)) for _ in range(2))
    assert first == second


def test_no_throughput_is_lost_and_the_urgent_wait_less() -> None:
    load = crowd(count=3000)
    without, queued = (measured(simulate(load, limits, 1)) for limits in (None, PATIENT))
    assert queued["tokens_per_s"] >= 0.97 * without["tokens_per_s"]
    assert queued["urgent_mean"] <= 0.6 * without["urgent_mean"]


def test_engines_with_few_seats_have_them_taken_and_hardly_a_queue() -> None:
    """Nobody tells the picker how many they are."""
    load = few_seats(Random(1), 16, decode_bound(Random(1), 1000))
    without, queued = (measured(simulate(load, limits, 1)) for limits in (None, PATIENT))
    assert queued["tokens_per_s"] >= 0.99 * without["tokens_per_s"]
    assert queued["engine_queue"] <= 0.25 * without["engine_queue"]
    assert queued["urgent_mean"] <= 0.4 * without["urgent_mean"]


def test_who_waits_too_long_is_refused() -> None:
    outcome = simulate(crowd(), Limits(wait_timeout=1.0), 1)
    refused = [record for record in outcome.records if record.failed]
    assert refused
    assert all(record.endpoint == -1 for record in refused)
    assert len(outcome.records) == 900


def test_a_short_queue_refuses_at_once() -> None:
    outcome = simulate(crowd(), Limits(max_size=3), 1)
    refused = [record for record in outcome.records if record.failed]
    assert refused
    assert any(record.ended_at == record.sent_at for record in refused)


def test_a_flood_is_one_tenant_among_all_others() -> None:
    workload = flooded(Random(1), 5.0, 10.0, 1.0, 2.0)
    assert sum(job.tenant == FLOOD for job in workload.jobs) == 10
    assert list(workload.arrivals) == sorted(workload.arrivals)
    assert [job.number for job in workload.jobs] == list(range(610))


def test_the_table_tells_times_of_those_who_ask_apart() -> None:
    cell = measured(simulate(crowd(count=300), PATIENT, 1))
    row = table({("A", "none"): cell}).splitlines()[-1]
    assert row.startswith("| A | none |")
    assert "| 1.000 |" in row
