"""What a request body says to placement: model, prompt, output bound. Pure; knows the paths of OpenAI-like APIs.

A path that is not in the table is opaque: its body is never parsed and never refused. A body that the proxy cut short
is read as far as it goes; where even that fails, the model name is searched for in what came.
"""

import re
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_plus

import orjson

from igw_extproc import cut_json
from igw_extproc.errors import BadRequest, WrongContentType


class Api(IntEnum):
    """A family of request bodies. By number: other members hash in Python code."""

    CHAT = auto()
    COMPLETIONS = auto()
    RESPONSES = auto()
    EMBEDDINGS = auto()
    MESSAGES = auto()
    RERANK = auto()
    OPAQUE = auto()


# By the end of the path, so that a prefix in front (a gateway's, a tenant's) does not matter.
_PATHS = (
    ("/chat/completions", Api.CHAT),
    ("/completions", Api.COMPLETIONS),
    ("/responses", Api.RESPONSES),
    ("/embeddings", Api.EMBEDDINGS),
    ("/v1/messages", Api.MESSAGES),
    ("/rerank", Api.RERANK),
    ("/score", Api.RERANK),
)
_REALTIME = "/realtime"
_MODEL_QUERY = re.compile(r"(?:^|&)model=([^&#]+)")


class Reading(NamedTuple):
    """What was found. `text` is the prompt in the order the engine sees it, without its JSON dress; b"" if opaque."""

    api: Api
    model: str | None = None
    text: bytes = b""
    max_tokens: int | None = None
    stream: bool = False
    salt: str = ""
    session: str = ""
    previous: str = ""  # the response that it continues; only of the responses API
    keeps: bool = False  # whether the engine is to keep the response, under an id that may still be given
    document: dict[str, Any] | None = None  # the parsed body, whole bodies only: for a rewrite


def api_of(path: str | None) -> Api:
    """The API that `path` (with or without a query) belongs to. No path at all: completions, as pickers do."""
    if not path:
        return Api.COMPLETIONS
    path = path.partition("?")[0]
    if "%" in path:
        path = unquote(path)  # as engines do: what they serve as a chat must be read as one
    for ending, api in _PATHS:
        if path.endswith(ending):
            return api
    return Api.OPAQUE


def read(path: str | None, content_type: str | None, body: bytes, complete: bool) -> Reading:
    """Read a request body. Raises BadRequest and WrongContentType, for known paths and whole bodies only."""
    api = api_of(path)
    if api is Api.OPAQUE or not body or (_is_framed(content_type) and not _OBJECT.match(body)):
        return Reading(Api.OPAQUE, _queried(path))
    if content_type and content_type != "application/json" and not _is_json(content_type):
        kind = content_type.partition(";")[0].strip()[:100]
        raise WrongContentType(f"Content-Type is `{kind}`; this path takes `application/json`.")
    document = _parse(body) if complete else _parse_cut(body)
    if document is None:
        return Reading(api, model=_search_model(body))
    return _reading(api, document, complete)


def _queried(path: str | None) -> str | None:
    """The model of a WebSocket of the realtime API, which has no body."""
    place, _, query = (path or "").partition("?")
    found = _MODEL_QUERY.search(query) if place.endswith(_REALTIME) else None
    return unquote_plus(found[1]) if found else None


def rewrite_model(document: dict[str, Any], name: str) -> bytes:
    """The body with another model name; everything else as it was. Raises BadRequest if that cannot be written."""
    try:
        return orjson.dumps({**document, "model": name})
    except orjson.JSONEncodeError:
        raise BadRequest("The body is nested too deeply.") from None


def _reading(api: Api, document: dict[str, Any], complete: bool) -> Reading:
    model = document.get("model")
    if not isinstance(model, str) or not model:
        if complete and model is not None:
            raise BadRequest("`model` must be a non-empty string.")
        model = None
    if complete and model is not None and not _has_prompt(api, document):
        needed = " or ".join(f"`{name}`" for name in _PROMPT_FIELDS[api])
        raise BadRequest(f"The body has no {needed}: this path needs one.")
    reading = Reading(
        api,
        model,
        _prompt(document),
        _bound(document),
        document.get("stream") is True,
        _string(document, "cache_salt"),
        _string(document, "session_id"),
        document=document if complete else None,
    )
    return reading if api is not Api.RESPONSES else _kept(reading, document)


def _kept(reading: Reading, document: dict[str, Any]) -> Reading:
    """With what only the responses API has. Responses are kept unless the request says otherwise."""
    keeps = document.get("store") is not False and "request_id" not in document
    return reading._replace(previous=_string(document, "previous_response_id"), keeps=keeps)


def _has_prompt(api: Api, document: dict[str, Any]) -> bool:
    for name in _PROMPT_FIELDS[api]:  # noqa: SIM110  # `any` with a generator costs as much as all the rest here
        if document.get(name):
            return True
    return False


# Any of these makes a body of that API whole. Where clients mix them up, be generous: the engine has the last word.
_PROMPT_FIELDS: dict[Api, tuple[str, ...]] = {
    Api.CHAT: ("messages",),
    Api.COMPLETIONS: ("prompt", "messages", "input", "prompt_embeds"),
    Api.RESPONSES: ("input", "prompt", "previous_response_id"),
    Api.EMBEDDINGS: ("input", "messages"),
    Api.MESSAGES: ("messages",),
    Api.RERANK: ("query", "documents", "text_1", "queries", "data_1"),
}


# Strings, lists and objects of one body, and values of any kind. Their number, not a body's size, is what takes memory
# and time: an empty object is two bytes long and takes 64. The largest batches of embeddings have a tenth of this.
MOST_PARTS = 250_000
MOST_VALUES = 4_000_000


