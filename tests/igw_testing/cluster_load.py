"""What a load on the test cluster shows: whether its chats were kept together or spread, seen from outside."""

import asyncio
from collections.abc import Callable
from typing import Final

from igw_testing.chat_load import Load, engines

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
