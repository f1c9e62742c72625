"""Requests to the engine beside us and to prefillers, and an engine's answer on its way to the client.

Bytes go through as they come: nothing is decoded, decompressed or parsed but a prefiller's whole answer. Whoever calls
is cancelled when its client leaves; a request cancelled before its answer is complete closes its connection, which is
how engines learn that nobody waits.
"""

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from igw_api.wire import DESTINATION_HEADER, PREFILL_FAILURE_HEADER, PREFILL_OUTCOME_HEADER, PREFILLER_HEADER
from igw_sidecar.errors import EngineGone, PrefillFailed
from igw_sidecar.prefillers import Prefiller
from igw_sidecar.settings import Settings
from igw_sidecar.telemetry import Telemetry

_log = logging.getLogger(__name__)

_HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect")
)
_OURS: Final = (PREFILLER_HEADER, PREFILL_FAILURE_HEADER, DESTINATION_HEADER)
_REPLACED: Final = ("content-length",)
# What a prefiller must not see: it has a name of its own, and its answer is read here.
_NOT_FOR_PREFILLERS: Final = (*_REPLACED, "host", "accept-encoding", *_OURS)
_ADDED_BY_CLIENT: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
# Servers of engines close idle connections after 5 s (uvicorn); a request must never meet that.
_KEEP_ALIVE_S: Final = 3.0
# A prefiller's answer is one token and block numbers.
_MOST_ANSWER_BYTES: Final = 16 * 2**20
# The prefiller's word on the request itself, which is as good as any other engine's.
_VERDICTS: Final = frozenset((400, 413, 415, 422))
_LONG_BYTES: Final = 2**20


class Engines:
    """Use as an async context manager, in a running loop."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._settings = settings
        self._telemetry = telemetry

    async def __aenter__(self) -> "Engines":
        # One pool for both: it is kept by host and port.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_s),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_ADDED_BY_CLIENT,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def open(self, request: web.Request, body: bytes | aiohttp.StreamReader | None) -> aiohttp.ClientResponse:
        """Send a request to the engine beside us, as it came but for `body`. EngineGone when there is no answer.

        The caller closes the response.
        """
        drop = _OURS if body is request.content else (*_REPLACED, *_OURS)
        url = _at(str(self._settings.engine.origin()), request)
        try:
            return await self._session.request(
                request.method, url, headers=_forwarded(request.headers, drop), data=_data(body), allow_redirects=False
            )
        except aiohttp.ClientError as error:
            _log.warning("engine does not answer error=%s", type(error).__name__)
            raise EngineGone from None

    async def prefill(self, request: web.Request, prefiller: Prefiller, body: bytes) -> bytes:
        """Have a prompt computed; the prefiller's answer, whole. PrefillFailed for whatever goes wrong."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._settings.prefill_s):
                answer = await self._asked(request, prefiller, body)
        except TimeoutError:
            seconds = self._settings.prefill_s
            raise PrefillFailed("timeout", f"Prefiller {prefiller} took more than {seconds:g} s.") from None
        self._telemetry.prefill_seconds.observe(loop.time() - began)
        return answer

    async def _asked(self, request: web.Request, prefiller: Prefiller, body: bytes) -> bytes:
        url = _at(f"http://{prefiller}", request)
        headers = _forwarded(request.headers, _NOT_FOR_PREFILLERS)
        try:
            async with self._session.post(url, headers=headers, data=_data(body), allow_redirects=False) as response:
                answer = await _bounded(response)
        except aiohttp.ClientError as error:
            reason = type(error).__name__
            raise PrefillFailed(
                "unreachable", f"Prefiller {prefiller} cannot be reached, or broke off: {reason}."
            ) from None
        if response.status != 200:
            verdict = (response.status, answer) if response.status in _VERDICTS else None
            raise PrefillFailed("status", f"Prefiller {prefiller} answered {response.status}.", verdict)
        return answer

    async def relay(
        self, request: web.Request, upstream: aiohttp.ClientResponse, outcome: str | None, first: bytes = b""
    ) -> web.StreamResponse:
        """Send the engine's answer on, chunk by chunk. When it breaks off, so does the client's."""
        headers = _forwarded(upstream.headers, ())
        if outcome is not None:
            headers[PREFILL_OUTCOME_HEADER] = outcome
        response = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)
        await response.prepare(request)
        if first:
            await response.write(first)
        try:
            async for chunk in upstream.content.iter_any():
                await response.write(chunk)
        except aiohttp.ClientError as error:
            if isinstance(error, aiohttp.ClientConnectionResetError):
                raise  # the client's connection, not the engine's
            _log.warning("answer broke off error=%s", type(error).__name__)
            # Without the last chunk or all the bytes announced, the client sees that something is missing.
            if request.transport is not None:
                request.transport.close()
        return response

    @asynccontextmanager
    async def opened(
        self, request: web.Request, body: bytes | aiohttp.StreamReader | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """`open`, closed at the end: at once if the answer is not complete."""
        response = await self.open(request, body)
        try:
            yield response
        finally:
            response.release()


def _data(body: bytes | aiohttp.StreamReader | None) -> object:
    """Long ones as a file: aiohttp then writes them piece by piece."""
    return io.BytesIO(body) if isinstance(body, bytes) and len(body) > _LONG_BYTES else body


def _at(origin: str, request: web.Request) -> URL:
    """The same path and query elsewhere, letter for letter. Never joined: a path may look like another origin."""
    return URL(origin + request.rel_url.raw_path_qs, encoded=True)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for chunk in response.content.iter_any():
        parts.append(chunk)
        size += len(chunk)
        if size > _MOST_ANSWER_BYTES:
            raise PrefillFailed("answer", "The prefiller's answer is too large.")
    return b"".join(parts)


def _forwarded(headers: CIMultiDictProxy[str], drop: Iterable[str]) -> CIMultiDict[str]:
    """Headers without those that are about one connection only, and without `drop`."""
    kept = CIMultiDict(headers)
    named = (name.strip() for name in headers.get("connection", "").split(","))
    for name in (*_HOP_BY_HOP, *drop, *filter(None, named)):
        kept.popall(name, None)
    return kept
