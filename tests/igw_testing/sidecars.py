"""A sidecar in the test's own process, before a simulated decode engine and beside a simulated prefiller."""

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import orjson
from yarl import URL

from igw_api.wire import PREFILL_FAILURE_HEADER, PREFILLER_HEADER
from igw_sidecar.server import METRICS_PATH, Sidecar
from igw_sidecar.settings import Format, Settings
from igw_testing.sims import RunningSim, running_sim, sim_settings

PROMPT = "tell me a story about the sea " * 20
BODY: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 8}
# The prompt in ten steps of 16 ms: time enough to leave in the middle of it.
SLOW_PREFILL: Mapping[str, Any] = {"prefill_tokens_per_s": 1000, "max_batched_tokens": 16}


@asynccontextmanager
async def running_sidecar(engine: str, **changes: Any) -> AsyncIterator[Sidecar]:
    """A sidecar for as long as the context lasts; `changes` are fields of its settings."""
    # Test machines may be busy: only tests about time say how much there is.
    settings = Settings(URL(engine), host="127.0.0.1", port=0, bootstrap_port=0, connect_s=15.0, drain_s=1.0)
    async with Sidecar(replace(settings, **changes)) as sidecar:
        yield sidecar


@dataclass(frozen=True, slots=True)
class Pair:
    """Two engines, the sidecar before the one that decodes, and a client of it."""

    prefill: RunningSim
    decode: RunningSim
    sidecar: Sidecar
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        """Where the sidecar listens."""
        return f"http://{self.sidecar.address[0]}:{self.sidecar.address[1]}"

    @property
    def prefiller(self) -> str:
        """What the picker would say in its header."""
        return f"{self.prefill.address[0]}:{self.prefill.address[1]}"

    def headers(self, failure: str | None = None, prefiller: str | None = None) -> dict[str, str]:
        """The picker's: to this prefiller, with this failure policy."""
        return {PREFILLER_HEADER: prefiller or self.prefiller} | ({PREFILL_FAILURE_HEADER: failure} if failure else {})

    async def ask(self, headers: Mapping[str, str] | None = None, **more: Any) -> "Answer":
        """A completion through the sidecar: split, unless `headers` says otherwise."""
        headers = self.headers() if headers is None else headers
        # As a file: aiohttp warns of long bodies in one piece.
        body = io.BytesIO(orjson.dumps({**BODY, **more}))
        async with self.session.post(f"{self.url}/v1/completions", data=body, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def metric(self, sample: str) -> float:
        """One sample of the sidecar's own page; 0 if it is not there."""
        async with self.session.get(self.url + METRICS_PATH) as response:
            lines = (await response.text()).splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == sample), 0.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, if it is an object."""
        parsed: dict[str, Any] = orjson.loads(self.body)
        return parsed


@asynccontextmanager
async def running_pair(kind: Format, sidecar: Mapping[str, Any] | None = None, **changes: Any) -> AsyncIterator[Pair]:
    """`changes` are settings of both engines; `sidecar` are those of the sidecar."""
    changes = {"dialect": kind.value, **changes}
    async with (
        running_sim(sim_settings("p", **{"role": "prefill", **changes})) as prefill,
        running_sim(sim_settings("d", **{"role": "decode", **changes})) as decode,
        running_sidecar(decode.url, format=kind, **(sidecar or {})) as proxy,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session,
    ):
        yield Pair(prefill, decode, proxy, session)
