"""Requests sent again and again until one is answered as it shall be: when does a pool begin to serve?"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from igw_testing.chat_load import ENGINE_HEADER, chat_body

# How often is asked, from the beginning of one request to that of the next.
EVERY_S: Final = 0.02
_ANSWER_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request. `engine` is who answered, of those that say so."""

    status: int
    engine: str
    body: bytes


def answered_by(engines: str) -> Callable[[Answer], bool]:
    """A whole answer of one of the Pods of a Deployment."""
    return lambda one: one.status == 200 and one.engine.startswith(f"{engines}-")


def refused_by_the_picker(one: Answer) -> bool:
    """What it answers to a model that nobody serves. Engines say it in other words."""
    return one.status == 404 and b'"model_not_found"' in one.body


async def first(
    session: aiohttp.ClientSession, url: str, model: str, good: Callable[[Answer], bool], within: float
) -> float:
    """The moment (epoch) when the first good answer had come. Raises TimeoutError with what came instead."""
    body = chat_body("Hello.", tokens=1, model=model)
    last: Answer | None = None
    try:
        async with asyncio.timeout(within):
            while True:
                began = time.monotonic()
                last = await ask(session, url, body)
                if good(last):
                    return time.time()
                await asyncio.sleep(max(began + EVERY_S - time.monotonic(), 0))
    except TimeoutError:
        raise TimeoutError(f"no such answer for {model} within {within:.0f} s; the last was {last}") from None


async def ask(session: aiohttp.ClientSession, url: str, body: Mapping[str, Any]) -> Answer:
    """One request. Status 0: nobody answered."""
    try:
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
        async with session.post(url, json=body, timeout=timeout) as answer:
            return Answer(answer.status, answer.headers.get(ENGINE_HEADER, ""), await answer.read())
    except (aiohttp.ClientError, TimeoutError) as error:
        return Answer(0, "", repr(error).encode())
