"""A trace file in Mooncake's JSONL: one request a line, with the hashes of its prompt's blocks of 512 tokens.

    {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48, 2353, 2354]}

`timestamp` is in milliseconds, lengths are tokens; equal ids stand for equal text up to the end of their block.
`hash_ids` may be missing or shorter than the prompt: what they do not cover is text of its own. Called by `plans`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from igw_bench.command.samples import BadInput
from igw_bench.command.texts import Piece, named

BLOCK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `at`: seconds since the first request."""

    at: float
    prompt: tuple[Piece, ...]
    prompt_tokens: int
    output_tokens: int


def read(path: Path) -> list[Entry]:
    """All requests of a file, by time. BadInput with the line's number."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from None
    return parse(lines, str(path))


def parse(lines: Iterable[bytes], name: str) -> list[Entry]:
    """As `read`; `name` is for the complaint. Empty lines are passed over."""
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_entry(number, orjson.loads(line)))
            except orjson.JSONDecodeError:
                raise BadInput(f"{name}:{number}: not JSON") from None
            except ValueError as error:
                raise BadInput(f"{name}:{number}: {error}") from None
    if not found:
        raise BadInput(f"{name}: no requests")
    begin = min(one.at for one in found)
    shifted = [Entry(one.at - begin, one.prompt, one.prompt_tokens, one.output_tokens) for one in found]
    return sorted(shifted, key=lambda one: one.at)


def _entry(number: int, data: Any) -> Entry:
    if not isinstance(data, dict):
        raise ValueError("a JSON object is required")
    at = data.get("timestamp")
    if isinstance(at, bool) or not isinstance(at, int | float) or at < 0:
        raise ValueError("timestamp must be milliseconds, 0 or more")
    prompt_tokens, output_tokens = _length(data, "input_length"), _length(data, "output_length")
    return Entry(at / 1000, _prompt(number, prompt_tokens, data.get("hash_ids")), prompt_tokens, output_tokens)


def _length(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of tokens, 1 or more")
    return value


def _prompt(number: int, tokens: int, ids: Any) -> tuple[Piece, ...]:
    if ids is None:
        ids = []
    if not isinstance(ids, list) or not all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
        raise ValueError("hash_ids must be a list of whole numbers")
    if (len(ids) - 1) * BLOCK_TOKENS >= tokens:
        raise ValueError(f"{len(ids)} hash_ids are more than {tokens} tokens have blocks of {BLOCK_TOKENS}")
    pieces = [
        Piece(named(3, one & (1 << 47) - 1), min(BLOCK_TOKENS, tokens - at * BLOCK_TOKENS))
        for at, one in enumerate(ids)
    ]
    rest = tokens - sum(one.tokens for one in pieces)
    return (*pieces, Piece(named(4, number), rest)) if rest else tuple(pieces)
