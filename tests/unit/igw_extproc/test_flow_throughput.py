"""Requests that wait in the picker cost no throughput, and engines have hardly a queue: on modelled engines."""

import random
from statistics import fmean

import pytest

from igw_sim.model import Request
from igw_testing.batching_pool import BatchingPool


def chat(count: int, seed: int) -> list[Request]:
    """Short questions, long answers, both of very unequal lengths: engines run out of KV cache."""
    rng = random.Random(seed)
    sizes = [(rng.lognormvariate(4.1, 1.35), rng.lognormvariate(5.2, 0.95)) for _ in range(count)]
    return [Request(f"r{at}", int(min(p, 2000)) + 1, int(min(o, 1500)) + 1) for at, (p, o) in enumerate(sizes)]


def short(count: int) -> list[Request]:
    """Little to hold: engines run out of seats, which they do not tell."""
    rng = random.Random(7)
    return [Request(f"r{at}", rng.randint(20, 200), rng.randint(20, 100)) for at in range(count)]


def documents(count: int) -> list[Request]:
    """Long prompts: engines have much to compute, and few fit."""
    rng = random.Random(7)
    return [Request(f"r{at}", rng.randint(2000, 12_000), rng.randint(50, 400)) for at in range(count)]


@pytest.mark.parametrize(
    ("preset", "clients", "lists"),
    [
        # Who is preempted is chance here: one list alone says little.
        pytest.param("a10-llama2-7b", 140, [chat(600, seed) for seed in (7, 1, 2)], id="chat"),
        pytest.param("tiny", 100, [short(1500)], id="short"),
        pytest.param("h100-llama3-8b", 150, [documents(500)], id="documents"),
    ],
)
def test_engines_stay_full_though_the_queue_is_in_the_picker(
    preset: str, clients: int, lists: list[list[Request]]
) -> None:
    """Twice the clients that the engines can serve at once. At most 2 % of the throughput may be lost."""
    before = after = 0.0
    for requests in lists:
        without, queued = BatchingPool(preset, 2, queued=False), BatchingPool(preset, 2, queued=True)
        before += without.run(clients, requests)
        after += queued.run(clients, requests)
        assert fmean(queued.waiting) <= 0.25 * fmean(without.waiting)
    assert after >= 0.98 * before
