"""Every policy and seed on one target, one after the other. Called by `cli` and `live`.

Three targets: a URL; the whole product on this machine, started anew for each run; the offline simulation.
"""

import asyncio
import resource
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import fsum
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import aiohttp

from igw_bench.command import division, plans, product, virtual
from igw_bench.command.client import Asker, Target
from igw_bench.command.figures import Slo
from igw_bench.command.loops import Load
from igw_bench.command.plans import Plan, Shape
from igw_bench.command.progress import Progress
from igw_bench.command.samples import Run
from igw_bench.workers import workers
from igw_bench.workloads import Job

# The one policy of a target that places as it likes.
AS_IT_IS = "as it is"
# Numbers of requests that no plan has.
_WARM_UP = 1 << 40


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a campaign is. `target`: a URL instead of the product; `offline`: no sockets at all.

    `prefillers`: see `division.roles`.
    """

    shape: Shape
    policies: Sequence[str]
    seeds: Sequence[int]
    slo: Slo = field(default_factory=Slo)
    target: Target | None = None
    offline: bool = False
    speed: float = 1.0
    queue: bool = False
    prefillers: int | None = None
    timeout: float = 600.0

    @property
    def cells(self) -> list[tuple[str, int]]:
        """All policies with the first seed, then with the next: early results compare already."""
        return [(policy, seed) for seed in self.seeds for policy in self.policies]


def offline(settings: Settings, progress: Progress) -> list[Run]:
    """On a virtual clock, as many at once as there are cores."""
    cells = settings.cells
    runs = []
    with workers(len(cells)) as pool:
        for run in pool.map(partial(_simulate, settings), cells):
            runs.append(run)
            progress.ended(run, len(cells))
    return runs


def _simulate(settings: Settings, cell: tuple[str, int]) -> Run:
    policy, seed = cell
    began = perf_counter()
    run = virtual.simulate(
        plans.build(settings.shape, seed),
        policy,
        seed,
        settings.speed,
        queue=settings.queue,
        prefillers=settings.prefillers,
    )
    return replace(run, seconds=perf_counter() - began)


async def online(settings: Settings, progress: Progress) -> list[Run]:
    """Over sockets, one after the other. Raises children.NotStarted."""
    _allow_files()
    runs = []
    for policy, seed in settings.cells:
        plan = plans.build(settings.shape, seed)
        if settings.target is not None:
            run = await _against(settings.target, plan, policy, seed, progress)
        else:
            run = await _against_product(settings, plan, policy, seed, progress)
        runs.append(run)
        progress.ended(run, len(settings.cells))
    return runs


async def _against(target: Target, plan: Plan, policy: str, seed: int, progress: Progress) -> Run:
    # Another seed asks other texts: what a target keeps of the run before helps none.
    target = replace(target, salt=f"{target.salt}/{seed}")
    async with _session() as session:
        load = Load(plan, Asker(session, target, plan).ask)
        blank = Run(policy, seed, [], counted_from=plan.workload.measured_from)
        return await _measured(load.run(), load, blank, progress)


async def _against_product(settings: Settings, plan: Plan, policy: str, seed: int, progress: Progress) -> Run:
    speed = settings.speed
    roles = division.roles(policy, plan.workload, settings.prefillers)
    fleet = product.Fleet(plan.workload.fleet, policy, speed, settings.queue, roles)
    progress.says(f"{policy}, seed {seed}: starting {len(fleet.engines)} simulated engines, the picker and Envoy")
    with tempfile.TemporaryDirectory(prefix="igw-bench-") as directory:
        async with product.running(Path(directory), fleet) as gateway, _session() as session:
            target = Target(gateway.url, product.MODEL, ends="hidden", timeout=settings.timeout / speed)
            asker = Asker(session, target, plan)
            await _warm_up(asker, plan.workload.clients or plans.CLIENTS)
            load = Load(plan, asker.ask, speed)
            blank = Run(policy, seed, [], gateway.answering, plan.workload.measured_from, speed=speed)
            before = await gateway.engines_ttft()
            run = await _measured(load.run(gateway.change), load, blank, progress)
            return replace(run, outside=_outside(run, before, await gateway.engines_ttft()))


def _outside(run: Run, before: tuple[int, float], after: tuple[int, float]) -> float | None:
    """Mean TTFT without the engines' part. None when an engine has died, and its memory with it."""
    ttft = [one.ttft for one in run.samples if one.ttft is not None]
    count, seconds = after[0] - before[0], after[1] - before[1]
    if not ttft or count != len(ttft):
        return None
    return fsum(ttft) / len(ttft) / run.speed - seconds / count


async def _warm_up(asker: Asker, count: int) -> None:
    """Open the connections of all clients, through to the engines: a gateway that has been up for a while has them.

    Twice, so that what runs for the first time has run. Tiny requests, so that they leave nothing behind.
    """
    for turn in range(2):
        async with asyncio.TaskGroup() as group:
            for at in range(count):
                group.create_task(asker.ask(Job(_WARM_UP + turn * count + at, 16, 2), 0.0))


async def _measured(running: Coroutine[Any, Any, None], load: Load, blank: Run, progress: Progress) -> Run:
    """The run, with what it took."""
    began, computed = perf_counter(), process_time()
    async with progress.shown(f"{blank.policy}, seed {blank.seed}", load.tally):
        await running
    seconds = perf_counter() - began
    busy = (process_time() - computed) / seconds
    return replace(blank, samples=load.samples(), seconds=seconds, busy=busy)


def _session() -> aiohttp.ClientSession:
    """No limit on connections: a sender that holds requests back would hide what it measures. No proxy either."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), trust_env=False)


def _allow_files() -> None:
    """As many open connections as the system lets us have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