def _is_intricate(body: bytes) -> bool:
    """Whether it has more than that. Exact as far as it is valid JSON, and quick: there are none in texts."""
    if len(body) <= MOST_PARTS:
        return False
    marks = len(body) - len(body.translate(None, b'"[{'))
    if marks <= MOST_PARTS and body.count(b",") <= MOST_VALUES:
        return False
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"")
    strings = bare.count(b'"') // 2
    if strings > MOST_PARTS:
        return True
    outside = b"".join(bare.split(b'"')[::2])
    return strings + outside.count(b"[") + outside.count(b"{") > MOST_PARTS or outside.count(b",") > MOST_VALUES


def _parse(body: bytes) -> dict[str, Any]:
    if _is_intricate(body):
        raise BadRequest(f"The body has more than {MOST_PARTS} parts.")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not valid JSON (line {error.lineno}, column {error.colno}).") from None
    if not isinstance(document, dict):
        raise BadRequest("The body must be a JSON object.")
    return document


def _parse_cut(body: bytes) -> dict[str, Any] | None:
    if _is_intricate(body):
        return None
    document = cut_json.parse(body)
    return document if isinstance(document, dict) else None


_MODEL = re.compile(rb'"model"\s*:\s*"((?:[^"\\]|\\.){1,512})"')


def _search_model(body: bytes) -> str | None:
    """A model name in the first or last 64 KiB of a body that could not be closed."""
    for part in (body[:65536], body[-65536:]):
        found = _MODEL.search(part)
        if found:
            return _text(found[1])
    return None


def _text(inner: bytes) -> str | None:
    """What a JSON string with this inside says; None if it is none."""
    try:
        return str(orjson.loads(b'"%s"' % inner))
    except orjson.JSONDecodeError:
        return None


_BEFORE_MESSAGES = ("instructions", "system", "prompt", "input", "query", "text_1")
_AFTER_MESSAGES = ("documents", "text_2")
_BESIDE_MESSAGES = frozenset((*_BEFORE_MESSAGES, *_AFTER_MESSAGES))


def _prompt(document: dict[str, Any]) -> bytes:
    """The prompt in the order in which chat templates lay it out: tools, system, messages or prompt."""
    pieces: list[bytes] = []
    if document.get("tools"):
        pieces.append(_as_json(document["tools"]))
    # Most chats have nothing beside their messages.
    beside = not _BESIDE_MESSAGES.isdisjoint(document)
    if beside:
        pieces += [_flat(document[name]) for name in _BEFORE_MESSAGES if name in document]
    messages = document.get("messages")
    if isinstance(messages, list):
        for message in messages:
            _add_message(pieces, message)
    if beside:
        pieces += [_flat(document[name]) for name in _AFTER_MESSAGES if name in document]
    return b"\x00".join(pieces)


def _add_message(pieces: list[bytes], message: Any) -> None:
    if isinstance(message, str):
        pieces.append(message.encode())
    if not isinstance(message, dict):
        return  # no engine takes it
    pieces.append(_flat(message.get("role")))
    pieces.append(_flat(message.get("content")))
    if message.get("tool_calls"):
        pieces.append(_flat(message["tool_calls"]))


def _flat(value: Any) -> bytes:
    """Text as it is; a list of parts one by one, so that one more at the end changes nothing before it; else JSON."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        return b"\x00".join([_part(part) for part in value])
    return b"" if value is None else _as_json(value)


def _part(part: dict[str, Any]) -> bytes:
    text = part.get("text")
    return text.encode() if isinstance(text, str) else _as_json(part)


def _as_json(value: Any) -> bytes:
    try:
        # Copied: what it returns keeps a kilobyte, however short it is, and there may be many.
        return bytes(memoryview(orjson.dumps(value)))
    except orjson.JSONEncodeError:  # deeper than it writes, though it read it
        return b""


def _bound(document: dict[str, Any]) -> int | None:
    """The most tokens the engine may produce, under any of its names."""
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = document.get(name)
        if value is not None and isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _string(document: dict[str, Any], name: str) -> str:
    """The text there; what is none is left to the engine to refuse."""
    value = document.get(name)
    return value if isinstance(value, str) else ""


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


# Some engines read that whatever its content type.
_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*+\{")


def _is_framed(content_type: str | None) -> bool:
    """gRPC to the engine, or a form with files: bytes that we pass on unread, whatever the path."""
    return content_type is not None and content_type.lower().startswith(("application/grpc", "multipart/form-data"))


# ------------------------------------------------------------------------------------------------ responses


@dataclass(frozen=True, slots=True)
class Usage:
    """What the engine counted for one request, in tokens. `cached` None: it does not say."""

    prompt: int
    completion: int
    cached: int | None


_USAGE = re.compile(rb'"usage"\s*:\s*(\{)')


def read_usage(chunk: bytes) -> Usage | None:
    """The last `usage` object in a piece of response (JSON or SSE), if it holds a whole one."""
    usage = None
    for found in _USAGE.finditer(chunk):
        usage = _usage_at(chunk, found.start(1)) or usage
    return usage


def _usage_at(chunk: bytes, start: int) -> Usage | None:
    depth = 0
    for brace in re.finditer(rb"[{}]", chunk[start : start + 4096]):
        depth += 1 if brace[0] == b"{" else -1
        if depth == 0:
            return _usage(chunk[start : start + brace.end()])
    return None


def _usage(text: bytes) -> Usage | None:
    try:
        usage = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(
        prompt=_whole(usage.get("prompt_tokens", usage.get("input_tokens"))),
        completion=_whole(usage.get("completion_tokens", usage.get("output_tokens"))),
        cached=_whole(cached) if isinstance(cached, int) else None,
    )


# Of one request: engines can say anything, and clients are billed by it.
_MOST_TOKENS = 2**31


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS else 0
