"""A plan on simulated engines and a virtual clock: the offline benchmark's run as samples. Called by `campaign`.

With a `speed` other than 1 it is what the same plan comes to where engines run so many times as fast, as online, while
the gateway's own times (hops, metrics pages, their intervals) stay as they are: it tells what scaling alone changes.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from igw_bench import policies, split
from igw_bench.command import clocks, division
from igw_bench.command.plans import Plan
from igw_bench.command.samples import ANSWERED, FAILED, REFUSED, Run, Sample
from igw_bench.offline import HOP, Outcome, Record, Simulation
from igw_bench.peers import PEERS
from igw_bench.placers import Recorded
from igw_bench.workloads import Change, Next, Workload
from igw_extproc.scheduling.policies import POLICIES, SPLITS


def known() -> Sequence[str]:
    """Every policy that can be simulated: the product's, and the published rules of other routers."""
    return (*POLICIES, *SPLITS, *PEERS)


def simulate(
    plan: Plan,
    policy: str,
    seed: int,
    speed: float = 1.0,
    hop: float = HOP,
    *,
    queue: bool = False,
    prefillers: int | None = None,
) -> Run:
    """One run. `hop`: real seconds from a client to an engine's queue. `queue`: requests wait in the picker.

    `prefillers`: see `division.roles`.
    """
    workload = scaled(plan.workload, speed)
    limits = clocks.limits(speed) if queue else None
    roles = division.roles(policy, workload, prefillers)
    if roles:
        outcome = split.simulate(workload, clocks.split(policy, speed), roles, seed, hop, limits)
    else:
        outcome = policies.simulate(workload, policy, seed, hop, limits)
    run = _run(plan, outcome, policy, seed, speed, queue)
    return replace(run, endpoints=division.answering(run.endpoints, roles)) if roles else run


def replay(plan: Plan, run: Run, hop: float = HOP) -> Run:
    """The same requests, each on the engine that it was on in `run`."""
    number = {name(at): at for at in range(len(plan.workload.fleet))}
    placed = {one.number: number[one.endpoint] for one in run.samples if one.endpoint in number}
    workload = scaled(plan.workload, run.speed)
    outcome = Simulation(workload, lambda _: Recorded(placed), Random(run.seed), hop).run()
    return _run(plan, outcome, run.policy, run.seed, run.speed)


def _run(plan: Plan, outcome: Outcome, policy: str, seed: int, speed: float, queue: bool = False) -> Run:
    begin = outcome.records[0].sent_at if outcome.records else 0.0
    samples = [_sample(one, queue).on_clock(begin, speed) for one in outcome.records]
    endpoints = tuple(name(at) for at in range(len(plan.workload.fleet)))
    return Run(policy, seed, samples, endpoints, plan.workload.measured_from, speed=speed)


def name(endpoint: int) -> str:
    """As the product's simulated engines are called."""
    return f"engine-{endpoint + 1}"


def scaled(workload: Workload, speed: float) -> Workload:
    """All of a workload's times divided by `speed`."""
    return replace(
        workload,
        fleet=tuple(
            replace(one, speed=one.speed.faster(speed), transfer=one.transfer.faster(speed)) for one in workload.fleet
        ),
        arrivals=tuple(at / speed for at in workload.arrivals),
        changes=tuple(Change(one.at / speed, one.endpoint, one.slowness) for one in workload.changes),
        measured_from=workload.measured_from / speed,
        follow={number: Next(one.job, one.think / speed) for number, one in workload.follow.items()},
        until=workload.until / speed,
    )


def _sample(record: Record, queue: bool) -> Sample:
    job = record.job
    # With a queue, who goes nowhere has been refused by it, since all engines were full.
    nowhere = 429 if queue and not record.order else 503
    outcome = ANSWERED if not record.failed else REFUSED if record.refused or record.first_at < 0 else FAILED
    begun = record.first_at >= 0
    return Sample(
        job.number,
        record.sent_at,
        record.sent_at,
        record.ended_at,
        outcome,
        first_at=record.first_at if begun else None,
        last_at=record.ended_at if begun else None,
        status=200 if outcome == ANSWERED else 400 if record.refused else nowhere,
        error="cut by the engine's end" if outcome == FAILED else "",
        endpoint=name(record.endpoint) if record.endpoint >= 0 else "",
        prompt_tokens=job.prompt_tokens,
        cached_tokens=record.cached_tokens if outcome == ANSWERED else None,
        output_tokens=job.output_tokens if outcome == ANSWERED else 0,
    )
