"""Under a steady load, Pods of engines are deleted one by one, and their Deployment makes new ones: how soon do
requests go to a Pod that has become ready, and when does the last one go to a Pod that was deleted? None may fail.

Each request has a prompt of its own, too short to be worth a cache, so that load alone decides. Its time is when the
client began to send it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from igw_testing.bench_cluster import polls
from igw_testing.bench_cluster.api import Api, Watch
from igw_testing.bench_cluster.figures import Spread, tell
from igw_testing.chat_load import chat_body
from igw_testing.product import Space, is_ready

# Sixteen requests of 200 ms at a time: 80 a second, of which a Pod that has none gets the next.
CLIENTS: Final = 16
TOKENS: Final = 20
ROUNDS: Final = 5
_SOON_S: Final = 30.0


@dataclass(slots=True)
class Load:
    """What clients have seen: when the first and the last request to each Pod began."""

    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    count: int = 0
    failures: list[str] = field(default_factory=list)

    def take(self, began: float, answer: polls.Answer) -> None:
        """One request."""
        self.count += 1
        if answer.status != 200:
            self.failures.append(f"{answer.status} {answer.body[:200]!r}")
            return
        self.first[answer.engine] = min(began, self.first.get(answer.engine, began))
        self.last[answer.engine] = max(began, self.last.get(answer.engine, began))


@dataclass(frozen=True, slots=True)
class Moved:
    """`ready_to_placed` and `deleted_to_last` of each round in seconds, and the requests of all rounds."""

    ready_to_placed: Spread
    deleted_to_last: Spread
    count: int
    failures: list[str]


async def measure(api: Api, space: Space, url: str, app: str) -> Moved:
    """`app`: the engines' Deployment, and the model that they have."""
    placed, left = [], []
    path = f"/api/v1/namespaces/{space.name}/pods"
    async with api.watching(path, labelSelector=f"app={app}") as pods, _load(url, app) as load:
        await pods.until(lambda found: bool(_ready(found)), _SOON_S, f"Pods of {app}")
        for round_ in range(ROUNDS):
            await _settled(load, pods)
            leaving, known = sorted(_ready(pods.objects))[0], _names(pods.objects)
            deleted = await api.delete(f"{path}/{leaving}")
            ready_at = await pods.until(lambda found, known=known: bool(_ready(found) - known), _SOON_S, "a new Pod")  # type: ignore[misc]
            new = (_ready(pods.objects) - known).pop()
            await _until(lambda new=new: new in load.first, f"requests go to {new}")
            await pods.until(lambda found, leaving=leaving: leaving not in _names(found), _SOON_S, f"{leaving} ends")  # type: ignore[misc]
            placed.append(load.first[new] - ready_at)
            left.append(max(load.last[leaving] - deleted, 0.0))
            first, last = f"{placed[-1]:.3f} s", f"{left[-1]:.3f} s"
            tell(f"round {round_ + 1}: a new Pod's first request after {first}, a deleted one's last after {last}")
    return Moved(Spread(placed), Spread(left), load.count, load.failures)


@asynccontextmanager
async def _load(url: str, model: str) -> AsyncIterator[Load]:
    """Clients that ask without a pause while the block runs. Their last requests are waited for."""
    load = Load()
    running = True

    async def client(number: int) -> None:
        turn = 0
        while running:
            turn += 1
            began = time.time()
            prompt = f"Client {number} asks for the {turn}. time."
            load.take(began, await polls.ask(session, url, chat_body(prompt, tokens=TOKENS, model=model)))

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(client(number))
        try:
            yield load
        finally:
            running = False


async def _settled(load: Load, pods: Watch) -> None:
    """Wait until every ready Pod is in use."""
    since = time.time()
    await _until(
        lambda: all(load.last.get(name, 0.0) > since for name in _ready(pods.objects)), "every Pod gets requests"
    )


async def _until(is_so: Any, what: str) -> None:
    deadline = time.monotonic() + _SOON_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_SOON_S:.0f} s: {what}")
        await asyncio.sleep(0.05)


def _ready(found: Any) -> set[str]:
    return {
        pod["metadata"]["name"]
        for pod in found.values()
        if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]
    }


def _names(found: Any) -> set[str]:
    return {pod["metadata"]["name"] for pod in found.values()}
