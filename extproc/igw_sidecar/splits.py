"""The two ways in which a request is shared with a prefiller.

vLLM: first the prefill, then the decode with what the prefill's answer says of the KV. SGLang: both at once, in one
room. Both raise PrefillFailed as long as the client has seen nothing, so that the request can still be run locally;
both stop the other half when one fails or the client leaves.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from igw_api.wire import PREFILLED_REMOTELY
from igw_sidecar import bodies
from igw_sidecar.engines import Engines
from igw_sidecar.errors import EngineGone, PrefillFailed, SplitError
from igw_sidecar.prefillers import Prefiller
from igw_sidecar.settings import Format

_log = logging.getLogger(__name__)

# How both engines begin an event that says that the reply has failed.
_ERROR_EVENT = b'data: {"error"'
# When SGLang's decoder fails first, its prefiller fails within moments, and knows more; in seconds.
_AFTERMATH_S = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """A request to be split. `group` runs what outlives no request."""

    request: web.Request
    body: dict[str, Any]
    prefiller: Prefiller
    bootstrap_port: int
    group: asyncio.TaskGroup


async def vllm(engines: Engines, job: Job) -> web.StreamResponse:
    """Prefill, then decode."""
    answer = await engines.prefill(job.request, job.prefiller, orjson.dumps(bodies.vllm_prefill(job.body)))
    try:
        decode = bodies.vllm_decode(job.body, orjson.loads(answer))
    except orjson.JSONDecodeError:
        decode = None
    if decode is None:
        raise PrefillFailed("answer", f"Prefiller {job.prefiller} does not say where the KV is: no kv_transfer_params.")
    opened = await _begun(engines, job.request, orjson.dumps(decode))
    try:
        opened.check()
        return await engines.relay(job.request, opened.response, PREFILLED_REMOTELY, opened.first)
    finally:
        opened.response.release()


async def sglang(engines: Engines, job: Job) -> web.StreamResponse:
    """Prefill and decode at once."""
    room = secrets.randbelow(bodies.ROOMS)
    body = orjson.dumps(bodies.sglang(job.body, job.prefiller, job.bootstrap_port, room))
    prefill = job.group.create_task(_failure(engines, job, body))
    decode = job.group.create_task(_begun_or_failed(engines, job.request, body))
    try:
        await asyncio.wait((prefill, decode), return_when=asyncio.FIRST_COMPLETED)
        if not decode.done() and (failure := prefill.result()) is not None:
            raise failure
        opened = await decode
        if isinstance(opened, SplitError):
            raise opened
        if opened.failed:
            # Most likely because the prefill failed, which says why.
            await asyncio.wait((prefill,), timeout=_AFTERMATH_S)
            if prefill.done() and (failure := prefill.result()) is not None:
                raise failure
            opened.check()
        return await engines.relay(job.request, opened.response, PREFILLED_REMOTELY, opened.first)
    finally:
        prefill.cancel()
        if not decode.cancel() and not decode.cancelled() and isinstance(opened := decode.result(), _Opened):
            opened.response.release()


@dataclass(frozen=True, slots=True)
class _Opened:
    """The engine's answer with the first bytes of its body. Until there are some, the client is told nothing."""

    response: aiohttp.ClientResponse
    first: bytes

    @property
    def failed(self) -> bool:
        """Whether it is an error of the engine's; streams have status 200 before anything can fail."""
        return self.response.status >= 500 or self.first.startswith(_ERROR_EVENT)

    def check(self) -> None:
        """PrefillFailed if so."""
        if self.failed:
            status = self.response.status
            said = f"answered {status}" if status >= 500 else "ended its stream with an error"
            raise PrefillFailed("decode", f"The engine {said} when it was to take the KV of its prefiller.")


async def _begun(engines: Engines, request: web.Request, body: bytes) -> _Opened:
    response = await engines.open(request, body)
    try:
        return _Opened(response, await response.content.readany())
    except aiohttp.ClientError:
        response.release()
        raise PrefillFailed("decode", "The engine broke off before its first byte.") from None
    except BaseException:
        response.release()
        raise


# What tasks of the group end with: errors as values, or the group would end with them, and all other requests.


async def _begun_or_failed(engines: Engines, request: web.Request, body: bytes) -> _Opened | SplitError:
    try:
        return await _begun(engines, request, body)
    except SplitError as error:
        return error
    except Exception:
        _log.exception("fault place=decode")
        return EngineGone()


async def _failure(engines: Engines, job: Job, body: bytes) -> PrefillFailed | None:
    try:
        await engines.prefill(job.request, job.prefiller, body)
    except PrefillFailed as error:
        return error
    except Exception:
        _log.exception("fault place=prefill")
        return PrefillFailed("answer", "The prefiller could not be asked.")
    return None


SPLITS: dict[Format, Callable[[Engines, Job], Awaitable[web.StreamResponse]]] = {
    Format.VLLM: vllm,
    Format.SGLANG: sglang,
}
