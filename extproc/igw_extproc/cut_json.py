"""Reads the beginning of a JSON document that was cut off anywhere. Pure; called by `openai` for bodies cut by a proxy.

A document that was cut inside the text of a message, the usual case, is closed with the two endings that fit there. For
any other place the document is scanned for what is still open; half a key, number or literal is dropped, then every
bracket is closed. Never raises; the scan is bounded, since one event loop serves all requests.
"""

import re
from typing import Any, Final

import orjson

# A string that lies in a message, and one that lies in a content part of a message.
_USUAL_ENDINGS: Final = (b'"}]}', b'"}]}]}')
# Documents of this many strings and brackets take some ten milliseconds to scan; those with more are given up.
MAX_TOKENS: Final = 50_000

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+("?)|[\[\]{}]', re.DOTALL)
_HALF_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\Z")


def parse(cut: bytes) -> Any:
    """What `cut` says as far as it goes. None: it is no beginning of a document, or one that is too intricate."""
    head = _without_half_character(cut)
    for ending in _USUAL_ENDINGS:
        found = _loads(head + ending)
        if found is not None:
            return found
    closed = _closed(head)
    return None if closed is None else _loads(closed)


def _loads(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _without_half_character(cut: bytes) -> bytes:
    """Drop what the cut may have left of an escape, of a surrogate pair or of a UTF-8 sequence."""
    end = len(cut)
    for pattern in (_HALF_ESCAPE, _HIGH_SURROGATE):
        found = pattern.search(cut, max(0, end - 6), end)
        if found and _is_escape(cut, found.start()):
            end = found.start()
    for back in range(1, min(4, end) + 1):
        byte = cut[end - back]
        if byte < 0x80:
            break
        if byte >= 0xC0:  # the first byte of a sequence: drop it with its tail
            end -= back
            break
    return cut[:end]


def _is_escape(text: bytes, at: int) -> bool:
    """Whether the backslash at `at` is not itself escaped: it ends a run of odd length."""
    return (at - len(text[:at].rstrip(b"\\"))) % 2 == 0


def _closed(head: bytes) -> bytes | None:
    """`head` up to its last whole value, with all that is open closed."""
    closers: list[bytes] = []
    token = None
    for count, token in enumerate(_TOKEN.finditer(head)):
        mark = token[0]
        if mark == b"{":
            closers.append(b"}")
        elif mark == b"[":
            closers.append(b"]")
        elif mark in (b"}", b"]") and (not closers or closers.pop() != mark):
            return None
        if count >= MAX_TOKENS:
            return None
    if token is None:
        return None
    return _up_to_last_value(head, token, in_object=closers[-1:] == [b"}"]) + b"".join(reversed(closers))


def _up_to_last_value(head: bytes, last: re.Match[bytes], in_object: bool) -> bytes:
    """Nothing but numbers, literals, colons, commas and space follows the last string or bracket."""
    is_string, is_whole = last[0].startswith(b'"'), last[1] != b""
    before = head[: last.start()].rstrip()
    if is_string and not is_whole and (not in_object or before.endswith(b":")):
        return head + b'"'
    comma = head.rfind(b",", last.end())
    if comma >= 0:
        return head[:comma]
    if is_string and in_object and not before.endswith(b":"):
        return before.removesuffix(b",")
    return head[: last.end()]
