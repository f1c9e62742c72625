"""A copy of one list of Kubernetes objects, kept up to date: list, then watch from there, for ever.

Used by `sources.kubernetes`. The protocol: a list tells its version; a watch from that version tells every change, and
bookmarks that only move the version on. The server ends a watch when its time is up; we begin another where it ended.
Whatever else happens (refused, cut, silent, version too old) is tried again, after a growing, jittered pause. What is
known stays meanwhile. It must not interpret objects: `read` does.
"""

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import aiohttp
import orjson

from igw_api.objects import Key
from igw_extproc.sources import kube_access
from igw_extproc.sources.kube_access import Access

log = logging.getLogger(__name__)

# Objects of one answer to a list: a hundred Pods are about a megabyte, which takes a few milliseconds to parse.
PAGE: Final = 100
_GONE: Final = 410
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403


class Refused(Exception):
    """The server's answer is an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text[:200]}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds."""

    answer: float = 15.0  # for a whole page of a list, or for a watch to begin
    watch: float = 300.0  # one watch, at most
    # Bookmarks come once a minute: longer silence is a dead connection that nobody told us of.
    silence: float = 90.0
    first_pause: float = 0.05
    longest_pause: float = 5.0
    settled: float = 1.0  # a watch that lasted so long was a good one
    credentials: float = 60.0  # after which they are read again


class KubeApi:
    """Requests to the API server with credentials that are always fresh. Use it as made by `connected`."""

    def __init__(self, session: aiohttp.ClientSession, kubeconfig: Path | None, access: Access, pace: Pace) -> None:
        self.pace = pace
        self._session = session
        self._kubeconfig = kubeconfig
        self._access = access
        self._read_at = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def get(self, path: str, query: Mapping[str, str], silence: float) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a GET, if it is a good one. Raises Refused, NoAccess, aiohttp.ClientError, TimeoutError."""
        access = await self._fresh()
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if access.token:
            headers["Authorization"] = f"Bearer {access.token}"
        limits = aiohttp.ClientTimeout(total=None, connect=self.pace.answer, sock_read=silence)
        tls = access.tls if access.tls is not None else True
        async with self._session.get(
            access.server + path, params=query, headers=headers, timeout=limits, ssl=tls
        ) as response:
            if response.status == _UNAUTHORIZED:
                self._read_at = float("-inf")
            if response.status != 200:
                raise Refused(response.status, _message(await response.read()))
            yield response

    async def _fresh(self) -> Access:
        now = asyncio.get_running_loop().time()
        if now - self._read_at >= self.pace.credentials:
            self._access = await asyncio.to_thread(kube_access.load, self._kubeconfig)
            self._read_at = now
        return self._access


@asynccontextmanager
async def connected(kubeconfig: Path | None, pace: Pace) -> AsyncIterator[KubeApi]:
    """Raises NoAccess at once where there is nobody to connect to; that nobody answers is no error."""
    access = await asyncio.to_thread(kube_access.load, kubeconfig)
    connector = aiohttp.TCPConnector(limit=0, socket_factory=_watchful_socket)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield KubeApi(session, kubeconfig, access, pace)


def _watchful_socket(address: Any) -> socket.socket:
    """One on which the kernel notices within half a minute that the other side is gone without a word."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4)):
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


Kept = TypeVar("Kept")


