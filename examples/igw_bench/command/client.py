"""One request to an OpenAI-compatible endpoint, and what came of it. Called by `loops` for every request.

Streams only, read event by event. Times are seconds of the asker's clock; an event has the time at which the read that
completed it returned.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import aiohttp
import orjson

from igw_api.wire import FAIRNESS_HEADER
from igw_bench.command.plans import Plan
from igw_bench.command.samples import ANSWERED, FAILED, REFUSED, Sample
from igw_bench.command.texts import TEMPLATE_TOKENS, text
from igw_bench.workloads import Job
from igw_extproc.scheduling.prefix import BYTES_PER_TOKEN

_DATA = b"data:"
_DONE = b"[DONE]"
# Fields of a chat's delta that are the answer; engines name a model's reasoning differently.
_CONTENT = ("content", "reasoning_content", "reasoning", "tool_calls", "refusal")


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. `url` ends in `/v1` or the like; `headers` may hold a key and are never shown.

    `ends`: how an answer gets its length. `told`: `max_tokens`, which the gateway sees too; `forced`: that and
    `ignore_eos`; `hidden`: `min_tokens` alone, for simulated engines that would say one token otherwise.
    """

    url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    chat: bool = True
    ends: str = "forced"
    timeout: float = 600.0
    endpoint_header: str = "x-sim-engine"
    salt: str = ""

    def length(self, tokens: int) -> dict[str, Any]:
        """The fields that say how long the answer is to be."""
        if self.ends == "hidden":
            return {"min_tokens": tokens}
        forced = {"ignore_eos": True, "min_tokens": tokens} if self.ends == "forced" else {}
        return {"max_tokens": tokens, **forced}


class Asker:
    """Asks a plan's requests. Keeps what conversations have said so far."""

    def __init__(
        self, session: aiohttp.ClientSession, target: Target, plan: Plan, clock: Callable[[], float] = perf_counter
    ) -> None:
        self._clock = clock
        self._session = session
        self._target = target
        self._plan = plan
        self._tenants = any(job.tenant for job in plan.workload.jobs)
        self._said: dict[int, list[dict[str, str]]] = {}
        self._path = "/chat/completions" if target.chat else "/completions"
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=30.0)

    async def ask(self, job: Job, due: float) -> Sample:
        """Send it now. Never raises but CancelledError."""
        messages = self._messages(job)
        body = self._body(job, messages)
        reading = Reading()
        sent = self._clock()
        try:
            async with asyncio.timeout(self._target.timeout):
                await self._post(body, self._headers(job), reading)
        except TimeoutError:
            reading.fail(f"no whole answer within {self._target.timeout:g} s")
        except aiohttp.ClientConnectorError as error:
            reading.fail(f"not connected: {reason(error)}")
        except (aiohttp.ClientError, OSError) as error:
            within = "the connection was lost within the answer"
            reading.fail(within if reading.status else f"connection lost: {type(error).__name__}")
        sample = reading.sample(job.number, due, sent, self._clock())
        following = self._plan.workload.follow.get(job.number)
        if following is not None and sample.outcome == ANSWERED:
            answer = {"role": "assistant", "content": "".join(reading.words)}
            self._said[following.job.number] = [*messages, answer]
        return sample

    def _messages(self, job: Job) -> list[dict[str, str]]:
        """All that was said, and the new text. A chat template's tokens are part of a first prompt's length."""
        said = self._said.pop(job.number, [])
        words = self._plan.words.get(job.number)
        if words is not None:
            return [{"role": "user", "content": f"{self._target.salt} {words}" if self._target.salt else words}]
        words = text(self._plan.pieces(job), self._target.salt)
        if not said and self._target.chat:
            words = words[: max(1, job.prompt_tokens - TEMPLATE_TOKENS) * BYTES_PER_TOKEN]
        return [*said, {"role": "user", "content": words}]

    def _body(self, job: Job, messages: list[dict[str, str]]) -> bytes:
        asked: dict[str, Any] = {"messages": messages}
        if not self._target.chat:
            asked = {"prompt": "".join(one["content"] for one in messages)}
        options = {"stream": True, "stream_options": {"include_usage": True}}
        return orjson.dumps({"model": self._target.model, **asked, **self._target.length(job.output_tokens), **options})

    def _headers(self, job: Job) -> dict[str, str]:
        """Where there are several tenants, whose request it is: a gateway's queue is fair between these."""
        whose = {FAIRNESS_HEADER: f"tenant-{job.tenant}"} if self._tenants else {}
        return {"content-type": "application/json", "accept-encoding": "identity", **whose, **self._target.headers}

    async def _post(self, body: bytes, headers: Mapping[str, str], reading: "Reading") -> None:
        async with self._session.post(
            self._target.url + self._path, data=body, headers=headers, timeout=self._timeout
        ) as response:
            reading.status = response.status
            reading.endpoint = response.headers.get(self._target.endpoint_header, "")
            if response.status >= 400:
                await response.read()
                return
            async for data in response.content.iter_any():
                reading.feed(data, self._clock())


