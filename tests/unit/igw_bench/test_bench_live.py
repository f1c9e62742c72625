"""`make bench-live`: what it says of runs online and offline, from runs that are made up here."""

import json

import pytest

from igw_bench.command import plans, virtual
from igw_bench.command.figures import Slo, headline
from igw_bench.command.live import Pair, agreement, differences, ratios, table
from igw_bench.command.plans import Shape


def figures(ttft: float, tokens: float = 100.0) -> dict[str, float | None]:
    return {"ttft_mean": ttft, "ttft_p99": 10 * ttft, "tpot_mean": 0.05, "tpot_p99": 0.1, "tokens_per_s": tokens}


def pair(policy: str, seed: int, online: float, offline: float) -> Pair:
    return Pair(policy, seed, figures(online), figures(offline), figures(online))


PAIRS = [
    pair("round-robin", 1, 1.0, 1.0),
    pair("llm-metric", 1, 0.1, 0.2),
    pair("round-robin", 2, 2.0, 1.6),
    pair("llm-metric", 2, 0.6, 0.4),
    pair("round-robin", 3, 4.0, 4.0),
    pair("llm-metric", 3, 0.8, 0.8),
]


def test_ratios_are_to_round_robin_with_the_same_seed() -> None:
    found = ratios(PAIRS)
    assert found["llm-metric"]["ttft_mean"] == 0.2  # of 0.1, 0.3 and 0.2
    assert list(found["round-robin"].values()) == [1.0] * 4
    assert json.loads(json.dumps(found)) == found


def test_the_table_has_the_difference_between_online_and_offline() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(PAIRS).splitlines() if line]
    assert [row[2] for row in rows if row[1] == "difference"] == ["-20%", "+0%", "-33%", "+0%"]
    assert ["llm-metric", "online", "600", "6,000", "50.0", "100.0", "100"] in rows


def test_where_offline_is_far_from_online_it_is_said_and_whether_placement_is_the_reason() -> None:
    told = agreement(PAIRS)
    assert told.startswith("Online and offline agree within 15%, but for round-robin ttft_mean -20.0% (with online's")
    assert "llm-metric ttft_p99 -33.3% (with online's placements +0.0%)" in told
    assert differences(PAIRS)["llm-metric"] == {
        "ttft_mean": -0.3333, "ttft_p99": -0.3333, "tpot_mean": 0.0, "tpot_p99": 0.0, "tokens_per_s": 0.0
    }  # fmt: skip
    assert agreement([pair("round-robin", 1, 1.0, 1.14)]) == "Online and offline agree within 15%."


def test_a_replay_places_each_request_where_it_was() -> None:
    plan = plans.build(Shape(requests=200), 1)
    first = virtual.simulate(plan, "llm-metric", 1, 5.0)
    again = virtual.replay(plan, first)
    assert {one.number: one.endpoint for one in again.samples} == {one.number: one.endpoint for one in first.samples}
    assert headline(again, Slo()) == headline(first, Slo())


@pytest.mark.parametrize("speed", [1.0, 5.0])
def test_a_way_to_the_engines_that_takes_longer_shows_in_the_first_token(speed: float) -> None:
    plan = plans.build(Shape(requests=100, clients=2), 1)
    near, far = (
        headline(virtual.simulate(plan, "round-robin", 1, speed, hop), Slo())["ttft_mean"] for hop in (0.0, 0.020)
    )
    assert near is not None
    assert far is not None
    assert far - near == pytest.approx(0.020 * speed, abs=0.02)
