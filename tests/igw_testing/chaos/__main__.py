"""The command of `make chaos`. The last line that it prints is one JSON object; the exit code is 0 if the goal was met.

The goal: no request fails that an engine could have served, no stream is cut by a part that did not carry it, all
that was mended is soon as before, and no process grows.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import SystemRandom
from typing import Final

import uvloop

from igw_bench.chaos import standalone
from igw_bench.chaos.figures import Run, shortcomings, summary, table
from igw_bench.chaos.load import session
from igw_bench.chaos.scenario import Scenario
from igw_cluster import builds
from igw_testing.chaos import cluster
from igw_testing.product import Product, running_product

# Both homes, with their starts and ends, are to take five minutes.
STANDALONE_S: Final = 100.0
CLUSTER_S: Final = 80.0
ALL_S: Final = 235.0
SHORTEST_S: Final = 30.0
RATE: Final = 8.0


def main() -> int:
    """Its exit code."""
    options = _options()
    _tell(f"seed {options.seed}: the same faults in the same order by make chaos ARGS='--seed {options.seed}'")
    began = time.monotonic()
    runs = []
    with tempfile.TemporaryDirectory(prefix="igw-chaos-") as folder:
        if options.home != "cluster":
            seconds = options.minutes * 60 if options.minutes else STANDALONE_S
            runs.append(uvloop.run(_standalone(Path(folder), seconds, options)))
        if options.home != "standalone" and (why := _no_cluster()):
            print(f"cluster: left out, {why}")
        elif options.home != "standalone":
            left = lambda: max(min(CLUSTER_S, ALL_S - (time.monotonic() - began)), SHORTEST_S)  # noqa: E731
            with running_product(Path(folder), cluster.VALUES, _tell) as product:
                runs.append(uvloop.run(_on_cluster(product, left, options)))
    for run in runs:
        print("\n".join(("", f"{run.home}:", *table(run))))
    missed = shortcomings(runs)
    print("\n".join(("", *missed[:50])))
    print(json.dumps(summary(runs)))
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1_000_000), help="of all that is random")
    parser.add_argument("--minutes", type=float, help="under load in each home; without it, five in all")
    parser.add_argument("--home", choices=("both", "standalone", "cluster"), default="both")
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second")
    return parser.parse_args()


def _no_cluster() -> str:
    """Why there can be none; empty if there can."""
    if os.geteuid():
        return "it needs root"
    return "it is not built: run `make cluster-build`" if builds.missing(builds.PROGRAMS) else ""


async def _standalone(folder: Path, seconds: float, options: argparse.Namespace) -> Run:
    async with session() as client, standalone.running(folder, client) as home:
        return await Scenario(home, seconds, options.rate, options.seed, _tell).run(client)


async def _on_cluster(product: Product, left: Callable[[], float], options: argparse.Namespace) -> Run:
    async with session() as client:
        home = cluster.prepare(product, client)
        seconds = options.minutes * 60 if options.minutes else left()
        return await Scenario(home, seconds, options.rate, options.seed, _tell).run(client)


def _tell(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
