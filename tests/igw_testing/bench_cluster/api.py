"""The API server as the benchmark sees it: watches whose events bear the moment they came, and calls without a
process around them. Moments are seconds since the epoch, so that they can be laid beside the audit log's."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from igw_cluster.apiserver import ApiServer
from igw_cluster.credentials import ADMIN

POOLS: Final = "/apis/inference.networking.k8s.io/v1"
MODELS: Final = "/apis/inference.networking.x-k8s.io/v1alpha2"
# An object of the largest kind, with its managed fields, is a few ten KB.
_LONGEST_LINE: Final = 2**22
# From what the API server has in memory: without a version it first asks etcd, which may take seconds.
_FROM_NOW: Final = {"watch": "1", "resourceVersion": "0"}
_MERGE: Final = "application/merge-patch+json"

Body = Mapping[str, Any]


@dataclass(slots=True)
class Watch:
    """The newest version of each object of a watch, and when each event came."""

    objects: dict[str, Body] = field(default_factory=dict)
    moment: float = 0.0  # of the newest event
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, now: float, type_: str, body: Body) -> None:
        """One event."""
        name = f"{body['metadata'].get('namespace', '')}/{body['metadata']['name']}"
        if type_ == "DELETED":
            self.objects.pop(name, None)
        else:
            self.objects[name] = body
        async with self._news:
            self.moment = now
            self._news.notify_all()

    async def until(self, is_so: Callable[[Mapping[str, Body]], bool], within: float, what: str) -> float:
        """The moment of the event that made it so. Raises TimeoutError."""
        try:
            async with asyncio.timeout(within), self._news:
                while not is_so(self.objects):
                    await self._news.wait()
                return self.moment
        except TimeoutError:
            raise TimeoutError(f"not within {within:.0f} s: {what}") from None


@dataclass(frozen=True, slots=True)
class Api:
    """The administrator's connection."""

    session: aiohttp.ClientSession
    url: str

    async def patch(self, path: str, change: Body) -> float:
        """Merge it into an object. Returns the moment when the API server had answered."""
        data, headers = json.dumps(change), {"content-type": _MERGE}
        async with self.session.patch(self.url + path, data=data, headers=headers) as answer:
            answer.raise_for_status()
            return time.time()

    async def delete(self, path: str) -> float:
        """Delete an object, with its grace period. Returns the moment when the API server had answered."""
        async with self.session.delete(self.url + path) as answer:
            answer.raise_for_status()
            return time.time()

    @asynccontextmanager
    async def watching(self, path: str, **query: str) -> AsyncIterator[Watch]:
        """Follow a collection, from what there is now."""
        watch = Watch()
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._follow(watch, path, query))
            try:
                yield watch
            finally:
                following.cancel()

    async def _follow(self, watch: Watch, path: str, query: Mapping[str, str]) -> None:
        timeout = aiohttp.ClientTimeout(total=None)
        async with self.session.get(self.url + path, params={**_FROM_NOW, **query}, timeout=timeout) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ConnectionError(f"the watch of {path}: {event['object']}")
                await watch.take(time.time(), event["type"], event["object"])
        raise ConnectionError(f"the watch of {path} ended")


@asynccontextmanager
async def connected(server: ApiServer) -> AsyncIterator[Api]:
    """To the API server of a cluster."""
    context = ssl.create_default_context(cafile=str(server.credentials["ca.crt"]))
    headers = {"authorization": f"Bearer {server.credentials.tokens[ADMIN]}"}
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector, headers=headers, read_bufsize=_LONGEST_LINE) as session:
        yield Api(session, server.url)
