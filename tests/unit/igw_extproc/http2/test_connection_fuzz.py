"""Any bytes whatever: nothing raises, every conversation ends once, memory stays bounded, and cuts do not matter.

`IGW_FUZZ_EXAMPLES` sets the number of examples for a longer run by hand.
"""

import os
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igw_extproc.http2.limits import Limits
from igw_testing.http2_peers import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PREFACE,
    PRIORITY,
    REQUEST,
    SETTINGS,
    Talk,
    Talks,
    Wire,
    data,
    frame,
    headers,
    message,
    plain_block,
    rst,
    window,
)
from igw_testing.http2_peers import settings as settings_frame

EXAMPLES = int(os.environ.get("IGW_FUZZ_EXAMPLES", "150"))
BUDGET = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Small limits, so that a short sequence reaches all of them.
LIMITS = Limits(
    max_streams=5,
    stream_window=65_535,
    connection_window=65_535,
    max_message=20_000,
    max_buffered=30_000,
    max_queued=50_000,
    max_header_bytes=2000,
    max_continuations=3,
    calm_burst=40,
    calm_rate=10.0,
)

OPEN = [1, 3, 5]  # these are open when a sequence begins
STREAMS = st.sampled_from([1, 1, 1, 3, 3, 5, 7, 9, 11])
# What may cost the connection is drawn rarely: most sequences should get far.
STRANGE_STREAMS = st.sampled_from([0, 1, 2, 3, 13, 2**31 - 1])
BLOCKS = st.sampled_from(
    [
        plain_block(REQUEST),
        plain_block(REQUEST),
        plain_block([*REQUEST, ("grpc-timeout", "1S")]),
        plain_block([*REQUEST, ("content-length", "20")]),
        plain_block([*REQUEST, ("grpc-encoding", "gzip")]),
        plain_block([(":method", "GET"), (":scheme", "http"), (":path", "/")]),
        plain_block([("x-trailer", "1")]),
        b"\x40\x01a\x01b" + plain_block(REQUEST),  # inserts, but before the pseudo headers
        b"\x83\x86\x84\x41\x01x",
    ]
)
STRANGE_BLOCKS = st.sampled_from([b"\xbe", b"\x3f\xe1\xff\xff", b"\x80", b"\x40", b"\x00\x05a"])
PAYLOADS = st.one_of(
    st.sampled_from([b"", message(b""), message(b"hello"), message(b"x" * 15_000), message(b"y" * 20_001)[:16_384]]),
    st.sampled_from([message(b"z" * 15_000)[:9000], message(b"q", 1), message(b"a") * 5, b"\0\0", b"\xff" * 300]),
    st.binary(max_size=20),
)
STEPS = st.sampled_from([1, 1, 5, 100, 65_535])
STRANGE_NUMBERS = st.sampled_from([0, 1, 5, 100, 65_535, 2**31 - 1, 2**32 - 1])


@st.composite
def some_frame(draw: st.DrawFn) -> bytes:
    """Mostly sensible frames, on streams that are mostly open, and now and then any frame at all."""
    kind, stream = draw(st.integers(0, 24)), draw(STREAMS)
    if kind <= 5:
        flags = draw(st.sampled_from([END_HEADERS, END_HEADERS, END_HEADERS | END_STREAM, END_HEADERS | PADDED]))
        return frame(HEADERS, flags, draw(STREAMS), (b"\0" if flags & PADDED else b"") + draw(BLOCKS))
    if kind <= 14:
        flags = draw(st.sampled_from([0, 0, 0, 0, END_STREAM]))
        return frame(DATA, flags, draw(st.sampled_from(OPEN)), draw(PAYLOADS)[:16_384])
    if kind <= 18:
        return window(draw(st.sampled_from([0, *OPEN])), draw(STEPS))
    if kind == 19:
        return settings_frame(p4=draw(STEPS))
    if kind == 20:
        return rst(draw(st.sampled_from(OPEN)))
    if kind == 21:
        block = draw(BLOCKS)
        return frame(HEADERS, 0, stream, block[:9]) + frame(CONTINUATION, END_HEADERS, stream, block[9:])
    return draw(strange_frame())


