"""What HTTP/2 peers may make us hold, and how much useless work one may ask for. Values and arithmetic only.

Called by `server`, which hands the limits to every connection, and to all of them the same `Held`.
"""

from dataclasses import dataclass

from igw_extproc.http2.frames import DEFAULT_MAX_FRAME, DEFAULT_WINDOW, ConnectionFault, ErrorCode

_KIB = 1024
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one connection, and of all together; the defaults are for Envoy's ext_proc calls. Sizes in bytes, times
    in seconds.
    """

    # One stream stays open per request in flight. Envoy opens a further connection at the limit, so nothing fails
    # there; an idle stream costs about 1 KB, so a hostile peer gets some 16 MB.
    max_streams: int = 16_384
    max_all_streams: int = 65_536  # of all connections, as many requests as Envoy sends to one cluster
    max_frame: int = 16 * _KIB  # Envoy sends no larger frames, whatever it is allowed
    # Whole bodies up to this size need no stream window update.
    stream_window: int = _MIB
    connection_window: int = 64 * _MIB
    max_message: int = 16 * _MIB
    # Unfinished messages of all streams of all connections. Credit is given back on receipt, because streams that share
    # a window and wait for each other's last bytes would never finish; so this bound, not the window, caps memory.
    max_buffered: int = 256 * _MIB
    message_s: float = 60.0  # from a message's first bytes to its last
    # What we may hold for a peer that does not open its windows, all streams together; and for all such peers.
    max_queued: int = 64 * _MIB
    max_all_queued: int = 256 * _MIB
    max_header_bytes: int = 32 * _KIB
    max_continuations: int = 32
    # Useless work: resets before an answer, pings, settings, empty frames, faults. All open streams may be cancelled
    # at once (a load balancer in front dies), so the burst exceeds max_streams.
    calm_burst: int = 20_000
    calm_rate: float = 500.0  # a second
    handshake_s: float = 10.0
    # Envoy retires idle connections after an hour; let it, since our closing could race with a new request.
    idle_s: float = 7_200.0
    # A silent peer with open streams is asked with PING: else requests of a dead Envoy count as in flight for ever.
    keepalive_s: float = 30.0
    keepalive_timeout_s: float = 20.0
    stall_s: float = 60.0  # without any progress of what is queued
    max_connections: int = 4_096

    def __post_init__(self) -> None:
        # A peer counts with the protocol's defaults until it has read our SETTINGS.
        if min(self.stream_window, self.connection_window) < DEFAULT_WINDOW or self.max_frame < DEFAULT_MAX_FRAME:
            raise ValueError("windows and frames cannot be smaller than HTTP/2's defaults")


class Held:
    """What all connections of a server hold now: streams, bytes of unfinished messages, bytes that wait to be sent."""

    __slots__ = ("buffered", "queued", "streams")

    def __init__(self) -> None:
        self.streams = self.buffered = self.queued = 0


class CalmBudget:
    """A token bucket for useless work; what runs dry is answered with ENHANCE_YOUR_CALM."""

    __slots__ = ("_burst", "_left", "_rate", "_refilled_at")

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = burst
        self._left = float(burst)
        self._rate = rate
        self._refilled_at: float | None = None

    def spend(self, cost: int, now: float, what: str) -> None:
        """Take `cost` tokens, or raise ConnectionFault."""
        if self._refilled_at is None:
            self._refilled_at = now
        self._left -= cost
        if self._left >= 0:
            return
        self._left = min(float(self._burst), self._left + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
        if self._left < 0:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many frames without use: {what}")
