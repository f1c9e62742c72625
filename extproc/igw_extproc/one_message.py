"""The messages of our own Envoy's two filters, straight from and to bytes. Used by `codec` alone.

Every request is one such exchange for each filter, and most of what protobuf's runtime costs there is spent on making
objects: here a message is cut behind its part, what was seen before (all that stands beside a body, response headers)
is looked up by its bytes, and so is the answer, up to its lease. What does not look exactly like the common case is
left to protobuf. A test holds both ways to the same results.
"""

import re
from functools import lru_cache
from typing import Final

from igw_api import wire
from igw_extproc.messages import CREDENTIAL_ATTRIBUTES

# Tags of ProcessingRequest's fields, all length-delimited: see protos/igw_protos/ext_proc.proto.
RESPONSE_HEADERS: Final = 3 << 3 | 2
REQUEST_BODY: Final = 4 << 3 | 2
METADATA: Final = 8 << 3 | 2
BODIES: Final = (REQUEST_BODY, 5 << 3 | 2)  # of requests and of responses

_BODY: Final = 1 << 3 | 2
_SECRETS: Final = tuple(name.encode() for name in CREDENTIAL_ATTRIBUTES)
# A map's key with its length; its value with the tag and length; the text in that with the same. No value of a header
# has a line break.
_SECRET: Final = re.compile(
    b"\n[%b](%b)\x12([\x80-\xff]?.)\x1a([\x80-\xff]?.)"
    % (bytes(map(len, _SECRETS)), b"|".join(map(re.escape, _SECRETS))),
    re.DOTALL,
)
# The proxy's name of the request: a UUID.
REQUEST_ID: Final = b"request.id"
_NAME: Final = re.compile(rb"[0-9a-f-]{36}")
_NAME_SIZE: Final = 36
_NO_NAME: Final = bytes(_NAME_SIZE)
_NAMED: Final = b"\n\x0a%b\x12\x26\x1a\x24" % REQUEST_ID
_END_OF_STREAM: Final = b"\x10\x01"


def first(data: bytes, at: int = 0) -> tuple[int, int, int]:
    """The tag of the field that begins at `at`, and where its payload begins and ends. Tag 0: there is none."""
    length, start = _length(data, at + 1)
    end = start + length
    return (data[at], start, end) if length >= 0 and end <= len(data) else (0, at, at)


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


def unnamed(data: bytes) -> tuple[bytes, str]:
    """Attributes without the request's id, and that: no two requests have it in common.

    Empty, where it is not there once, or not as Envoy writes it: then it is among the attributes.
    """
    at = data.find(_NAMED)
    if at < 0 or data.count(REQUEST_ID) > 1:
        return data, ""
    start = at + len(_NAMED)
    end = start + _NAME_SIZE
    name = data[start:end]
    return (data[:start] + _NO_NAME + data[end:], name.decode()) if _NAME.fullmatch(name) else (data, "")


def hide(data: bytes) -> tuple[bytes, dict[str, str]] | None:
    """Attributes with zeros in the place of API keys, and these by their attributes.

    None: some are not as Envoy writes them.
    """
    names = sum(map(data.count, _SECRETS))
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
    # Most have one byte or two.
    start = data[at : at + 2]
    if start and start[0] < 0x80:
        return start[0], at + 1
    if len(start) > 1 and start[1] < 0x80:
        return start[0] & 0x7F | start[1] << 7, at + 2
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


def _entry(key: str, text: bytes) -> bytes:
    """One entry of a Struct: a name and a text."""
    return field(1, field(1, key.encode()) + field(2, field(3, text)))


_LB: Final = field(1, wire.LB_NAMESPACE.encode())
_PASSES: Final = field(3, field(1, b""))  # request_body: an empty CommonResponse
_ROUTES_ANEW: Final = field(3, field(1, b"\x28\x01"))  # one with clear_route_cache


def body_reply(
    destinations: str,
    lease: str,
    rest: tuple[tuple[str, str], ...] = (),
    routes_anew: bool = False,
    again: bool = True,
) -> bytes:
    """A ProcessingResponse that lets the request body pass and carries the texts as dynamic metadata.

    `rest`: other names and values. `routes_anew`: the proxy chooses its route once more. `again`: whether the same,
    but for the lease, will be said to others.
    """
    told = lease.encode()
    write = _before_lease if again else _before_lease.__wrapped__
    return write(destinations, len(told), rest, routes_anew) + told


# All but a lease comes again and again.
@lru_cache(4096)
def _before_lease(destinations: str, size: int, rest: tuple[tuple[str, str], ...], routes_anew: bool) -> bytes:
    """A reply up to its lease of `size` bytes, which is its end."""
    entries = [_entry(name, value.encode()) for name, value in ((wire.DESTINATION_HEADER, destinations), *rest)]
    entries.append(_entry(wire.LEASE_HEADER, bytes(size)))
    head = _ROUTES_ANEW if routes_anew else _PASSES
    whole = head + field(8, field(1, _LB + field(2, field(5, b"".join(entries)))))
    return whole[: len(whole) - size]
