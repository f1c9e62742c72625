"""The two messages of the one-message mode, straight from and to bytes. Used by `codec` alone.

Every placed request is one such exchange, and most of what protobuf's runtime costs there is spent on making objects:
here a request body with its attributes is read in one pass over the top-level fields, attributes that were seen before
are looked up by their bytes, and the answer is put together from parts. What does not look exactly like the common
case is left to protobuf: `read_body` then returns None. A test holds both ways to the same results.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

# Field numbers of ProcessingRequest with wire type 2 (length-delimited): see protos/igw_protos/ext_proc.proto.
_REQUEST_BODY = 4 << 3 | 2
_ATTRIBUTES = 9 << 3 | 2
_PROTOCOL_CONFIG = 11 << 3 | 2
_BODY = 1 << 3 | 2
_END_OF_STREAM = b"\x10\x01"

# Distinct attribute sets: routes times paths times a few headers. Clients that vary their paths only miss the cache.
_REMEMBERED = 1024


class Body(NamedTuple):
    """A request body message. `config` is the bytes of its protocol_config; None: it has none."""

    body: bytes
    end_of_stream: bool
    attributes: Mapping[str, str]
    config: bytes | None


def reader(parse_attributes: Callable[[bytes], Mapping[str, str]]) -> Callable[[bytes], Body | None]:
    """A `read_body` that parses attributes it has not seen (map entries, concatenated) by `parse_attributes`."""
    remembered = lru_cache(_REMEMBERED)(parse_attributes)

    def read_body(data: bytes) -> Body | None:
        """The message, if it is a request body with nothing but attributes and modes beside it."""
        inner = attributes = config = None
        at, size = 0, len(data)
        while at < size:
            tag = data[at]
            # Lengths below 128 are most of them: one byte each.
            length, at = (data[at + 1], at + 2) if at + 1 < size and data[at + 1] < 0x80 else _length(data, at + 1)
            end = at + length
            if end > size or length < 0:
                return None
            if tag == _REQUEST_BODY and inner is None:
                inner = (at, end)
            elif tag == _ATTRIBUTES and attributes is None:
                attributes = data[at:end]
            elif tag == _PROTOCOL_CONFIG and config is None:
                config = data[at:end]
            else:
                return None
            at = end
        if inner is None:
            return None
        body = _body(data, *inner)
        if body is None:
            return None
        return Body(*body, remembered(attributes) if attributes is not None else {}, config)

    return read_body


def _body(data: bytes, at: int, end: int) -> tuple[bytes, bool] | None:
    """HttpBody: the body, then whether it is the last; either may be left out."""
    body = b""
    if at < end and data[at] == _BODY:
        length, start = _length(data, at + 1)
        at = start + length
        if length < 0 or at > end:
            return None
        body = data[start:at]
    if at == end:
        return body, False
    return (body, True) if data[at:end] == _END_OF_STREAM else None


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A varint of at most five bytes and where it ends; -1 if there is none."""
    value = shift = 0
    for step, byte in enumerate(data[at : at + 5]):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + step + 1
        shift += 7
    return -1, at


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    size = len(payload)
    if size < 0x80:
        return bytes((number << 3 | 2, size)) + payload
    head = bytearray((number << 3 | 2,))
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + payload


@lru_cache(4096)
def _entry(key: str, value: str) -> bytes:
    """One entry of a Struct: a name and a text."""
    return field(1, field(1, key.encode()) + field(2, field(3, value.encode())))


def writer(namespace: str, remembered_key: str, fresh_key: str) -> Callable[[str, str], bytes]:
    """A `body_reply` for those two names in that namespace. Values of `remembered_key` come again and again."""
    name = field(1, namespace.encode())
    fresh = field(1, fresh_key.encode())
    passes = field(3, field(1, b""))  # request_body: an empty CommonResponse

    def body_reply(remembered_value: str, fresh_value: str) -> bytes:
        """A ProcessingResponse that lets the request body pass and carries both texts as dynamic metadata."""
        entries = _entry(remembered_key, remembered_value) + field(1, fresh + field(2, field(3, fresh_value.encode())))
        return passes + field(8, field(1, name + field(2, field(5, entries))))

    return body_reply
