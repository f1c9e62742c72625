"""Replies of OpenAI's responses API."""

from typing import Any

import orjson

from igw_sim import tokens
from igw_sim.events import Header, Usage, event


class Responses:
    """`/v1/responses`. Events are numbered; the last one repeats the whole response."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._number = -1
        self._item = "msg_" + header.id

    def _next(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number, **fields}, kind.encode())

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
            "id": self._header.response_id,
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
        pieces = [text[at : at + tokens.TOKEN_BYTES].decode() for at in range(0, len(text), tokens.TOKEN_BYTES)]
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
