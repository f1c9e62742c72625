"""Chats as clients send them, streamed or not, one at a time or as a load, and what became of each.

A chat is good only if its answer is whole: a stream must reach `[DONE]`, a document must parse and have all its tokens.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import orjson

from igw_testing.gateway_process import MODEL

ENGINE_HEADER: Final = "x-sim-engine"
# About 2,000 tokens: where these are cached outweighs what a few requests in flight cost.
LONG_PROMPT: Final = "The same beginning for everybody. " * 240
# Too short to be worth a cache: placed by load alone.
SHORT_PROMPT: Final = "Hello."
# A load that has not done in this time what it was to do has failed.
LOAD_S: Final = 60.0


@dataclass(slots=True, eq=False)
class Chat:
    """One chat. Times are the event loop's; `engine` is who answered, once the headers have come."""

    streamed: bool
    began: float
    ended: float = 0.0
    engine: str | None = None
    status: int = 0
    body: bytes = b""
    problem: str = ""

    @property
    def seconds(self) -> float:
        """From the first byte sent to the last one received."""
        return self.ended - self.began

    def __repr__(self) -> str:
        return f"<{self.engine} {self.status} after {self.seconds:.2f} s{self.problem and ': ' + self.problem}>"

    @property
    def good(self) -> bool:
        """Answered 200, and whole."""
        return self.status == 200 and not self.problem


def chat_body(prompt: str, *, tokens: int = 20, stream: bool = False, model: str = MODEL) -> dict[str, Any]:
    """A chat whose answer has exactly so many tokens."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "stream": stream,
    }


async def chat(
    session: aiohttp.ClientSession,
    url: str,
    prompt: str = SHORT_PROMPT,
    *,
    tokens: int = 20,
    stream: bool = False,
    model: str = MODEL,
    answering: list[Chat] | None = None,
) -> Chat:
    """Ask, and wait for the end. `answering` gets the chat as soon as its headers have come."""
    loop = asyncio.get_running_loop()
    done = Chat(stream, loop.time())
    body = chat_body(prompt, tokens=tokens, stream=stream, model=model)
    try:
        async with session.post(url, json=body) as answer:
            done.status, done.engine = answer.status, answer.headers.get(ENGINE_HEADER)
            if answering is not None:
                answering.append(done)
            async for part in answer.content.iter_any():
                done.body += part
        done.problem = _flaw(done, tokens)
    except (aiohttp.ClientError, TimeoutError) as error:
        done.problem = repr(error)
    done.ended = loop.time()
    return done


def _flaw(done: Chat, tokens: int) -> str:
    """What is wrong with an answer that ended as if all was well."""
    if done.status != 200:
        return f"status {done.status}: {done.body[:200]!r}"
    if done.streamed:
        return "" if done.body.endswith(b"data: [DONE]\n\n") else f"cut without an error: {done.body[-100:]!r}"
    produced = orjson.loads(done.body)["usage"]["completion_tokens"]
    return "" if produced == tokens else f"{produced} of {tokens} tokens"


@dataclass
class Load:
    """Workers that chat without a pause.

    `chats` are those that have ended, in the order of their ends; `answering` those whose headers have come.
    """

    most: int
    chats: list[Chat] = field(default_factory=list)
    answering: list[Chat] = field(default_factory=list)
    begun: int = 0
    stopping: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def more(self, count: int) -> list[Chat]:
        """Wait for the end of `count` chats that begin from now on, and return these."""
        since = asyncio.get_running_loop().time()
        async with asyncio.timeout(LOAD_S):
            while len(found := [one for one in self.chats if one.began >= since]) < count:
                assert self.begun < self.most, "the load came to its end"
                self._news.clear()
                await self._news.wait()
        return found[:count]

    @property
    def failed(self) -> list[Chat]:
        """Those that got no whole answer."""
        return [one for one in self.chats if not one.good]

    @property
    def slowest(self) -> float:
        """Seconds that the longest one took."""
        return max(one.seconds for one in self.chats)

    def add(self, one: Chat) -> None:
        """Called by the workers."""
        self.chats.append(one)
        self._news.set()


@asynccontextmanager
async def load(
    session: aiohttp.ClientSession,
    url: str,
    prompt: str = LONG_PROMPT,
    *,
    workers: int = 6,
    most: int = 1500,
    streams: Sequence[bool] = (False, True),
    model: str = MODEL,
    tokens: int = 20,
) -> AsyncIterator[Load]:
    """A load of `workers` for as long as the context lasts, at most `most` chats; `streams` says in turn which stream.

    All is over at the end of the context: chats that run are waited for.
    """
    running = Load(most)

    async def work() -> None:
        while not running.stopping and running.begun < most:
            running.begun += 1
            stream = streams[running.begun % len(streams)]
            answering = running.answering
            running.add(
                await chat(session, url, prompt, tokens=tokens, stream=stream, model=model, answering=answering)
            )

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work())
        try:
            yield running
        finally:
            running.stopping = True


def engines(chats: Iterable[Chat]) -> Counter[str | None]:
    """How many of them each engine answered."""
    return Counter(one.engine for one in chats)