def reason(error: OSError) -> str:
    """Why there is no connection, without the address. Errors of name resolution have numbers of their own, below 0."""
    code = error.errno or 0
    return os.strerror(code) if code > 0 else error.strerror or type(error).__name__


class Reading:
    """An answer as far as it has come."""

    def __init__(self) -> None:
        self.status = 0
        self.endpoint = ""
        self.words: list[str] = []
        self._events = Events()
        self._first: float | None = None
        self._last: float | None = None
        self._pieces = 0
        self._usage: dict[str, Any] = {}
        self._finished = False
        self._error = ""

    def fail(self, error: str) -> None:
        """It will not be whole."""
        self._error = self._error or error

    def feed(self, data: bytes, now: float) -> None:
        """More of the body."""
        for payload in self._events.feed(data):
            if payload == _DONE:
                self._finished = True
                continue
            try:
                self._event(orjson.loads(payload), now)
            except (orjson.JSONDecodeError, AttributeError, TypeError, IndexError):
                self.fail("an event that is not as the API has it")

    def _event(self, event: dict[str, Any], now: float) -> None:
        if event.get("error"):
            self.fail("an error within the stream")
        usage = event.get("usage")
        self._usage = usage if isinstance(usage, dict) else self._usage
        for choice in event.get("choices") or ():
            self._finished = self._finished or choice.get("finish_reason") is not None
            words = _content(choice)
            if words is not None:
                self._pieces += 1
                self._last = now
                self._first = now if self._first is None else self._first
                self.words.append(words)

    def sample(self, number: int, due: float, sent: float, ended: float) -> Sample:
        """All that is known now."""
        details = self._usage.get("prompt_tokens_details")
        cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
        return Sample(
            number,
            due,
            sent,
            ended,
            outcome=self._outcome(),
            first_at=self._first,
            last_at=self._last,
            status=self.status,
            error=self._error,
            endpoint=self.endpoint,
            prompt_tokens=_count(self._usage.get("prompt_tokens")) or 0,
            cached_tokens=cached,
            output_tokens=_count(self._usage.get("completion_tokens")) or self._pieces,
        )

    def _outcome(self) -> str:
        if self.status >= 400:
            return REFUSED
        if not self._error and not self._finished:
            self._error = "a stream that ended before its end"
        if not self._error and self._first is None:
            self._error = "an answer without text"
        return FAILED if self._error else ANSWERED


def _count(value: object) -> int | None:
    """A number of tokens, if it is one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _content(choice: dict[str, Any]) -> str | None:
    """The text of a chunk of either API; empty for content that is no text; None where there is none."""
    if choice.get("text"):
        return str(choice["text"])
    delta = choice.get("delta") or {}
    for name in _CONTENT:
        if delta.get(name):
            return delta[name] if name == "content" and isinstance(delta[name], str) else ""
    return None


class Events:
    """Cuts a stream of server-sent events into the data of each. Comments and other fields are passed over."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The data lines that are complete now."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(_DATA):
                yield line[len(_DATA) :].strip()
