"""What RFC 9113 demands of a connection's frames: each rule with the error it costs."""

import pytest

from igw_extproc.http2.limits import Limits
from igw_testing.http2_peers import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH,
    REFUSED_STREAM,
    REQUEST,
    RST,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW,
    Talks,
    Wire,
    data,
    frame,
    headers,
    message,
    nothing,
    plain_block,
    rst,
    settings,
    window,
)

EIGHT = bytes(8)
NEXT_TO_NOTHING = (
    pytest.param(frame(PING, 0, 0, EIGHT), id="ping-first"),
    pytest.param(frame(SETTINGS, ACK, 0), id="ack-first"),
    pytest.param(headers(1), id="headers-first"),
    pytest.param(frame(0x77, 0, 0), id="extension-first"),
)


def test_the_server_greets_with_its_settings_and_a_wide_connection_window() -> None:
    limits = Limits(max_streams=77)
    first, second = Wire(Talks(), limits, greet=False).greeting
    found = {
        int.from_bytes(first.payload[at : at + 2], "big"): int.from_bytes(first.payload[at + 2 : at + 6], "big")
        for at in range(0, len(first.payload), 6)
    }
    assert (first.kind, first.flags, first.stream) == (SETTINGS, 0, 0)
    assert found == {2: 0, 3: 77, 4: limits.stream_window, 5: limits.max_frame, 6: limits.max_header_bytes}
    assert (second.kind, second.stream) == (WINDOW, 0)
    assert int.from_bytes(second.payload, "big") == limits.connection_window - 65_535


@pytest.mark.parametrize("cut", [1, 3, 23])
def test_a_wrong_preface_is_refused_at_its_first_wrong_byte(cut: int) -> None:
    wire = Wire(Talks(), greet=False)
    wire.send(PREFACE[:cut])
    assert wire.goaway() is None
    wire.send(b"\0")
    assert wire.goaway() == PROTOCOL_ERROR


@pytest.mark.parametrize("first", NEXT_TO_NOTHING)
def test_the_first_frame_is_settings(first: bytes) -> None:
    wire = Wire(Talks(), greet=False)
    wire.send(PREFACE, first)
    assert wire.goaway() == PROTOCOL_ERROR


