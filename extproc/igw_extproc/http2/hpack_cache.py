"""Request header blocks and what they mean, decoded once per state of the dynamic table.

A proxy sends the same indexed block for every call, and decoding one costs more than all else the transport does for a
request. A block's meaning is kept only if decoding it left the dynamic table alone, and only until the table changes;
a block with a never-indexed field (a secret, RFC 7541 section 7.1.3) is not kept at all. Called by `connection`.
"""

import struct
from collections.abc import Callable
from typing import Final

from hpack import Decoder, HPACKError, NeverIndexedHeaderTuple, OversizedHeaderListError
from hpack.table import HeaderTable

from igw_extproc.http2.frames import ConnectionFault, ErrorCode
from igw_extproc.http2.request import Fields, Opening

# Envoy was seen to send two distinct blocks; a few hundred leaves room for clients with varying timeouts.
_MAX_KEPT: Final = 256
# Envoy's have about 50 bytes.
_LONGEST_KEPT: Final = 1024


class _CountedTable(HeaderTable):
    """A dynamic table that counts its insertions."""

    def __init__(self) -> None:
        super().__init__()
        self.insertions = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.insertions += 1
        super().add(name, value)

    def state(self) -> tuple[int, int, int]:
        """Differs whenever the entries do: they come by insertion, and go by insertion or a smaller size."""
        return self.insertions, self.maxsize, len(self.dynamic_entries)


class HeaderBlocks:
    """The decoder of one connection. Every block of the peer passes here, in order."""

    def __init__(self, interpret: Callable[[Fields], Opening], max_header_bytes: int) -> None:
        self._interpret = interpret
        self._table = _CountedTable()
        self._decoder = Decoder(max_header_list_size=max_header_bytes)
        self._decoder.header_table = self._table
        self._kept: dict[bytes, Opening] = {}

    def request(self, block: bytes) -> Opening:
        """The meaning of a request's block. Raises Malformed, or ConnectionFault when it cannot be decoded."""
        known = self._kept.get(block)
        if known is not None:
            return known
        before = self._table.state()
        fields = self.decode(block)
        opening = self._interpret(fields)
        is_secret = any(isinstance(field, NeverIndexedHeaderTuple) for field in fields)
        if self._table.state() == before and not is_secret and len(block) <= _LONGEST_KEPT:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[block] = opening
        return opening

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """The header list of any block, with the dynamic table brought forward."""
        before = self._table.state()
        try:
            fields: list[tuple[bytes, bytes]] = list(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header list too large") from None
        # The library lets these two escape on some truncated blocks.
        except (HPACKError, IndexError, struct.error) as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"header block: {type(error).__name__}") from None
        finally:
            if self._table.state() != before:
                self._kept.clear()
        return fields
