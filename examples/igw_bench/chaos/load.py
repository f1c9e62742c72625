"""Steady load: requests that come at random moments, whatever became of those before. Called by `scenario`.

Most are streams. Each prompt is new. The client is patient, asks once, and believes nothing that is not whole.
"""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import aiohttp
import orjson

from igw_bench.chaos.blame import OK, Asked
from igw_bench.load import ENGINE_HEADER

# Nothing is broken for this long, and nothing that is mended may need it.
PATIENCE_S: Final = 60.0
STREAMED: Final = 0.75
TOKENS: Final = (20, 300)
PROMPT_CHARS: Final = (50, 2_000)
# Beyond so many at once it is another test, of what happens under overload.
MOST_AT_ONCE: Final = 300
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz "
_END: Final = b"data: [DONE]\n\n"


@dataclass(slots=True)
class _Answer:
    """As far as it has come. `tail` is its end, all of it where it is no stream."""

    begun: float | None = None
    server: str = ""
    status: int = 0
    tail: bytes = b""


@dataclass(slots=True)
class Load:
    """Asks `rate` times a second until it is stopped. `asked` has what is over, in the order of the ends."""

    session: aiohttp.ClientSession
    url: str
    model: str
    rate: float
    rng: Random
    asked: list[Asked] = field(default_factory=list)
    running: int = 0
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Until `stop`; then what runs is waited for."""
        async with asyncio.TaskGroup() as group:
            while not self._stopped.is_set():
                if self.running < MOST_AT_ONCE:
                    self.running += 1
                    group.create_task(self._one(self._body()))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), self.rng.expovariate(self.rate))

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    @property
    def failed(self) -> int:
        """Whoever's fault."""
        return sum(bool(one.problem) for one in self.asked)

    def answered(self, since: float, by: Collection[str] = ()) -> bool:
        """Whether whole answers have come to requests that were sent later than this: from each of these, or at all."""
        found = {one.server for one in self.asked if one.sent > since and not one.problem}
        return found >= set(by) if by else bool(found)

    def _body(self) -> dict[str, Any]:
        letters = self.rng.choices(_LETTERS, k=self.rng.randint(*PROMPT_CHARS))
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": "".join(letters)}],
            "max_tokens": self.rng.randint(*TOKENS),
            "stream": self.rng.uniform(0, 1) < STREAMED,
        }

    async def _one(self, body: dict[str, Any]) -> None:
        clock = asyncio.get_running_loop().time
        sent, answer = clock(), _Answer()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._post(body, answer)
            problem = flaw(answer.status, answer.tail, body["stream"], body["max_tokens"])
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            problem = f"{type(error).__name__}: {error}"
        self.running -= 1
        self.asked.append(Asked(sent, clock(), answer.begun, answer.server, answer.status, problem, body["stream"]))

    async def _post(self, body: dict[str, Any], answer: _Answer) -> None:
        async with self.session.post(self.url, json=body) as response:
            answer.begun = asyncio.get_running_loop().time()
            answer.status, answer.server = response.status, response.headers.get(ENGINE_HEADER, "")
            async for part in response.content.iter_any():
                answer.tail = (answer.tail + part)[-len(_END) :] if body["stream"] else answer.tail + part


def flaw(status: int, tail: bytes, stream: bool, tokens: int) -> str:
    """What is wrong with an answer that ended as if all was well; empty if nothing is."""
    if status != OK:
        return f"status {status}: {tail[:200].decode(errors='replace')}"
    if stream:
        return "" if tail == _END else "a stream without its end"
    try:
        told = orjson.loads(tail)["usage"]["completion_tokens"]
    except (ValueError, KeyError, TypeError):
        return "no answer as the API has it"
    return "" if told == tokens else f"{told} of {tokens} tokens"


def session() -> aiohttp.ClientSession:
    """For as many requests at once as the load makes."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE_S)
    )
