"""Conversations in ShareGPT's JSON: the first question of each, and how long its answer was. Called by `plans`.

    [{"id": "x", "conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}, ...]}, ...]

Messages may also be called `messages`, with `role` and `content`. A conversation without an answer is passed over, as
other benchmarks do. Without a tokenizer four bytes are taken for a token.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from igw_bench.command.samples import BadInput
from igw_extproc.scheduling.prefix import BYTES_PER_TOKEN

_LISTS = ("conversations", "conversation", "messages")
_WHO = ("from", "role")
_WORDS = ("value", "content")
_ASKING = ("human", "user")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and the length of its answer."""

    question: str
    question_tokens: int
    answer_tokens: int


def looks_so(path: Path) -> bool:
    """Whether the file holds a JSON list, as no line of a trace is. BadInput for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(1 << 10).lstrip().startswith(b"[")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None


@lru_cache(1)  # every policy and seed asks for it, and the published file has hundreds of megabytes
def read(path: Path) -> tuple[Exchange, ...]:
    """All of a file, in its order. BadInput."""
    try:
        found = orjson.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None
    except orjson.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno}: not JSON") from None
    exchanges = []
    for number, one in enumerate(found, 1):
        try:
            exchange = _exchange(one)
        except ValueError as error:
            raise BadInput(f"{path}: conversation {number}: {error}") from None
        if exchange is not None:
            exchanges.append(exchange)
    if not exchanges:
        raise BadInput(f"{path}: no question with an answer")
    return tuple(exchanges)


def _exchange(conversation: Any) -> Exchange | None:
    """The first two messages, if they are a question and its answer. ValueError."""
    said = _first(conversation, _LISTS) if isinstance(conversation, dict) else None
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
        raise ValueError("a list of messages in `conversations` is required")
    if len(said) < 2 or _first(said[0], _WHO) not in _ASKING:
        return None
    question, answer = (_first(one, _WORDS) for one in said[:2])
    if not isinstance(question, str) or not isinstance(answer, str):
        raise ValueError("a message has a text in `value`")
    return Exchange(question, tokens(question), tokens(answer)) if question and answer else None


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((fields[name] for name in names if name in fields), None)


def tokens(text: str) -> int:
    """About so many."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)
