"""What all generation APIs share: token counts, what a reply must give, and server-sent events.

The parts of an event that do not change are serialised once per request; a token costs a concatenation.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from igw_sim.tokens import TOKEN_BYTES

# Where the text goes in a `Template`.
HOLE = "\x01TEXT\x01"
_HOLE_JSON = orjson.dumps(HOLE)[1:-1]
# The end of an OpenAI stream.
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one reply; `cached` of the prompt tokens came from the prefix cache."""

    prompt: int
    completion: int
    cached: int

    def openai(self) -> dict[str, Any]:
        """The `usage` of chat and completions."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


@dataclass(frozen=True, slots=True)
class Header:
    """What every reply repeats. `created` is Unix time in seconds."""

    id: str
    model: str
    created: int
    include_usage: bool
    finish_reason: str
    response_id: str  # of the responses API


class Reply(Protocol):
    """One reply in the making. Texts are ASCII letters and spaces, so they need no escaping."""

    def head(self) -> bytes:
        """The events before the first token."""

    def words(self, text: bytes) -> bytes:
        """The events of these tokens, one each."""

    def tail(self, text: bytes, usage: Usage) -> bytes:
        """The events after the last token; `text` is all of it."""

    def body(self, text: bytes, usage: Usage) -> bytes:
        """The whole reply, when it is not streamed."""


class Template:
    """An event with a `HOLE` for the text; `before` is what precedes its data line."""

    def __init__(self, before: bytes, data: dict[str, Any]) -> None:
        start, _, end = orjson.dumps(data).rpartition(_HOLE_JSON)
        self._start = before + b"data: " + start
        self._end = end + b"\n\n"

    def of(self, text: bytes) -> bytes:
        """One event for each token of the text."""
        start, end = self._start, self._end
        pieces = [text[at : at + TOKEN_BYTES] for at in range(0, len(text), TOKEN_BYTES)]
        return start + (end + start).join(pieces) + end


def event(data: dict[str, Any], name: bytes = b"") -> bytes:
    """One server-sent event."""
    return (b"event: " + name + b"\n" if name else b"") + b"data: " + orjson.dumps(data) + b"\n\n"
