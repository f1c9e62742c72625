"""What a load shows, on the test cluster or not: whether its chats were kept together or spread, seen from outside."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from igw_testing.chat_load import SHORT_PROMPT, Load, engines, load

WORKERS: Final = 6
# Starting a Pod, or a proxy's next look at a picker, takes seconds.
CHANGE_S: Final = 60.0


def kept_together(running: Load) -> bool:
    """Whether the last chats all went to one engine: five for each worker, more than can be left from before."""
    return len(running.chats) >= 5 * WORKERS and len(engines(running.chats[-5 * WORKERS :])) == 1


def spread(running: Load, over: int) -> bool:
    """Whether the last chats were dealt to `over` engines in turn, but for the few that overtook each other."""
    last = running.chats[-5 * WORKERS :]
    counts = engines(last)
    return len(counts) == over and all(abs(count - len(last) / over) <= WORKERS for count in counts.values())


async def until_in_load(running: Load, is_so: Callable[[], bool]) -> None:
    """Wait for something that shows in the chats of a load."""
    async with asyncio.timeout(CHANGE_S):
        while not is_so():
            await running.more(1)


@asynccontextmanager
async def undisturbed(session: aiohttp.ClientSession, url: str, model: str) -> AsyncIterator[None]:
    """All the while chats go on, streams of five seconds and short ones, and each is answered as a whole."""
    async with (
        load(session, url, SHORT_PROMPT, workers=4, streams=(True,), tokens=500, model=model) as streams,
        load(session, url, SHORT_PROMPT, workers=2, most=9000, model=model) as short,
    ):
        await short.more(10)
        yield
        await short.more(10)
    failed = streams.failed + short.failed
    assert not failed, failed
