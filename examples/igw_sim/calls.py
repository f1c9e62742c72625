"""What clients ask: request bodies of the OpenAI, Anthropic and Cohere-style APIs, checked as vLLM checks them.

Bytes in, one `Call` or an `ApiError` out. No HTTP objects and no engine here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from igw_sim import tokens


class ApiError(Exception):
    """A request that is refused, with the status and the fields of OpenAI's error body."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        """`{"error": {...}}`, as vLLM sends it."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}
        return orjson.dumps({"error": error})


@dataclass(frozen=True, slots=True)
class Call:
    """A checked request. `prompt` is tokens (`tokens.tokenize`); `inputs` are the texts of embeddings and rerank."""

    model: str
    adapter: str | None
    prompt: bytes
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_end: bool = False
    stream: bool = False
    include_usage: bool = False
    inputs: tuple[str, ...] = ()
    base64: bool = False
    top_n: int | None = None
    previous: str | None = None  # the response that it continues
    response_id: str | None = None  # what its own response is to be called
    keeps: bool = False  # whether its response is kept
    # What it says about the two halves of a split request; `splits` reads it.
    halves: Mapping[str, Any] = field(default_factory=dict)


_HALVES = ("kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room")
# Served model name to the adapter it stands for; None is the base model.
Models = Mapping[str, str | None]


def parse(api: str, body: bytes, models: Models) -> Call:
    """Check a request to one of `APIS`. ApiError 400 for what is malformed, 404 for an unknown model."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"Invalid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ApiError(400, "The request body must be a JSON object")
    model = data.get("model") or next(iter(models))
    if not isinstance(model, str):
        raise ApiError(400, "model must be a string", param="model")
    if model not in models:
        raise ApiError(404, f"The model `{model}` does not exist.", "NotFoundError", "model")
    return _APIS[api](data, model, models[model])


def _chat(data: dict[str, Any], model: str, adapter: str | None) -> Call:
    turns = [("tools", orjson.dumps(data["tools"]).decode())] if data.get("tools") else []
    turns += _turns(data.get("messages"), "messages")
    if _integer(data, "n") not in (None, 1):
        raise ApiError(400, "n must be 1", param="n")
    limit = _integer(data, "max_completion_tokens", 1) or _integer(data, "max_tokens", 1)
    return _generation(data, model, adapter, tokens.conversation(turns), limit)


def _completion(data: dict[str, Any], model: str, adapter: str | None) -> Call:
    if _integer(data, "n") not in (None, 1):
        raise ApiError(400, "n must be 1", param="n")
    # The API's own default is 16 tokens.
    limit = _integer(data, "max_tokens", 1) or 16
    return _generation(data, model, adapter, _prompt(data.get("prompt")), limit)


def _responses(data: dict[str, Any], model: str, adapter: str | None) -> Call:
    given = data.get("input")
    turns = [("system", _text(data["instructions"], "instructions"))] if data.get("instructions") else []
    turns += [("user", given)] if isinstance(given, str) else _turns(given, "input")
    call = _generation(data, model, adapter, tokens.conversation(turns), _integer(data, "max_output_tokens", 1))
    return replace(
        call,
        previous=_optional(data, "previous_response_id"),
        response_id=_optional(data, "request_id"),
        keeps=data.get("store") is not False,
    )


def _messages(data: dict[str, Any], model: str, adapter: str | None) -> Call:
    limit = _integer(data, "max_tokens", 1)
    if limit is None:
        raise ApiError(400, "max_tokens: Field required", param="max_tokens")
    turns = [("system", _text(data["system"], "system"))] if data.get("system") else []
    turns += _turns(data.get("messages"), "messages")
    return _generation(data, model, adapter, tokens.conversation(turns), limit)


def _embeddings(data: dict[str, Any], model: str, adapter: str | None) -> Call:
    given = data.get("input")
    if given is None or given in ("", []):
        raise ApiError(400, "input: Field required", param="input")
    several = isinstance(given, list) and not isinstance(given[0], int)
    prompts = [_prompt(item) for item in given] if several else [_prompt(given)]
    return Call(
        model,
        adapter,
        b"".join(prompts),
        inputs=tuple(prompt.hex() for prompt in prompts),
        base64=data.get("encoding_format") == "base64",
    )


def _rerank(data: dict[str, Any], model: str, adapter: str | None) -> Call:
    query = _text(data.get("query"), "query")
    documents = data.get("documents")
    if not isinstance(documents, list) or not documents:
        raise ApiError(400, "documents: a list with at least one document is required", param="documents")
    texts = tuple(_text(document, "documents") for document in documents)
    prompt = b"".join(tokens.tokenize(query) + tokens.tokenize(text) for text in texts)
    return Call(model, adapter, prompt, inputs=texts, top_n=_integer(data, "top_n", 1))


_APIS: dict[str, Callable[[dict[str, Any], str, str | None], Call]] = {
    "chat": _chat,
    "completions": _completion,
    "responses": _responses,
    "messages": _messages,
    "embeddings": _embeddings,
    "rerank": _rerank,
}
APIS = tuple(_APIS)


def _generation(data: dict[str, Any], model: str, adapter: str | None, prompt: bytes, limit: int | None) -> Call:
    if not prompt:
        raise ApiError(400, "the prompt is empty", param="prompt")
    options = data.get("stream_options") or {}
    if not isinstance(options, dict):
        raise ApiError(400, "stream_options must be an object", param="stream_options")
    return Call(
        model,
        adapter,
        prompt,
        max_tokens=limit,
        min_tokens=_integer(data, "min_tokens", 0) or 0,
        ignore_end=data.get("ignore_eos") is True,
        stream=data.get("stream") is True,
        include_usage=options.get("include_usage") is True,
        halves={name: data[name] for name in _HALVES if name in data},
    )


def _integer(data: dict[str, Any], name: str, least: int | None = None) -> int | None:
    value = data.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ApiError(400, f"{name} must be an integer", param=name)
    if least is not None and value < least:
        raise ApiError(400, f"{name} must be at least {least}, got {value}.", param=name)
    return value


def _optional(data: dict[str, Any], name: str) -> str | None:
    value = data.get(name)
    if value is not None and not isinstance(value, str):
        raise ApiError(400, f"{name} must be a string", param=name)
    return value


def _turns(messages: Any, name: str) -> list[tuple[str, str]]:
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, f"{name}: a list with at least one message is required", param=name)
    turns = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ApiError(400, f"{name}: every message needs a role", param=name)
        turns.append((message["role"], _text(message.get("content") or "", name)))
    return turns


def _text(content: Any, name: str) -> str:
    """A string, an object with a text, or a list of parts; parts that are no text count with their JSON."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        text = content.get("text")
        return text if isinstance(text, str) else orjson.dumps(content).decode()
    if isinstance(content, list):
        return "".join(_text(part, name) for part in content)
    raise ApiError(400, f"{name}: text expected", param=name)


def _prompt(prompt: Any) -> bytes:
    """A string, a list of token ids, or a list with one of these."""
    if isinstance(prompt, str):
        return tokens.tokenize(prompt)
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        return b"".join((token & 0xFFFFFFFF).to_bytes(tokens.TOKEN_BYTES, "little") for token in prompt)
    if isinstance(prompt, list) and len(prompt) == 1:
        return _prompt(prompt[0])
    raise ApiError(400, "one prompt is required: a string or a list of token ids", param="prompt")
