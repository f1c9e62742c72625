"""Replies of Anthropic's messages API."""

from typing import Any

import orjson

from igw_sim.events import HOLE, Header, Template, Usage, event


class Messages:
    """`/v1/messages`, Anthropic's. Its input tokens do not include the cached ones."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._stop = "max_tokens" if header.finish_reason == "length" else "end_turn"
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": HOLE}}
        self._events = Template(b"event: content_block_delta\n", delta)

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
        return event({"type": "message_start", "message": message}, b"message_start") + event(
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
            event({"type": "content_block_stop", "index": 0}, b"content_block_stop")
            + event(delta, b"message_delta")
            + event({"type": "message_stop"}, b"message_stop")
        )

    def body(self, text: bytes, usage: Usage) -> bytes:
        """One `message`."""
        content = [{"type": "text", "text": text.decode()}]
        return orjson.dumps(self._message(content, self._stop, self._usage(usage)))