@st.composite
def strange_frame(draw: st.DrawFn) -> bytes:
    """What a broken or hostile peer may send."""
    kind, stream = draw(st.integers(0, 7)), draw(STRANGE_STREAMS)
    if kind <= 1:
        return frame(HEADERS, draw(st.sampled_from([0, END_HEADERS, 0xFF])), stream, draw(STRANGE_BLOCKS))
    if kind == 2:
        return frame(DATA, draw(st.sampled_from([0, PADDED, END_STREAM])), stream, draw(PAYLOADS)[:16_384])
    if kind == 3:
        return window(stream, draw(STRANGE_NUMBERS))
    if kind == 4:
        return settings_frame(**{f"p{draw(st.integers(0, 7))}": draw(STRANGE_NUMBERS)})
    if kind == 5:
        return frame(CONTINUATION, draw(st.sampled_from([0, END_HEADERS])), stream, draw(BLOCKS))
    if kind == 6:
        return frame(PRIORITY, 0, stream, draw(st.binary(min_size=4, max_size=6)))
    return frame(draw(st.integers(0, 14)), draw(st.integers(0, 255)), stream, draw(st.binary(max_size=40)))


FRAMES = st.lists(some_frame(), max_size=40).map(lambda later: [headers(stream) for stream in OPEN] + later)


def moody(talk: Talk, text: bytes) -> None:
    """Answers in every way there is, by what it is told."""
    if len(text) % 7 == 6:
        raise RuntimeError("a fault of ours")
    talk.call.send(text)
    if len(text) % 5 == 4:
        talk.call.finish()


def check_bounds(wire: Wire) -> None:
    """What a connection may hold."""
    calls, outbound = wire.connection._calls, wire.connection._outbound
    streams = list(calls.streams.values())
    assert len(streams) <= LIMITS.max_streams
    assert calls._buffered == sum(stream.partial.held for stream in streams if stream.partial is not None)
    # One more message may begin before the bound is looked at.
    assert calls._buffered <= LIMITS.max_buffered + LIMITS.max_frame
    assert outbound.queued == sum(len(piece) for stream in streams for piece in stream.queue or ())
    assert outbound.queued <= LIMITS.max_queued
    assert len(wire.connection._tail) <= LIMITS.max_frame + 9
    assert len(wire.connection._block) <= LIMITS.max_header_bytes + LIMITS.max_frame
    assert {talk.ends for talk in wire.talks.all} <= {0, 1}
    assert sum(talk.ends == 0 for talk in wire.talks.all) <= len(streams)


def run(wire: Wire, chunks: list[bytes], step: float) -> None:
    """Feed the chunks, check after each, and lose the connection."""
    for chunk in chunks:
        wire.send(chunk)
        check_bounds(wire)
        wire.now += step
        wire.connection.expire(wire.now)
        wire.connection.sweep(wire.now)
        wire.take()
    wire.connection.lost()
    wire.take()
    assert all(talk.ends == 1 for talk in wire.talks.all)
    assert wire.connection.open_streams == 0
    assert wire.connection._outbound.queued == 0


@given(FRAMES, st.sampled_from([0.0, 0.4]))
@BUDGET
def test_any_sequence_of_frames_keeps_the_invariants(sequence: list[bytes], step: float) -> None:
    run(Wire(Talks(moody), LIMITS), sequence, step)


@given(st.lists(st.binary(max_size=60), max_size=20), st.booleans())
@BUDGET
def test_garbage_keeps_the_invariants(chunks: list[bytes], greet: bool) -> None:
    run(Wire(Talks(moody), LIMITS, greet=greet), chunks, 0.1)


@given(FRAMES, st.data())
@BUDGET
def test_a_flipped_byte_keeps_the_invariants(sequence: list[bytes], choose: st.DataObject) -> None:
    stream = bytearray(b"".join([headers(1), data(1, message(b"hello")), *sequence]))
    stream[choose.draw(st.integers(0, len(stream) - 1))] ^= choose.draw(st.integers(1, 255))
    run(Wire(Talks(moody), LIMITS), [bytes(stream)], 0.1)


@given(FRAMES, st.lists(st.integers(1, 3000), max_size=30))
@BUDGET
def test_cutting_the_bytes_anywhere_changes_nothing(sequence: list[bytes], cuts: list[int]) -> None:
    stream = PREFACE + frame(SETTINGS, 0, 0) + b"".join(sequence)
    roomy = replace(LIMITS, calm_burst=10_000)
    whole, cut = Wire(Talks(moody), roomy, greet=False), Wire(Talks(moody), roomy, greet=False)
    whole.send(stream)
    at = 0
    for size in [*cuts, len(stream)]:
        cut.send(stream[at : at + size])
        at += size
    assert cut.raw == whole.raw
    assert [(talk.received, talk.ends) for talk in cut.talks.all] == [
        (talk.received, talk.ends) for talk in whole.talks.all
    ]
    assert cut.goaway() == whole.goaway()
