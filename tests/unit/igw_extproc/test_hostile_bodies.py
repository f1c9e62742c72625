"""Bodies made to cost: each is read or refused with a 400, without much memory, and as engines will read it."""

import json
import tracemalloc
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_extproc import openai
from igw_extproc.errors import BadRequest, RoutingError, WrongContentType
from igw_extproc.openai import MOST_PARTS, MOST_VALUES, Api, api_of, read, read_usage

CHAT: Final = "/v1/chat/completions"
MIB: Final = 2**20


def chat(messages: bytes) -> bytes:
    return b'{"model":"m","messages":[%s]}' % messages


def parts(one: bytes, count: int) -> bytes:
    return chat(b",".join([one] * count))


TOO_MUCH: Final = {
    "objects": parts(b"{}", MOST_PARTS),
    "lists": parts(b"[]", MOST_PARTS),
    "strings": parts(b'"ab"', MOST_PARTS),
    "strings of backslashes": parts(rb'"\\"', MOST_PARTS),
    "values": b'{"model":"m","prompt":[%s]}' % b",".join([b"1"] * (MOST_VALUES + 2)),
    "brackets": b"[" * MIB,
}
ENOUGH: Final = {
    "braces in a text": chat(b'{"role":"user","content":"%s"}' % (rb"{\"a\":[1,2]}," * MOST_PARTS)),
    "escapes": chat(b'{"role":"user","content":"%s"}' % (rb"\\\"" * MOST_PARTS)),
    "zeros": chat(b'{"role":"user","content":"%s"}' % (rb"\u0000" * MOST_PARTS)),
    "a million token ids": b'{"model":"m","messages":[],"prompt":[%s]}' % b",".join([b"17"] * 1_000_000),
}


@pytest.mark.parametrize("body", TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_body_of_endless_parts_is_refused_before_it_takes_memory(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest):
            read(CHAT, None, body, complete=True)
        read(CHAT, None, body, complete=False)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body) + MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("body", ENOUGH.values(), ids=ENOUGH)
def test_what_only_looks_like_parts_is_none(body: bytes) -> None:
    """Code and data in a prompt, of any size."""
    assert read("/v1/completions", None, body, complete=True).model == "m"


def test_many_odd_messages_take_no_memory_of_their_own() -> None:
    """What an encoder returns for each may be a kilobyte."""
    body = b'{"model":"m","messages":[%s]}' % b",".join([b'{"content":1}'] * 50_000)
    tracemalloc.start()
    try:
        read(CHAT, None, body, complete=True)
        assert tracemalloc.get_traced_memory()[1] < 40 * MIB
    finally:
        tracemalloc.stop()


numbers = st.sampled_from(
    ["NaN", "-Infinity", "1e999", "9" * 5000, "-0", "-1", "true", "null", "1.5", str(2**64), "1e3"]
)
texts = st.sampled_from([r'"\ud800"', '"\\u0000"', '"\r\n"', '"a\\r\\nx: y"', '""', "[]", "{}", '"m"', "0", "null"])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["model", "messages", "max_tokens", "stream", "session_id", "tools"]), texts | numbers
        )
    ),
    st.booleans(),
)
def test_odd_values_under_known_names_are_read_or_refused(fields: list[tuple[str, str]], complete: bool) -> None:
    body = "{" + ",".join(f'"{name}":{value}' for name, value in fields) + "}"
    try:
        reading = read(CHAT, None, body.encode(), complete)
    except RoutingError as error:
        assert 400 <= error.status < 500
        json.loads(error.body())
        return
    assert reading.model is None or reading.model
    assert reading.max_tokens is None or reading.max_tokens > 0


def test_of_repeated_names_the_last_counts_as_with_engines() -> None:
    """Python's parser, which most of them use: what is placed, refused and counted as one model is served as that."""
    body = '{"model":"cheap","messages":["x"],"max_tokens":1,"\\u006dodel":"dear","max_tokens":9}'
    reading = read(CHAT, None, body.encode(), complete=True)
    served = json.loads(body)
    assert (reading.model, reading.max_tokens) == (served["model"], served["max_tokens"])
    assert json.loads(openai.rewrite_model(reading.document or {}, "x")) == {**served, "model": "x"}


@pytest.mark.parametrize("path", ["/v1/chat/completion%73", "/v1/%63hat/completions?x=%2F", "/v1/chat%2Fcompletions"])
def test_a_path_is_read_as_engines_decode_it(path: str) -> None:
    assert api_of(path) is Api.CHAT


@pytest.mark.parametrize("content_type", ["application/grpc", "multipart/form-data; boundary=b"])
@pytest.mark.parametrize("before", [b"", b" \r\n\t", b"\xef\xbb\xbf"])
def test_json_under_the_name_of_something_else_is_refused(content_type: str, before: bytes) -> None:
    """Some engines look at the body only, so it must not pass unread."""
    with pytest.raises(WrongContentType):
        read(CHAT, content_type, before + chat(b"1"), complete=True)


@pytest.mark.parametrize("count", ["-1", "true", "1e9", str(2**64), "9" * 400, '"1"', "null"])
def test_an_engine_cannot_say_that_a_request_used_less_than_nothing_or_more_than_there_is(count: str) -> None:
    """Tenants are charged by it."""
    usage = read_usage(b'{"usage":{"prompt_tokens":%s,"completion_tokens":%s}}' % (count.encode(), count.encode()))
    assert usage is None or (usage.prompt, usage.completion) == (0, 0)
