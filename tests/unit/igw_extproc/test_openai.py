"""What is read of request bodies, whole or cut anywhere, and of the usage in responses."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from igw_extproc import openai
from igw_extproc.errors import BadRequest, WrongContentType
from igw_extproc.openai import Api, Reading, Usage
from igw_testing.builders import chat

CHAT = "/v1/chat/completions"
JSON = "application/json"


def read(body: Any, path: str | None = CHAT, *, content_type: str | None = JSON, complete: bool = True) -> Reading:
    """What is read of a body, given as bytes or as what to write as JSON."""
    return openai.read(path, content_type, body if isinstance(body, bytes) else orjson.dumps(body), complete)


def chat_text(*messages: dict[str, Any], **fields: Any) -> bytes:
    """The prompt's text of a chat with these messages."""
    return read({"model": "m", "messages": list(messages), **fields}).text


# ------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/chat/completions", Api.CHAT),
        ("/v1/chat/completions?api-version=2024-06-01", Api.CHAT),
        ("/tenant/a/v1/chat/completions", Api.CHAT),
        ("/v1/completions", Api.COMPLETIONS),
        ("/v1/responses", Api.RESPONSES),
        ("/v1/embeddings", Api.EMBEDDINGS),
        ("/v1/messages", Api.MESSAGES),
        ("/v1/rerank", Api.RERANK),
        ("/v2/rerank", Api.RERANK),
        ("/score", Api.RERANK),
        (None, Api.COMPLETIONS),
        ("", Api.COMPLETIONS),
        ("/", Api.OPAQUE),
        ("/v1/models", Api.OPAQUE),
        ("/v1/chat/completions/", Api.OPAQUE),
        ("/v1/messages/count_tokens", Api.OPAQUE),
        ("/v1/responses/resp_1/cancel", Api.OPAQUE),
        ("/messages", Api.OPAQUE),
        ("/v1/audio/transcriptions", Api.OPAQUE),
        ("/v1/models?path=/v1/chat/completions", Api.OPAQUE),
        ("/V1/CHAT/COMPLETIONS", Api.OPAQUE),
    ],
)
def test_the_end_of_the_path_tells_the_api(path: str | None, api: Api) -> None:
    assert openai.api_of(path) is api


@given(body=st.binary(), complete=st.booleans())
def test_an_unknown_path_is_never_read_nor_refused(body: bytes, complete: bool) -> None:
    assert read(body, "/generate", content_type="x/y", complete=complete) == Reading(Api.OPAQUE)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/realtime?model=qwen", "qwen"),
        ("/tenant/a/v1/realtime?intent=transcription&model=org%2Fname+1", "org/name 1"),
        ("/v1/realtime", None),
        ("/v1/realtime?model=", None),
        ("/v1/realtime?other_model=qwen", None),
        ("/v1/models?model=qwen", None),
    ],
)
def test_a_realtime_connection_names_its_model_in_the_query(path: str, named: str | None) -> None:
    """It has no body. Elsewhere a parameter of that name may mean anything."""
    assert read(b"", path, content_type=None) == Reading(Api.OPAQUE, named)


# ------------------------------------------------------------------------------------------------ content types


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/json", "application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"],
)
def test_json_is_read_under_each_of_its_names(content_type: str | None) -> None:
    assert read(chat("m"), content_type=content_type).model == "m"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonl"])
def test_another_content_type_is_refused_by_name(content_type: str) -> None:
    with pytest.raises(WrongContentType, match=content_type) as refusal:
        read(chat("m"), content_type=f"{content_type}; charset=utf-8")
    assert refusal.value.status == 415


@pytest.mark.parametrize(
    "content_type", ["application/grpc", "application/grpc+proto", "Multipart/Form-Data; boundary=x"]
)
def test_framed_bodies_pass_unread(content_type: str) -> None:
    assert read(b"\x00\x01", content_type=content_type) == Reading(Api.OPAQUE)


