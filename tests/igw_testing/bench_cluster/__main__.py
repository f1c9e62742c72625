"""The order of the parts, on one cluster; the last line that is printed is one JSON object."""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from igw_testing.bench_cluster import api, cpu, endpoints, many, pools
from igw_testing.bench_cluster.cpu import Cost
from igw_testing.bench_cluster.figures import Spread, tell
from igw_testing.product import Product, running_product

COUNTS = (1, 50, 300)


def main() -> None:
    """All of it, on a cluster of its own that ends with it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="igw-bench-cluster-") as folder, running_product(Path(folder)) as product:
        figures = {**asyncio.run(_serving(product)), **_cpu(product), **asyncio.run(_reconciling(product))}
    tell(f"took {time.monotonic() - began:.0f} s")
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


async def _serving(product: Product) -> dict[str, float]:
    """Pools that appear, and engines that come and go."""
    _begin("from kubectl apply to the first answers")
    space = await asyncio.to_thread(pools.prepare, product)
    appeared = pools.spreads(await pools.measure(space))
    _begin(f"engines' Pods deleted one by one, under {endpoints.CLIENTS} requests at a time")
    async with api.connected(product.cluster.server) as kube:
        url = await asyncio.to_thread(space.chats, pools.GATEWAY, pools.PORTS[0])
        moved = await endpoints.measure(kube, space, url, "first")
    tell(f"{moved.count} requests, {len(moved.failures)} of them failed {moved.failures[:3]}")
    space.remove()
    if moved.failures:
        sys.exit("bench-cluster: requests have failed")
    spreads = {**appeared, "ready_to_placed": moved.ready_to_placed, "deleted_to_last": moved.deleted_to_last}
    for name, one in spreads.items():
        tell(f"{name}: {one}")
    return {
        "apply_to_answer_s": appeared["answered_first"].median,
        "apply_to_placed_s": appeared["placed_first"].median,
        "apply_to_answer_second_s": appeared["answered_second"].median,
        "ready_to_placed_s": moved.ready_to_placed.median,
        "deleted_to_last_s": moved.deleted_to_last.median,
        "requests": moved.count,
        "requests_failed": len(moved.failures),
    }


def _cpu(product: Product) -> dict[str, float]:
    """The picker's CPU by way of Envoy Gateway."""
    _begin("CPU of the picker and of Envoy for the same requests")
    space = cpu.prepare(product)
    found: Mapping[str, list[Cost]] = cpu.measure(product, space)
    space.remove()
    return {f"cpu_ratio_{name}": Spread([one.ratio for one in costs]).median for name, costs in found.items()}


async def _reconciling(product: Product) -> dict[str, float]:
    """Many pools at once, and then nothing."""
    _begin("pools that are all applied at once")
    spaces = await asyncio.to_thread(many.prepare, product)
    figures: dict[str, float] = {}
    async with api.connected(product.cluster.server) as kube:
        bench = many.Bench(product, kube, spaces)
        for count in COUNTS:
            done = await bench.reconcile(count)
            figures |= {f"reconcile_{count}_s": done.seconds, f"pass_{count}_s": done.one_pass}
            if count != COUNTS[-1]:
                await bench.remove()
        changed = await bench.change_one(COUNTS[-1])
        idle, memory = await bench.idle(), await asyncio.to_thread(bench.memory)
    return {
        **figures,
        "writes_per_pool": done.writes / done.pools,
        "events_per_pool": done.events / done.pools,
        "change_at_300_s": changed.median,
        "operator_rss_mb_300": max(memory.values()),
        "idle_calls_per_min": idle.calls,
        "idle_peering_calls_per_min": idle.peering,
        "idle_watches_per_min": idle.watches,
    }


def _begin(part: str) -> None:
    """With how busy the machine was in the minute before: others' work makes all times longer."""
    tell(f"{part} (load {os.getloadavg()[0]:.1f}):")


if __name__ == "__main__":
    main()
