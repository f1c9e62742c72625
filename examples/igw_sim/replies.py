"""What clients get: bodies and server-sent events of the OpenAI and Anthropic generation APIs.

The parts of an event that do not change are serialised once per request; a token costs a concatenation.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from igw_sim.tokens import TOKEN_BYTES

_MARK = "\x01TEXT\x01"
_MARK_JSON = orjson.dumps(_MARK)[1:-1]
_DONE = b"data: [DONE]\n\n"


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


class _Events:
    """An event with a hole for the text."""

    def __init__(self, before: bytes, data: dict[str, Any]) -> None:
        start, _, end = orjson.dumps(data).rpartition(_MARK_JSON)
        self._start = before + b"data: " + start
        self._end = end + b"\n\n"

    def of(self, text: bytes) -> bytes:
        start, end = self._start, self._end
        pieces = [text[at : at + TOKEN_BYTES] for at in range(0, len(text), TOKEN_BYTES)]
        return start + (end + start).join(pieces) + end


def _event(data: dict[str, Any], name: bytes = b"") -> bytes:
    return (b"event: " + name + b"\n" if name else b"") + b"data: " + orjson.dumps(data) + b"\n\n"


class Chat:
    """`/v1/chat/completions`."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._base = {
            "id": "chatcmpl-" + header.id,
            "object": "chat.completion.chunk",
            "created": header.created,
            "model": header.model,
        }
        self._events = _Events(b"", self._chunk({"content": _MARK}))

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._base, "choices": [choice]}

    def head(self) -> bytes:
        """The role."""
        return _event(self._chunk({"role": "assistant", "content": ""}))

    def words(self, text: bytes) -> bytes:
        """One chunk for each token."""
        return self._events.of(text)

    def tail(self, text: bytes, usage: Usage) -> bytes:
        """The finish reason, the usage if asked for, the end mark."""
        end = _event(self._chunk({}, self._header.finish_reason))
        if self._header.include_usage:
            end += _event({**self._base, "choices": [], "usage": usage.openai()})
        return end + _DONE

    def body(self, text: bytes, usage: Usage) -> bytes:
        """One `chat.completion`."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text.decode(), "tool_calls": []},
            "logprobs": None,
            "finish_reason": self._header.finish_reason,
        }
        return orjson.dumps({**self._base, "object": "chat.completion", "choices": [choice], "usage": usage.openai()})


class Completion:
    """`/v1/completions`."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._base = {
            "id": "cmpl-" + header.id,
            "object": "text_completion",
            "created": header.created,
            "model": header.model,
        }
        self._events = _Events(b"", self._chunk(_MARK))

    def _chunk(self, text: str, finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return {**self._base, "choices": [choice]}

    def head(self) -> bytes:
        """Nothing."""
        return b""

    def words(self, text: bytes) -> bytes:
        """One chunk for each token."""
        return self._events.of(text)

    def tail(self, text: bytes, usage: Usage) -> bytes:
        """The finish reason, the usage if asked for, the end mark."""
        end = _event(self._chunk("", self._header.finish_reason))
        if self._header.include_usage:
            end += _event({**self._base, "choices": [], "usage": usage.openai()})
        return end + _DONE

    def body(self, text: bytes, usage: Usage) -> bytes:
        """One `text_completion`."""
        return orjson.dumps({**self._chunk(text.decode(), self._header.finish_reason), "usage": usage.openai()})


class Responses:
    """`/v1/responses`. Events are numbered; the last one repeats the whole response."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._number = -1
        self._item = "msg_" + header.id

    def _next(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return _event({"type": kind, "sequence_number": self._number, **fields}, kind.encode())

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _message(self, status: str, *parts: dict[str, Any]) -> dict[str, Any]:
        return {"id": self._item, "type": "message", "role": "assistant", "status": status, "content": list(parts)}

    def _response(self, status: str, output: list[dict[str, Any]], usage: Usage | None) -> dict[str, Any]:
        cut = status == "completed" and self._header.finish_reason == "length"
        counts = usage and {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.completion,
        }
        return {
            "id": "resp_" + self._header.id,
            "object": "response",
            "created_at": self._header.created,
            "model": self._header.model,
            "status": "incomplete" if cut else status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "error": None,
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": counts,
        }

    def head(self) -> bytes:
        """The response, its one message and that message's one part, all empty."""
        empty = self._response("in_progress", [], None)
        return (
            self._next("response.created", response=empty)
            + self._next("response.in_progress", response=empty)
            + self._next("response.output_item.added", output_index=0, item=self._message("in_progress"))
            + self._next(
                "response.content_part.added", item_id=self._item, output_index=0, content_index=0, part=self._part("")
            )
        )

    def words(self, text: bytes) -> bytes:
        """One delta for each token."""
        fields: dict[str, Any] = {"item_id": self._item, "output_index": 0, "content_index": 0, "logprobs": []}
        pieces = [text[at : at + TOKEN_BYTES].decode() for at in range(0, len(text), TOKEN_BYTES)]
        return b"".join(self._next("response.output_text.delta", delta=piece, **fields) for piece in pieces)

    def tail(self, text: bytes, usage: Usage) -> bytes:
        """Part, message and response, each finished."""
        fields: dict[str, Any] = {"item_id": self._item, "output_index": 0, "content_index": 0}
        part = self._part(text.decode())
        message = self._message("completed", part)
        response = self._response("completed", [message], usage)
        return (
            self._next("response.output_text.done", text=text.decode(), logprobs=[], **fields)
            + self._next("response.content_part.done", part=part, **fields)
            + self._next("response.output_item.done", output_index=0, item=message)
            + self._next(f"response.{response['status']}", response=response)
        )

    def body(self, text: bytes, usage: Usage) -> bytes:
        """One `response`."""
        message = self._message("completed", self._part(text.decode()))
        return orjson.dumps(self._response("completed", [message], usage))


class Messages:
    """`/v1/messages`, Anthropic's. Its input tokens do not include the cached ones."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._stop = "max_tokens" if header.finish_reason == "length" else "end_turn"
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": _MARK}}
        self._events = _Events(b"event: content_block_delta\n", delta)

    def _message(self, content: list[dict[str, Any]], stop: str | None, usage: dict[str, int]) -> dict[str, Any]:
        return {
            "id": "msg_" + self._header.id,
            "type": "message",
            "role": "assistant",
            "model": self._header.model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": usage,
        }

    def _usage(self, usage: Usage) -> dict[str, int]:
        return {
            "input_tokens": usage.prompt - usage.cached,
            "cache_read_input_tokens": usage.cached,
            "output_tokens": usage.completion,
        }

    def head(self) -> bytes:
        """The message and its one block, empty."""
        message = self._message([], None, {"input_tokens": 0, "output_tokens": 0})
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return _event({"type": "message_start", "message": message}, b"message_start") + _event(
            block, b"content_block_start"
        )

    def words(self, text: bytes) -> bytes:
        """One delta for each token."""
        return self._events.of(text)

    def tail(self, text: bytes, usage: Usage) -> bytes:
        """The end of the block, the stop reason with the usage, the end of the message."""
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": self._stop, "stop_sequence": None},
            "usage": self._usage(usage),
        }
        return (
            _event({"type": "content_block_stop", "index": 0}, b"content_block_stop")
            + _event(delta, b"message_delta")
            + _event({"type": "message_stop"}, b"message_stop")
        )

    def body(self, text: bytes, usage: Usage) -> bytes:
        """One `message`."""
        content = [{"type": "text", "text": text.decode()}]
        return orjson.dumps(self._message(content, self._stop, self._usage(usage)))


REPLIES: dict[str, type[Chat] | type[Completion] | type[Responses] | type[Messages]] = {
    "chat": Chat,
    "completions": Completion,
    "responses": Responses,
    "messages": Messages,
}