def test_settings_are_acknowledged_and_unknown_ones_ignored() -> None:
    wire = Wire(Talks())
    (answer,) = wire.send(settings(p1=0, p2=0, p3=1, p99=5))
    assert (answer.kind, answer.flags, answer.payload) == (SETTINGS, ACK, b"")


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (settings(p2=2), PROTOCOL_ERROR),
        (settings(p4=2**31), FLOW_CONTROL_ERROR),
        (settings(p5=16_383), PROTOCOL_ERROR),
        (settings(p5=2**24), PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
        (frame(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 1), PROTOCOL_ERROR),
        (frame(PING, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
        (frame(PING, 0, 1, EIGHT), PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 1, EIGHT), PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
        (frame(PUSH, END_HEADERS, 1, bytes(4)), PROTOCOL_ERROR),
        (frame(CONTINUATION, END_HEADERS, 1), PROTOCOL_ERROR),
        (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
        (frame(RST, 0, 0, bytes(4)), PROTOCOL_ERROR),
        (frame(RST, 0, 1, bytes(4)), PROTOCOL_ERROR),
        (frame(RST, 0, 1, bytes(3)), FRAME_SIZE_ERROR),
        (frame(WINDOW, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
        (window(0, 0), PROTOCOL_ERROR),
        (window(0, 2**31 - 1), FLOW_CONTROL_ERROR),
        (window(1, 1), PROTOCOL_ERROR),
        (data(0, b""), PROTOCOL_ERROR),
        (data(1, b""), PROTOCOL_ERROR),
        (headers(0), PROTOCOL_ERROR),
        (headers(2), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | PADDED, 1), FRAME_SIZE_ERROR),
        (frame(HEADERS, END_HEADERS | PADDED, 1, b"\x05ab"), PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | PRIORITISED, 1, bytes(4)), FRAME_SIZE_ERROR),
        (frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff"), COMPRESSION_ERROR),
        (frame(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION_ERROR),
        (frame(HEADERS, END_HEADERS, 1, b"\x00"), COMPRESSION_ERROR),
        ((16_385).to_bytes(3, "big") + bytes((DATA, 0, 0, 0, 0, 1)), FRAME_SIZE_ERROR),
    ],
)
def test_a_broken_connection_rule_costs_the_connection(bad: bytes, code: int) -> None:
    talks = Talks()
    wire = Wire(talks)
    last = wire.send(bad)[-1]
    assert (last.kind, last.code) == (GOAWAY, code)
    assert wire.connection.closed
    assert wire.send(headers(3)) == []
    assert talks.all == []


def test_goaway_names_the_last_stream_and_every_conversation_ends() -> None:
    talks = Talks(nothing)
    wire = Wire(talks)
    answer = wire.send(headers(1), headers(5), window(0, 0))[-1]
    assert (answer.kind, int.from_bytes(answer.payload[:4], "big")) == (GOAWAY, 5)
    assert [talk.ends for talk in talks.all] == [1, 1]


def test_a_ping_is_answered_with_its_payload_and_an_answer_is_not() -> None:
    wire = Wire(Talks())
    (answer,) = wire.send(frame(PING, 0, 0, b"12345678"), frame(PING, ACK, 0, b"12345678"))
    assert (answer.kind, answer.flags, answer.payload) == (PING, ACK, b"12345678")


def test_unknown_frames_flags_and_priorities_change_nothing() -> None:
    talks = Talks()
    wire = Wire(talks)
    prioritised = frame(HEADERS, END_HEADERS | PRIORITISED, 1, b"\0\0\0\0\x10" + plain_block(REQUEST))
    got = wire.send(
        frame(0x42, 0xFF, 9, b"?"),
        frame(PRIORITY, 0, 7, b"\0\0\0\0\x10"),
        prioritised,
        data(1, message(b"x"), end=True),
    )
    assert [answer.kind for answer in got] == [HEADERS, DATA, HEADERS]
    assert talks.all[0].received == [b"x"]


@pytest.mark.parametrize(
    "depends",
    [
        frame(PRIORITY, 0, 1, b"\0\0\0\x01\x10"),
        frame(HEADERS, END_HEADERS | PRIORITISED, 1, b"\0\0\0\x01\x10" + plain_block(REQUEST)),
    ],
    ids=["priority", "headers"],
)
def test_a_stream_that_depends_on_itself_is_reset(depends: bytes) -> None:
    (answer,) = Wire(Talks()).send(depends)
    assert (answer.kind, answer.stream, answer.code) == (RST, 1, PROTOCOL_ERROR)


def test_a_priority_frame_of_the_wrong_size_costs_its_stream() -> None:
    (answer,) = Wire(Talks()).send(frame(PRIORITY, 0, 1, bytes(4)))
    assert (answer.kind, answer.code) == (RST, FRAME_SIZE_ERROR)


def test_padding_is_taken_off_data_and_headers() -> None:
    talks = Talks()
    wire = Wire(talks)
    wire.send(
        frame(HEADERS, END_HEADERS | PADDED, 1, b"\x03" + plain_block(REQUEST) + bytes(3)),
        frame(DATA, PADDED, 1, b"\x04" + message(b"hello") + bytes(4)),
        frame(DATA, PADDED | END_STREAM, 1, b"\x00"),
    )
    assert talks.all[0].received == [b"hello"]
    assert talks.all[0].ends == 1


def test_a_header_block_may_come_in_many_frames_with_nothing_between() -> None:
    block = plain_block(REQUEST)
    parts = [frame(HEADERS, END_STREAM, 1, block[:5]), frame(CONTINUATION, 0, 1, block[5:9])]
    talks = Talks()
    wire = Wire(talks)
    wire.send(*parts)
    assert not talks.all
    wire.send(frame(CONTINUATION, END_HEADERS, 1, block[9:]))
    assert talks.all[0].half_closes == 1
    for between in (frame(PING, 0, 0, EIGHT), frame(CONTINUATION, END_HEADERS, 3), frame(0x77, 0, 0), headers(3)):
        wire = Wire(Talks())
        wire.send(*parts, between)
        assert wire.goaway() == PROTOCOL_ERROR


def test_stream_ids_grow() -> None:
    wire = Wire(Talks(nothing))
    wire.send(headers(5), headers(3))
    assert wire.goaway() == STREAM_CLOSED


@pytest.mark.parametrize("late", [data(1, b"x"), headers(1, end=True)], ids=["data", "headers"])
def test_a_half_closed_stream_takes_no_more(late: bytes) -> None:
    wire = Wire(Talks(finishes=False))
    wire.send(headers(1, end=True))
    answers = wire.send(late)
    assert any(answer.kind in (RST, GOAWAY) and answer.code == STREAM_CLOSED for answer in answers)


def test_frames_on_a_finished_stream_are_stream_closed_but_tolerated_after_our_own_reset() -> None:
    talks = Talks(lambda talk, _: talk.call.finish())
    wire = Wire(talks)
    ours = wire.send(headers(1), data(1, message(b"x")))
    assert [(answer.kind, answer.stream) for answer in ours] == [(HEADERS, 1), (RST, 1)]
    assert ours[1].code == NO_ERROR
    # Under way when our reset was sent: no fault of the peer.
    assert wire.send(data(1, b"more"), headers(1, (("late", "yes"),), end=True), rst(1), window(1, 5)) == []
    wire.send(headers(3), rst(3))
    (answer,) = wire.send(data(3, b"x"))
    assert (answer.kind, answer.code) == (RST, STREAM_CLOSED)
    assert wire.goaway() is None


def test_trailers_end_a_request() -> None:
    talks = Talks()
    wire = Wire(talks)
    wire.send(headers(1), data(1, message(b"x")), headers(1, (("x-checksum", "1"),), end=True))
    assert (talks.all[0].received, talks.all[0].half_closes) == ([b"x"], 1)


@pytest.mark.parametrize(
    "bad", [headers(1, (("x", "y"),)), headers(1, ((":path", "/"),), end=True)], ids=["no-end", "pseudo"]
)
def test_wrong_trailers_cost_the_stream(bad: bytes) -> None:
    wire = Wire(Talks())
    answer = wire.send(headers(1), bad)[-1]
    assert (answer.kind, answer.code) == (RST, PROTOCOL_ERROR)


def test_a_stream_above_the_advertised_number_is_refused_and_room_comes_back() -> None:
    talks = Talks(nothing)
    wire = Wire(talks, Limits(max_streams=2))
    (answer,) = wire.send(headers(1), headers(3), headers(5))
    assert (answer.kind, answer.stream, answer.code) == (RST, 5, REFUSED_STREAM)
    assert wire.send(rst(1), headers(7)) == []
    assert len(talks.all) == 3


def test_a_shutdown_waits_for_streams_under_way_then_refuses_then_closes() -> None:
    talks = Talks()
    wire = Wire(talks)
    wire.send(headers(1))
    wire.connection.shut_down(wire.now)
    warning, ping = wire.take()
    assert (warning.kind, int.from_bytes(warning.payload[:4], "big")) == (GOAWAY, 2**31 - 1)
    wire.send(headers(3))  # was under way
    assert len(talks.all) == 2
    (final,) = wire.send(frame(PING, ACK, 0, ping.payload))
    assert (final.kind, int.from_bytes(final.payload[:4], "big"), final.code) == (GOAWAY, 3, NO_ERROR)
    (refused,) = wire.send(headers(5))
    assert (refused.kind, refused.code) == (RST, REFUSED_STREAM)
    wire.send(data(1, b"", end=True))
    assert not wire.connection.closed
    wire.send(data(3, b"", end=True))
    assert wire.connection.closed
    assert [talk.ends for talk in talks.all] == [1, 1]


def test_after_the_peers_goaway_open_streams_end_and_then_the_connection() -> None:
    wire = Wire(Talks())
    wire.send(headers(1), frame(GOAWAY, 0, 0, EIGHT))
    assert not wire.connection.closed
    wire.send(data(1, b"", end=True))
    assert wire.connection.closed
    assert wire.goaway() is None
