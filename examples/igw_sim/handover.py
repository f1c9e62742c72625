"""One engine's part in handing KV over: what it keeps for others, and what it fetches from them.

No KV is sent. An answer that comes when the KV would have come stands for it, so an engine that is gone, slow or cut
off shows as it would. Engines talk to each other on their API ports:

    POST   /kv/requests/{id}?tokens=N   answered when the KV of a finished prefill is across, which is then let go of
    PUT    /kv/requests/{id}            keep it for another lease: the decoder has it in its queue (vLLM's heartbeat)
    DELETE /kv/requests/{id}            let go of it unread
    POST   /kv/rooms/{room}?tokens=N    SGLang's: meet the prefill, wait for it, answered when the KV is across

`server` mounts the routes and calls the rest.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from igw_sim.calls import ApiError
from igw_sim.driver import Driver, Ticket
from igw_sim.faults import Faults
from igw_sim.model import Finished, Request
from igw_sim.rooms import Broken, Room
from igw_sim.splits import Split
from igw_sim.transfer import Link, Transfer

_log = logging.getLogger(__name__)

PREFIX = "/kv/"
# A decoder asks for another lease this many times before one ends.
_BEATS = 3
# For the small messages between engines, in seconds.
_PATIENCE_S = 5.0
# A transfer that hangs ends when its reader gives up, or after this long.
_HANG_S = 3600.0


@dataclass(slots=True)
class _Kept:
    driver: Driver
    expiry: asyncio.TimerHandle


class Handover:
    """Open with `open`, end with `close`. `lease_s`: how long KV, or a room, waits for its other half."""

    def __init__(self, transfer: Transfer, lease_s: float, faults: Faults) -> None:
        self._link = Link(transfer)
        self._lease_s = lease_s
        self._faults = faults
        self._kept: dict[str, _Kept] = {}
        self._rooms: dict[str, Room] = {}
        # Where other engines find this one.
        self.address = ("", 0)
        self._session: aiohttp.ClientSession | None = None
        # Leases that ended unread.
        self.expired = 0

    def mount(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post(PREFIX + "requests/{key}", self._read)
        app.router.add_put(PREFIX + "requests/{key}", self._extend)
        app.router.add_delete(PREFIX + "requests/{key}", self._forget)
        app.router.add_post(PREFIX + "rooms/{key}", self._read_room)

    def open(self, address: tuple[str, int]) -> None:
        """Begin, at this address."""
        self.address = address
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_PATIENCE_S)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))

    async def close(self) -> None:
        """Drop every connection and every lease."""
        for kept in self._kept.values():
            kept.expiry.cancel()
        if self._session is not None:
            await self._session.close()

    # The engine that computed the prompt.

    def keeps(self, request_id: str) -> bool:
        """Whether a finished request's KV waits here, under a lease."""
        return request_id in self._kept

    def keep(self, request: Request, driver: Driver) -> dict[str, Any]:
        """Put the KV of a finished prefill under a lease. Returns the `kv_transfer_params` that lead to it."""
        expiry = asyncio.get_running_loop().call_later(self._lease_s, self._expire, request.id)
        self._kept[request.id] = _Kept(driver, expiry)
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_block_ids": [list(range(1, -(-request.prompt_tokens // driver.engine.limits.block_tokens) + 1))],
            "remote_engine_id": f"{self.address[0]}:{self.address[1]}",
            "remote_request_id": request.id,
            "remote_host": self.address[0],
            "remote_port": self.address[1],
            "tp_size": 1,
            "remote_num_tokens": request.prompt_tokens,
        }

    async def serve(self, split: Split, request: Request, driver: Driver) -> Finished:
        """SGLang's prefill: wait for the decoder, compute, hand over. ApiError 500 when that cannot be done."""
        room = self._room(split.key)
        room.opened.set()
        try:
            async with asyncio.timeout(self._lease_s):
                await room.reached(room.met)
            room.ticket = driver.submit(request)
            finished = await room.ticket.done()
            room.computed.set()
            await room.reached(room.moved)
            return finished
        except (Broken, TimeoutError) as error:
            raise ApiError(500, str(error) or "no decoder came for the KV", "InternalServerError") from None
        finally:
            driver.drop(request.id)
            room.fail("the prefill is gone")
            self._rooms.pop(split.key, None)

    def _expire(self, key: str) -> None:
        self.expired += 1
        _log.info("lease ended request=%s", key)
        self._let_go(key)

    def _let_go(self, key: str) -> bool:
        kept = self._kept.pop(key, None)
        if kept is None:
            return False
        kept.expiry.cancel()
        kept.driver.drop(key)
        return True

    def _room(self, key: str) -> Room:
        return self._rooms.setdefault(key, Room())

    async def _read(self, request: web.Request) -> web.Response:
        kept = self._kept.pop(request.match_info["key"], None)
        if kept is None:
            return web.Response(status=404)
        kept.expiry.cancel()
        try:
            return await self._send(request)
        finally:
            # Read or not: its reader is done with it, or gone.
            kept.driver.drop(request.match_info["key"])

    async def _extend(self, request: web.Request) -> web.Response:
        kept = self._kept.get(key := request.match_info["key"])
        if kept is None:
            return web.Response(status=404)
        kept.expiry.cancel()
        kept.expiry = asyncio.get_running_loop().call_later(self._lease_s, self._expire, key)
        return web.Response(status=204)

    async def _forget(self, request: web.Request) -> web.Response:
        return web.Response(status=204 if self._let_go(request.match_info["key"]) else 404)

    async def _read_room(self, request: web.Request) -> web.Response:
        room = self._room(key := request.match_info["key"])
        room.met.set()
        try:
            async with asyncio.timeout(self._lease_s):
                await room.reached(room.opened)
            await room.reached(room.computed)
            response = await self._send(request)
            if response.status == 200:
                room.moved.set()
            return response
        except (Broken, TimeoutError):
            return web.Response(status=409)
        finally:
            if not room.moved.is_set():
                room.fail("the decoder is gone")
            if not room.opened.is_set():
                self._rooms.pop(key, None)

    async def _send(self, request: web.Request) -> web.Response:
        if self._faults.transfer == "fail":
            return web.Response(status=500)
        loop = asyncio.get_running_loop()
        through = self._link.carry(int(request.query["tokens"]), loop.time())
        await asyncio.sleep(through - loop.time() if self._faults.transfer == "ok" else _HANG_S)
        return web.Response(status=200)

    # The engine that decodes.

    async def fetch(self, split: Split, ticket: Ticket, deliver: Callable[[], None]) -> None:
        """Wait until the request is admitted, get its prompt's KV, `deliver` it. ApiError 500 if it does not come.

        Cancelled or failed before the KV was asked for, it tells the other engine to let go of it.
        """
        asked = False
        try:
            tokens = await self._admitted(split, ticket)
            asked = True
            await self._ask(split, tokens)
            deliver()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiError(500, f"KV transfer failed: {type(error).__name__}", "InternalServerError") from None
        finally:
            if not asked and not split.room:
                await self._notify("DELETE", split)

    async def _admitted(self, split: Split, ticket: Ticket) -> int:
        while ticket.fetch is None:
            try:
                async with asyncio.timeout(self._lease_s / _BEATS):
                    await ticket.changed()
            except TimeoutError:
                if not split.room:
                    await self._notify("PUT", split)
        return ticket.fetch.tokens

    async def _ask(self, split: Split, tokens: int) -> None:
        loop = asyncio.get_running_loop()
        through = self._link.carry(tokens, loop.time())
        async with self._client().post(_url(split), params={"tokens": tokens}) as response:
            response.raise_for_status()
        await asyncio.sleep(through - loop.time())

    async def _notify(self, method: str, split: Split) -> None:
        """A small message that may be lost: the lease ends by itself."""
        try:
            async with asyncio.timeout(_PATIENCE_S), self._client().request(method, _url(split)):
                pass
        except (aiohttp.ClientError, TimeoutError):
            _log.info("notification lost method=%s", method)

    def _client(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session


def _url(split: Split) -> str:
    host = f"[{split.host}]" if ":" in split.host else split.host
    return f"http://{host}:{split.port}{PREFIX}{'rooms' if split.room else 'requests'}/{split.key}"
