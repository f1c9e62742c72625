"""The demo's load: chat requests of some tenants, sent in a closed loop by the OpenAI client.

Every tenant has one long system prompt, and every request a question of its own: what a prefix cache is for. Called
by `demo`; `report` tells what came of it. Knows nothing of engines: who answered is read from a response header.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

import openai
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionMessageParam

ENGINE_HEADER = "x-sim-engine"
REQUEST_TIMEOUT_S = 60.0
_WORDS = (
    "account address agree answer balance card change check client close contract day delivery email form help hour "
    "invoice item letter limit list message month name number office open order page pay person phone plan policy "
    "price print question reason refund reply report request return rule send service sign state store support team "
    "term ticket time track transfer update user value visit week"
)


@dataclass(frozen=True, slots=True)
class Question:
    """One request. `max_tokens` is also the length of the answer, since the engines are told to talk on."""

    system: str
    text: str
    max_tokens: int
    stream: bool

    def messages(self) -> list[ChatCompletionMessageParam]:
        """As the API has it."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.text}]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the load is like. Sizes are characters; four of them are about a token."""

    tenants: int = 12
    zipf: float = 0.7  # tenant k is asked for in proportion to k ** -zipf
    system_chars: int = 8_000
    question_chars: int = 240
    answer_tokens: tuple[float, float] = (60, 0.5)  # log-normal: median and sigma
    longest_answer: int = 200
    streaming: float = 0.7


SHAPE = Shape()


def questions(shape: Shape, count: int, seed: int, phase: str) -> list[Question]:
    """`count` requests. The same `seed` gives the same tenants, lengths and order, whatever the `phase`.

    Every prompt begins with `phase`, padded: two phases share no prefix, so neither profits from the other's caches.
    """
    rng = Random(seed)
    systems = [f"[{phase:16} tenant {k:02}] {_text(rng, shape.system_chars)}" for k in range(shape.tenants)]
    weights = [(k + 1) ** -shape.zipf for k in range(shape.tenants)]
    median, sigma = shape.answer_tokens
    return [
        Question(
            system=rng.choices(systems, weights)[0],
            text=_text(rng, round(shape.question_chars * rng.uniform(0.5, 1.5))),
            max_tokens=max(2, min(round(median * rng.lognormvariate(0, sigma)), shape.longest_answer)),
            stream=rng.uniform(0, 1) < shape.streaming,
        )
        for _ in range(count)
    ]


def _text(rng: Random, chars: int) -> str:
    return " ".join(rng.choices(_WORDS.split(), k=chars // 3))[:chars]


@dataclass(frozen=True, slots=True)
class Answer:
    """A request that was answered in full. Times are seconds; only a stream has a first and a next token."""

    engine: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    seconds: float
    ttft: float | None = None
    tpot: float | None = None


@dataclass(slots=True)
class Tally:
    """What has come of the requests so far."""

    total: int
    in_flight: int = 0
    answers: list[Answer] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Requests without a whole answer."""
        return self.failures.total()

    @property
    def done(self) -> int:
        """Requests that are over, well or badly."""
        return len(self.answers) + self.failed


class Incomplete(Exception):
    """An answer ended before its end."""


async def run(
    client: openai.AsyncOpenAI, model: str, asked: Sequence[Question], concurrency: int, tally: Tally
) -> None:
    """Ask all of it, `concurrency` at a time, each place taking the next request when it has its answer."""
    waiting = iter(asked)
    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(asked))):
            group.create_task(_place(client, model, waiting, tally))


async def _place(client: openai.AsyncOpenAI, model: str, waiting: Iterator[Question], tally: Tally) -> None:
    for question in waiting:
        tally.in_flight += 1
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                tally.answers.append(await ask(client, model, question))
        except (openai.OpenAIError, Incomplete, TimeoutError, ValueError) as error:
            tally.failures[kind(error)] += 1
        finally:
            tally.in_flight -= 1


def kind(error: Exception) -> str:
    """A failure in a few words, the same for all of its kind."""
    if isinstance(error, openai.APIStatusError):
        return f"HTTP {error.status_code}: {' '.join(error.response.text.split())[:100]}"
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return f"no whole answer within {REQUEST_TIMEOUT_S:g} s"
    if isinstance(error, openai.APIConnectionError):
        return f"connection lost: {error.__cause__ or error}"
    if isinstance(error, Incomplete):
        return str(error)
    return f"{type(error).__name__}: {error}"


def client(port: int) -> openai.AsyncOpenAI:
    """The client that a user would take. It never retries: every failure of the gateway is to be seen."""
    return openai.AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1",
        api_key="none",
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(trust_env=False),  # a proxy of the environment is not meant here
    )


async def ask(client: openai.AsyncOpenAI, model: str, question: Question) -> Answer:
    """Ask one question. Raises openai.OpenAIError, Incomplete, and ValueError for an answer that is not JSON."""
    return await (_stream if question.stream else _whole)(client, model, question)


async def _whole(client: openai.AsyncOpenAI, model: str, question: Question) -> Answer:
    clock = asyncio.get_running_loop().time
    began = clock()
    raw = await client.chat.completions.with_raw_response.create(
        model=model, messages=question.messages(), max_tokens=question.max_tokens
    )
    completion = raw.parse()
    if not completion.choices or completion.choices[0].finish_reason is None:
        raise Incomplete("an answer without a finish reason")
    return _answer(raw.headers.get(ENGINE_HEADER), completion.usage, clock() - began)


async def _stream(client: openai.AsyncOpenAI, model: str, question: Question) -> Answer:
    clock = asyncio.get_running_loop().time
    began = clock()
    raw = await client.chat.completions.with_raw_response.create(
        model=model,
        messages=question.messages(),
        max_tokens=question.max_tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    first = last = None
    usage, finished = None, False
    async for chunk in raw.parse():
        usage = chunk.usage or usage
        for choice in chunk.choices:
            if choice.delta.content:
                last = clock()
                first = first or last
            finished = finished or choice.finish_reason is not None
    if not finished or first is None or last is None:
        raise Incomplete("a stream that ended without a finish reason")
    return _answer(raw.headers.get(ENGINE_HEADER), usage, clock() - began, (first - began, last - first))


def _answer(
    engine: str | None, usage: CompletionUsage | None, seconds: float, spans: tuple[float, float] | None = None
) -> Answer:
    """`spans` of a stream: until the first token, and from there to the last."""
    if usage is None:
        raise Incomplete("an answer without its usage")
    details = usage.prompt_tokens_details
    gaps = usage.completion_tokens - 1
    return Answer(
        engine=engine or "unknown",
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=(details.cached_tokens if details else None) or 0,
        output_tokens=usage.completion_tokens,
        seconds=seconds,
        ttft=spans[0] if spans else None,
        tpot=spans[1] / gaps if spans and gaps > 0 else None,
    )
