"""From `kubectl apply` of a pool to its first answer, on a Gateway whose Envoy runs, with engines that are ready.

The first pool of a listener needs a picker of its own; a second one finds it running. Both are tried once on each of
three listeners. A moment is when the answer had come to a client that asks every 20 ms; time runs from the start of
kubectl, which itself takes part of it.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import aiohttp

from igw_testing import operator_manifests as manifests
from igw_testing.bench_cluster import polls
from igw_testing.bench_cluster.figures import Spread, tell
from igw_testing.product import Product, Space, engine_pods, manifest, service

GATEWAY: Final = manifests.GATEWAY
PORTS: Final = (8081, 8082, 8083)
ENGINES: Final = ("first", "second")
_WITHIN: Final = 150.0


@dataclass(frozen=True, slots=True)
class Appeared:
    """Seconds from the start of kubectl: to its end, to the first answer, to the first that the picker decided."""

    kubectl: float
    answered: float
    placed: float


def prepare(product: Product) -> Space:
    """A Gateway with a plain route on 8080 and nothing behind its other ports, and engines of two models."""
    space = product.space()
    route = {
        "parentRefs": [{"name": GATEWAY, "port": 8080}],
        "rules": [{"backendRefs": [{"name": "first", "port": 8000}]}],
    }
    plain = manifest("gateway.networking.k8s.io/v1", "HTTPRoute", "plain", route)
    deployments = (engine_pods(name, 3 if name == "first" else 1, model=name) for name in ENGINES)
    space.apply(manifests.gateway(ports=(8080, *PORTS)), *deployments, service("first"), plain)
    for name in ENGINES:
        space.ready(name)
    return space


async def measure(space: Space) -> dict[str, list[Appeared]]:
    """Both cases on each listener."""
    found: dict[str, list[Appeared]] = {name: [] for name in ENGINES}
    async with aiohttp.ClientSession() as session:
        plain = await asyncio.to_thread(space.chats, GATEWAY, 8080)
        await polls.first(session, plain, "first", polls.answered_by("first"), _WITHIN)
        for port in PORTS:
            for name in ENGINES:
                found[name].append(one := await _appears(session, space, name, port))
                tell(
                    f"{name} pool on port {port}: answered after {one.answered:.2f} s, "
                    f"placed after {one.placed:.2f} s, kubectl took {one.kubectl:.2f} s"
                )
    return found


async def _appears(session: aiohttp.ClientSession, space: Space, engine: str, port: int) -> Appeared:
    """Each pool is a new one, with a model of its own; all of one kind have the same engines."""
    url = await asyncio.to_thread(space.chats, GATEWAY, port)
    text = pool_and_model(f"{engine}-{port}", port, engine)
    if engine == "first":
        deciding = polls.first(session, url, "nobody-has-this", polls.refused_by_the_picker, _WITHIN)
    else:
        # Only the picker leads to it.
        deciding = polls.first(session, url, engine, polls.answered_by(engine), _WITHIN)
    async with asyncio.TaskGroup() as group:
        answered = group.create_task(polls.first(session, url, engine, polls.answered_by(engine), _WITHIN))
        placed = group.create_task(deciding)
        began = time.time()
        await asyncio.to_thread(space.kubectl, "apply", "-f", "-", stdin=text)
        applied = time.time()
    return Appeared(applied - began, answered.result() - began, placed.result() - began)


def pool_and_model(name: str, port: int, engine: str) -> str:
    """A pool of some engines on a port, and the model that they have, which clients ask for by its name."""
    pool = manifests.pool(name, port, picker=f"{name}-picker", selector={"matchLabels": {"app": engine}})
    of = {"group": "inference.networking.k8s.io", "name": name}
    spec = {"modelName": engine, "poolRef": of}
    return f"{pool}---\n{manifest('inference.networking.x-k8s.io/v1alpha2', 'InferenceModel', name, spec)}"


def spreads(found: dict[str, list[Appeared]]) -> dict[str, Spread]:
    """By what is measured."""
    return {
        f"{what}_{name}": Spread([getattr(one, what) for one in found[name]])
        for name in ENGINES
        for what in ("answered", "placed", "kubectl")
    }