class Mirror(Generic[Kept]):
    """What `read` makes of each object of one list; None leaves it out. `changed` is called after each difference.

    `forbidden`: the server's last word was that we have no right to them.
    """

    def __init__(
        self,
        api: KubeApi,
        path: str,
        select: Mapping[str, str],
        read: Callable[[Any], Kept | None],
        changed: Callable[[], None],
        rng: random.Random,
    ) -> None:
        """`select`: the query that narrows list and watch alike. `rng` spreads what many pickers do at once."""
        self.items: dict[Key, Kept] | None = None  # None: never listed
        self.forbidden = False
        self._api = api
        self._path = path
        self._select = select
        self._read = read
        self._changed = changed
        self._rng = rng
        self._version: str | None = None
        self._pause = api.pace.first_pause
        self._trouble = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                if self._version is None:
                    await self._list()
                if await self._watch(self._version or ""):
                    self._well()
                    continue
                trouble = "the watch ended early"
            except Refused as error:
                # Whatever the server dislikes of a watch (most likely its version), a new list heals.
                self._version = None
                self._forbid(error.status == _FORBIDDEN)
                trouble = str(error)
            except (aiohttp.ClientError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                # No connection, no credentials (NoAccess), or an answer that is not the API's but a proxy's.
                trouble = f"{type(error).__name__} {error}"
            self._complain(trouble)
            await asyncio.sleep(self._rng.uniform(0.5, 1.0) * self._pause)
            self._pause = min(self._pause * 2, self._api.pace.longest_pause)

    async def _list(self) -> None:
        found: dict[Key, Kept] = {}
        query = {**self._select, "limit": str(PAGE)}
        while True:
            async with asyncio.timeout(self._api.pace.answer):
                async with self._api.get(self._path, query, self._api.pace.answer) as response:
                    page = orjson.loads(await response.read())
            for item in page.get("items") or ():
                kept = self._read(item)
                if kept is not None:
                    found[_key(item)] = kept
            rest = page["metadata"].get("continue")
            if not rest:
                break
            query["continue"] = rest
        self._version = page["metadata"]["resourceVersion"]
        # Well is only what can be watched: where that is refused, we come here again and again.
        self.forbidden = False
        if found != self.items:
            self.items = found
            self._changed()

    async def _watch(self, version: str) -> bool:
        """Follow the changes. Returns whether the watch ended as it should, at its time."""
        pace, loop = self._api.pace, asyncio.get_running_loop()
        lasts = max(1, int(self._rng.uniform(0.8, 1.0) * pace.watch))
        query = {
            **self._select,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(lasts),
        }
        began = loop.time()
        # The server ends it in time; if it does not, nor says anything, we do.
        async with (
            asyncio.timeout(lasts + pace.silence),
            self._api.get(self._path, query, pace.silence) as response,
        ):
            async for line in _lines(response.content):
                self._event(orjson.loads(line))
                self._well()
        return loop.time() - began >= min(pace.settled, lasts)

    def _event(self, event: Any) -> None:
        kind, item = event["type"], event["object"]
        if kind == "ERROR":
            raise Refused(int(item.get("code") or _GONE), str(item.get("message", "")))
        if kind != "BOOKMARK":
            self._keep(_key(item), None if kind == "DELETED" else self._read(item))
        self._version = item["metadata"]["resourceVersion"]

    def _keep(self, key: Key, kept: Kept | None) -> None:
        items = self.items if self.items is not None else {}
        if kept == items.get(key):
            return
        if kept is None:
            del items[key]
        else:
            items[key] = kept
        self._changed()

    def _forbid(self, forbidden: bool) -> None:
        if forbidden != self.forbidden:
            self.forbidden = forbidden
            self._changed()

    def _complain(self, trouble: str) -> None:
        """Once for each trouble: it may last for hours."""
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("watch interrupted, what is known stays path=%s reason=%s", self._path, trouble)

    def _well(self) -> None:
        self._pause = self._api.pace.first_pause
        if self._trouble:
            self._trouble = ""
            log.info("watching again path=%s", self._path)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines, however long they are and however they are cut."""
    begun: list[bytes] = []
    async for chunk in content.iter_any():
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*begun, line))
            begun = []
        begun.append(rest)


def _key(item: Any) -> Key:
    return Key(item["metadata"]["namespace"], item["metadata"]["name"])


def _message(body: bytes) -> str:
    """What the server says is wrong."""
    try:
        return str(orjson.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
