"""Replies of OpenAI's chat and completions APIs, as vLLM writes them."""

from typing import Any

import orjson

from igw_sim.events import DONE, HOLE, Header, Template, Usage, event


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
        self._events = Template(b"", self._chunk({"content": HOLE}))

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._base, "choices": [choice]}

    def head(self) -> bytes:
        """The role."""
        return event(self._chunk({"role": "assistant", "content": ""}))

    def words(self, text: bytes) -> bytes:
        """One chunk for each token."""
        return self._events.of(text)

    def tail(self, text: bytes, usage: Usage) -> bytes:
        """The finish reason, the usage if asked for, the end mark."""
        end = event(self._chunk({}, self._header.finish_reason))
        if self._header.include_usage:
            end += event({**self._base, "choices": [], "usage": usage.openai()})
        return end + DONE

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
        self._events = Template(b"", self._chunk(HOLE))

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
        end = event(self._chunk("", self._header.finish_reason))
        if self._header.include_usage:
            end += event({**self._base, "choices": [], "usage": usage.openai()})
        return end + DONE

    def body(self, text: bytes, usage: Usage) -> bytes:
        """One `text_completion`."""
        return orjson.dumps({**self._chunk(text.decode(), self._header.finish_reason), "usage": usage.openai()})