def test_a_request_without_a_body_is_opaque() -> None:
    assert read(b"") == Reading(Api.OPAQUE)


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"no healthy upstream", "line 1, column 1"),
        (b'{"model":"m","messages":[}', "not valid JSON"),
        (b'["model"]', "JSON object"),
        (b"null", "JSON object"),
        (b'{"model":"","messages":[1]}', "`model`"),
        (b'{"model":7,"messages":[1]}', "`model`"),
        (b'{"model":"m"}', "`messages`"),
        (b'{"model":"m","messages":[]}', "`messages`"),
    ],
)
def test_a_whole_body_that_no_engine_could_serve_is_refused_with_what_to_change(body: bytes, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        read(body)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/chat/completions", "messages"),
        ("/v1/completions", "prompt"),
        ("/v1/completions", "messages"),
        ("/v1/responses", "input"),
        ("/v1/responses", "previous_response_id"),
        ("/v1/embeddings", "input"),
        ("/v1/messages", "messages"),
        ("/rerank", "query"),
        ("/score", "text_1"),
    ],
)
def test_each_api_has_its_prompt_fields(path: str, field: str) -> None:
    assert read({"model": "m", field: ["x"]}, path).model == "m"
    with pytest.raises(BadRequest, match=f"`{field}`"):
        read({"model": "m"}, path)


@pytest.mark.parametrize("body", [b'{"messages":[1]}', b'{"model":null,"messages":[1]}'])
def test_a_body_without_a_model_is_read_without_one(body: bytes) -> None:
    """Whether that is an error depends on the pool: the director decides."""
    assert read(body).model is None


@given(body=st.binary(max_size=200), complete=st.booleans())
@example(body=b'{"model":"\\x"}', complete=False)
@example(body=b'{"model":"\xff"}', complete=False)
def test_bytes_are_read_or_refused_and_nothing_else(body: bytes, complete: bool) -> None:
    try:
        read(body, complete=complete)
    except BadRequest:
        assert complete, "a cut body is never refused"


DEEP = b"[" * 400 + b"]" * 400


def test_what_is_nested_too_deeply_to_be_written_is_read_without_it() -> None:
    """The parser reads more levels than the writer writes."""
    reading = read(b'{"model":"m","tools":%s,"messages":[{"role":"user","content":%s}]}' % (DEEP, DEEP))
    assert reading.model == "m"
    assert reading.document is not None
    with pytest.raises(BadRequest, match="too deeply"):
        openai.rewrite_model(reading.document, "other")


def test_a_rewrite_changes_the_model_alone() -> None:
    body = {"model": "a", "messages": [{"role": "user", "content": "é€😀"}], "n": 1.5, "x": [None, True]}
    document = read(body).document
    assert document is not None
    assert json.loads(openai.rewrite_model(document, "b")) == {**body, "model": "b"}


# ------------------------------------------------------------------------------------------------ the prompt's text


def test_the_text_of_a_prompt_is_without_its_json_dress() -> None:
    """Escaped or not, the engine sees the same text."""
    content = 'a "quoted" line\nand é😀'
    plain = read(
        json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}, ensure_ascii=False).encode()
    )
    escaped = read(json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}, indent=2).encode())
    assert plain.text == escaped.text
    assert content.encode() in plain.text


def test_text_parts_are_read_like_plain_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert b"one" in chat_text({"role": "user", "content": parts})
    assert b"type" not in chat_text({"role": "user", "content": parts})
    assert chat_text({"role": "user", "content": parts}) == chat_text({"role": "user", "content": "one\0two"})


