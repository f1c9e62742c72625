"""The messages of our own Envoy's two filters, straight from and to bytes. Used by `codec` alone.

Every request is one such exchange for each filter, and most of what protobuf's runtime costs there is spent on making
objects: here a message is split into its top-level fields in one pass, parts that were seen before (attributes, modes,
response headers) are looked up by their bytes, and the answer is put together from parts. What does not look exactly
like the common case is left to protobuf. A test holds both ways to the same results.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from igw_api import wire
from igw_extproc.messages import CREDENTIAL_ATTRIBUTES

# Tags of ProcessingRequest's fields, all length-delimited: see protos/igw_protos/ext_proc.proto.
RESPONSE_HEADERS = 3 << 3 | 2
REQUEST_BODY = 4 << 3 | 2
METADATA = 8 << 3 | 2
ATTRIBUTES = 9 << 3 | 2
PROTOCOL_CONFIG = 11 << 3 | 2
_KNOWN = frozenset((RESPONSE_HEADERS, REQUEST_BODY, METADATA, ATTRIBUTES, PROTOCOL_CONFIG))

_BODY = 1 << 3 | 2
_SECRETS = tuple(name.encode() for name in CREDENTIAL_ATTRIBUTES)
# A map's key with its length; its value with the tag and length; the text in that with the same. No value of a header
# has a line break.
_SECRET = re.compile(
    b"\n[%b](%b)\x12([\x80-\xff]?.)\x1a([\x80-\xff]?.)"
    % (bytes(map(len, _SECRETS)), b"|".join(map(re.escape, _SECRETS))),
    re.DOTALL,
)
_END_OF_STREAM = b"\x10\x01"


def split(data: bytes) -> dict[int, tuple[int, int]] | None:
    """Where each top-level field's payload begins and ends, by tag. None: a field that is unknown or there twice."""
    found: dict[int, tuple[int, int]] = {}
    at, size = 0, len(data)
    while at < size:
        tag = data[at]
        # Lengths below 128 are most of them: one byte each.
        length, at = (data[at + 1], at + 2) if at + 1 < size and data[at + 1] < 0x80 else _length(data, at + 1)
        end = at + length
        if end > size or length < 0 or tag in found or tag not in _KNOWN:
            return None
        found[tag] = at, end
        at = end
    return found


def body(data: bytes, at: int, end: int) -> tuple[bytes, bool] | None:
    """HttpBody: the body, then whether it is the last; either may be left out."""
    content = b""
    if at < end and data[at] == _BODY:
        length, start = _length(data, at + 1)
        at = start + length
        if length < 0 or at > end:
            return None
        content = data[start:at]
    if at == end:
        return content, False
    return (content, True) if data[at:end] == _END_OF_STREAM else None


def hide(data: bytes) -> tuple[bytes, dict[str, str]] | None:
    """Attributes with zeros in the place of API keys, and these by their attributes.

    None: some are not as Envoy writes them.
    """
    names = sum([data.count(name) for name in _SECRETS])
    if not names:
        return data, {}
    secrets: dict[str, str] = {}
    parts: tuple[bytes, ...] = ()
    at = 0
    for found in _SECRET.finditer(data):
        name, size, length = found.groups()
        count, text = _length(length, 0)[0], found.end()
        if not count or text < at or text + count > len(data) or _length(size, 0)[0] != 1 + len(length) + count:
            return None
        parts += (data[at:text], bytes(count))
        at = text + count
        try:
            secrets[name.decode()] = data[text:at].decode()
        except UnicodeDecodeError:
            return None
    return (b"".join((*parts, data[at:])), secrets) if len(secrets) == names else None


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


_LB = field(1, wire.LB_NAMESPACE.encode())
_LEASE = field(1, wire.LEASE_HEADER.encode())
_PASSES = field(3, field(1, b""))  # request_body: an empty CommonResponse
_ROUTES_ANEW = field(3, field(1, b"\x28\x01"))  # one with clear_route_cache


def body_reply(destinations: str, lease: str, rest: Iterable[tuple[str, str]] = (), routes_anew: bool = False) -> bytes:
    """A ProcessingResponse that lets the request body pass and carries the texts as dynamic metadata.

    `rest`: names and values that come again and again. `routes_anew`: the proxy chooses its route once more.
    """
    # Destinations come again and again; a lease is told once.
    entries = _entry(wire.DESTINATION_HEADER, destinations) + field(1, _LEASE + field(2, field(3, lease.encode())))
    for name, value in rest:
        entries += _entry(name, value)
    head = _ROUTES_ANEW if routes_anew else _PASSES
    return head + field(8, field(1, _LB + field(2, field(5, entries))))
