"""What is read of a body that a proxy cut anywhere: never less than what came, and never an error."""

import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igw_extproc import cut_json, openai
from igw_extproc.openai import Api, Reading

CHAT = "/v1/chat/completions"
JSON = "application/json"


def read(body: Any, path: str | None = CHAT, *, content_type: str | None = JSON, complete: bool = True) -> Reading:
    """What is read of a body, given as bytes or as what to write as JSON."""
    return openai.read(path, content_type, body if isinstance(body, bytes) else orjson.dumps(body), complete)


# ------------------------------------------------------------------------------------------------ cut bodies

FIELDS = {
    "model": "mödel/7B",
    "n": 12,
    "temperature": -1.5e-3,
    "stop": ["\n", 'a"b'],
    "user": None,
    "stream": True,
}
TEXT = [
    {"role": "system", "content": 'Say "é€😀\\n"\n\t\\ and \\\\ twice.'},
    {"role": "user", "content": [{"type": "text", "text": "中文😀"}, {"type": "text", "text": "\\ud83d"}]},
    {"role": "user", "content": "中文" * 10 + "😀" * 3},
]
MIXED = [
    {"role": "user", "content": [{"type": "text", "text": "See:"}, {"type": "image_url", "image_url": {"url": "x"}}]},
    {"role": "assistant", "tool_calls": [{"id": 1, "function": {"arguments": '{"a": [1, "😀"]}'}}]},
]


def so_far(reading: Reading) -> bytes:
    """The text without what stands for fields, or for the text of a part, that have not come yet."""
    return re.sub(rb"\{[^\x00]*\}\Z", b"", reading.text).rstrip(b"\x00")


@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "utf-8"])
@pytest.mark.parametrize("separators", [(",", ":"), (" , ", " : ")], ids=["dense", "spaced"])
def test_a_chat_cut_at_any_byte_after_the_model_shows_the_model_and_the_text_so_far(
    ascii_only: bool, separators: tuple[str, str]
) -> None:
    """The text so far is the beginning of the whole text, and never less than what shorter beginnings showed."""
    document = {**FIELDS, "messages": TEXT, "tools": []}
    body = json.dumps(document, ensure_ascii=ascii_only, separators=separators).encode()
    whole, longest = read(body).text, b""
    for end in range(body.index(b'"', body.index(b":") + 3) + 1, len(body)):
        reading = read(body[:end], complete=False)
        assert (reading.api, reading.model, reading.document) == (Api.CHAT, FIELDS["model"], None), body[:end]
        assert whole.startswith(so_far(reading)), body[:end]
        assert so_far(reading).startswith(longest[:-4]), "at most one character, half of which is there, waits"
        longest = so_far(reading)
    assert longest == whole


@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "utf-8"])
def test_a_cut_in_an_image_or_a_tool_call_loses_nothing_before_it(ascii_only: bool) -> None:
    body = json.dumps({**FIELDS, "messages": TEXT + MIXED}, ensure_ascii=ascii_only).encode()
    before = read({**FIELDS, "messages": TEXT}).text
    for end in range(body.index(b'"See:') - 30, len(body)):
        reading = read(body[:end], complete=False)
        assert reading.model == FIELDS["model"]
        assert reading.text.startswith(before), body[:end]


@given(
    content=st.text() | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}), min_size=1),
    model=st.text(min_size=1, max_size=20),
    ascii_only=st.booleans(),
    data=st.data(),
)
def test_any_chat_may_be_cut_anywhere_in_its_text(
    content: Any, model: str, ascii_only: bool, data: st.DataObject
) -> None:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": content}]}, ensure_ascii=ascii_only)
    encoded = body.encode()
    start = encoded.index(b'"messages"')
    end = data.draw(st.integers(start, len(encoded) - 1))
    reading = read(encoded[:end], complete=False)
    assert reading.model == model
    assert read(encoded).text.startswith(so_far(reading))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(
    document=st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=5),
    indent=st.sampled_from([None, 1]),
    data=st.data(),
)
def test_the_beginning_of_any_object_is_an_object_that_says_nothing_else(
    document: dict[str, Any], indent: int | None, data: st.DataObject
) -> None:
    body = json.dumps(document, indent=indent).encode()
    end = data.draw(st.integers(1, len(body)))
    found = cut_json.parse(body[:end])
    assert isinstance(found, dict)
    keys = list(document)
    assert list(found) == keys[: len(found)]
    assert all(found[name] == document[name] for name in keys[: max(len(found) - 1, 0)])


@given(body=st.binary(max_size=300) | st.text(alphabet='{}[]",:\\u0d8a1 ', max_size=60).map(str.encode))
def test_what_is_no_beginning_of_a_document_is_given_up_quietly(body: bytes) -> None:
    cut_json.parse(body)


def test_a_document_too_intricate_to_be_scanned_is_given_up_but_for_its_model() -> None:
    """One event loop serves all requests: no body may hold it for long."""
    body = b'{"model":"m","messages":[' + b"[]," * cut_json.MAX_TOKENS
    assert cut_json.parse(body) is None
    assert read(body, complete=False) == Reading(Api.CHAT, model="m")


@pytest.mark.parametrize("body", [b"}", b'{"a":[}', b"[1", b"12", b'"text', b"", b"\\"])
def test_what_is_no_object_has_no_model(body: bytes) -> None:
    assert openai.read(CHAT, JSON, body or b" ", complete=False).model is None


def test_a_model_named_last_is_found_in_a_long_body_that_cannot_be_closed() -> None:
    junk = b"]" + b" " * 200_000
    assert read(junk + b'"model" : "m\\u00e9","x":', complete=False).model == "mé"
    assert read(b'"model":"first"' + junk + b'"model":"last"', complete=False).model == "first"
    assert read(junk + b'"model":"\\x"', complete=False).model is None