def test_one_more_part_changes_nothing_before_it() -> None:
    """What came before it is in the engine's cache."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": "See:"}, {"type": "image_url", "image_url": {"url": "x"}}]
    less, more = (chat_text({"role": "user", "content": parts[:count]}) for count in (1, 2))
    assert more.startswith(less)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([("user", "a"), ("assistant", "b")], [("user", "b"), ("assistant", "a")]),
        ([("user", "a"), ("assistant", "b")], [("assistant", "b"), ("user", "a")]),
        ([("user", "a"), ("user", "b")], [("user", "ab")]),
        ([("system", "a")], [("user", "a")]),
        ([("user", "a")], [("user", "a"), ("user", "")]),
    ],
)
def test_messages_differ_by_order_role_and_number(one: list[tuple[str, str]], other: list[tuple[str, str]]) -> None:
    texts = [chat_text(*({"role": role, "content": text} for role, text in messages)) for messages in (one, other)]
    assert texts[0] != texts[1]


MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text(max_size=20)})


@given(conversation=st.lists(MESSAGE, min_size=1, max_size=5), more=st.lists(MESSAGE, min_size=1, max_size=3))
def test_a_conversation_that_goes_on_begins_with_the_text_it_had(
    conversation: list[dict[str, str]], more: list[dict[str, str]]
) -> None:
    """What makes a prefix cache useful at all."""
    assert chat_text(*conversation, *more).startswith(chat_text(*conversation))


def test_tools_and_instructions_come_before_the_conversation_and_documents_after_the_query() -> None:
    """As the engines' templates lay them out."""
    user = {"role": "user", "content": "question"}
    text = chat_text(user, system="be brief", tools=[{"name": "search"}])
    assert text.index(b"search") < text.index(b"be brief") < text.index(b"question")
    ranked = read({"model": "m", "documents": ["doc"], "query": "question"}, "/rerank").text
    assert ranked.index(b"question") < ranked.index(b"doc")


def test_tool_calls_images_and_token_ids_are_told_apart_too() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,x"}}
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    assert b"data:,x" in chat_text({"role": "user", "content": [image]})
    assert b"function" in chat_text(call)
    assert read({"model": "m", "prompt": [1, 2, 3]}, "/v1/completions").text == b"[1,2,3]"
    assert b"loose" in read({"model": "m", "messages": ["loose"]}).text
    assert read({"model": "m", "messages": {"not": "a list"}}).text == b""


# ------------------------------------------------------------------------------------------------ the rest


@pytest.mark.parametrize(
    ("fields", "bound"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_output_tokens": 6}, 6),
        ({"max_completion_tokens": 7, "max_tokens": 5}, 7),
        ({"max_completion_tokens": None, "max_tokens": 5}, 5),
        ({"max_tokens": 0}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": "5"}, None),
    ],
)
def test_the_bound_on_the_output_has_three_names(fields: dict[str, Any], bound: int | None) -> None:
    assert read(chat(**fields)).max_tokens == bound


def test_streaming_and_cache_salt_are_read() -> None:
    reading = read(chat(stream=True, cache_salt="tenant-1"))
    assert (reading.stream, reading.salt) == (True, "tenant-1")
    reading = read(chat(stream="true", cache_salt=1))
    assert (reading.stream, reading.salt) == (False, "")


# ------------------------------------------------------------------------------------------------ usage


@pytest.mark.parametrize(
    ("chunk", "usage"),
    [
        (b'{"id":1,"usage":{"prompt_tokens":7,"completion_tokens":10,"total_tokens":17}}', Usage(7, 10, None)),
        (
            b'data: {"usage": {"prompt_tokens":7,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":4}}}',
            Usage(7, 1, 4),
        ),
        (
            b'{"usage":{"input_tokens":3,"output_tokens":2,"input_tokens_details":{"cached_tokens":1}}}',
            Usage(3, 2, 1),
        ),
        (b'{"usage":{"prompt_tokens":7,"prompt_tokens_details":null}}', Usage(7, 0, None)),
        (b'{"usage":{"prompt_tokens":"7","prompt_tokens_details":[1]}}', Usage(0, 0, None)),
        (b'{"usage":{"prompt_tokens":1}}\n{"usage":{"prompt_tokens":2}}', Usage(2, 0, None)),
        (b'{"usage":{"prompt_tokens":1}}\n{"usage":{"prompt_tok', Usage(1, 0, None)),
        (b'{"usage":null}', None),
        (b'{"usage":{"prompt_tokens":', None),
        (b'{"usage":{x}}', None),
        (b'{"text":"\\"usage\\":{}"}', None),
        (b"", None),
    ],
)
def test_the_last_whole_usage_is_taken(chunk: bytes, usage: Usage | None) -> None:
    assert openai.read_usage(chunk) == usage


@given(chunk=st.binary(max_size=60) | st.text(alphabet='{}[]",:"usage1 ', max_size=60).map(str.encode))
def test_a_response_never_hurts(chunk: bytes) -> None:
    openai.read_usage(b'"usage":{' + chunk)
    openai.read_usage(chunk)
