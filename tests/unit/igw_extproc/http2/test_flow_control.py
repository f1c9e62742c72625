"""Flow control both ways: what the peer may send us is given back in time, what we send respects its windows."""

import pytest

from igw_extproc.http2.frames import ErrorCode
from igw_extproc.http2.limits import Limits
from igw_extproc.transport import GrpcStatus
from igw_testing.http2_peers import (
    DATA,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    GOAWAY,
    HEADERS,
    PADDED,
    PREFACE,
    PROTOCOL_ERROR,
    RST,
    WINDOW,
    Frame,
    Talks,
    Wire,
    data,
    frame,
    headers,
    message,
    nothing,
    rst,
    settings,
    window,
)

SMALL = Limits(stream_window=65_536, connection_window=131_072)


def sizes(frames: list[Frame], stream: int) -> list[int]:
    """The lengths of a stream's DATA frames."""
    return [len(one.payload) for one in frames if one.kind == DATA and one.stream == stream]


def body(frames: list[Frame], stream: int) -> bytes:
    """What a stream's DATA frames carry."""
    return b"".join(one.payload for one in frames if one.kind == DATA and one.stream == stream)


def test_small_requests_cost_no_window_updates() -> None:
    wire = Wire(Talks(nothing))
    for stream in range(1, 201, 2):
        got = wire.send(headers(stream), data(stream, message(b"x" * 1000), end=True))
        assert [one.kind for one in got] == [HEADERS]


def test_windows_are_given_back_in_large_steps_before_they_run_out() -> None:
    """Half a window at a time, each byte once: the stream's and the connection's."""
    wire = Wire(Talks(nothing), SMALL)
    wire.send(headers(1))
    sent, given = 0, {0: 0, 1: 0}
    for _ in range(40):
        sent += 16_000
        for one in wire.send(data(1, bytes(5 * 3200))):
            assert one.kind == WINDOW
            step = int.from_bytes(one.payload, "big")
            assert step > (SMALL.stream_window if one.stream else SMALL.connection_window) // 2
            given[one.stream] += step
    assert sent - SMALL.stream_window // 2 <= given[1] <= sent
    assert sent - SMALL.connection_window // 2 <= given[0] <= sent


def test_a_peer_that_overruns_its_stream_window_loses_the_stream() -> None:
    """Padding counts. Only a frame larger than half the window can do it: smaller ones bring an update first."""
    wire = Wire(Talks(nothing), Limits(stream_window=65_535, max_frame=65_536))
    wire.send(headers(1), headers(3))
    assert [one.kind for one in wire.send(data(3, bytes(65_535)))] == [WINDOW]
    (answer,) = wire.send(frame(DATA, PADDED, 1, b"\xff" + bytes(65_535)))
    assert (answer.kind, answer.stream, answer.code) == (RST, 1, FLOW_CONTROL_ERROR)


def test_credit_of_dead_streams_returns_to_the_connection() -> None:
    wire = Wire(Talks(nothing), SMALL)
    given = 0
    for stream in range(1, 41, 2):
        got = wire.send(headers(stream), rst(stream), data(stream, bytes(16_000)))
        given += sum(int.from_bytes(one.payload, "big") for one in got if one.kind == WINDOW and not one.stream)
    assert wire.goaway() is None
    assert given > 20 * 16_000 - SMALL.connection_window


@pytest.mark.parametrize("window_size", [0, 1, 7, 100])
def test_an_answer_waits_for_the_streams_window_and_comes_in_pieces(window_size: int) -> None:
    wire = Wire(Talks(), greet=False)
    wire.send(PREFACE, settings(p4=window_size))
    got = wire.send(headers(1), data(1, message(b"x" * 200), end=True))
    assert sum(sizes(got, 1)) == window_size
    got += wire.send(window(1, 3))
    assert sum(sizes(got, 1)) == window_size + 3
    assert got[-1].kind != HEADERS
    got += wire.send(window(1, 1000))
    assert body(got, 1) == message(b"x" * 200)
    assert (got[-1].kind, got[-1].flags & END_STREAM) == (HEADERS, END_STREAM)


def test_the_connections_window_is_shared_in_turn() -> None:
    """Two large answers under one small window: each gets its share of every update."""
    wire = Wire(Talks(), greet=False)
    wire.send(PREFACE, settings(p4=2**31 - 1))
    got = []
    for stream in (1, 3):
        text = message(bytes([stream]) * 200_000)
        got += wire.send(headers(stream), *(data(stream, text[at : at + 16_384]) for at in range(0, len(text), 16_384)))
        got += wire.send(data(stream, b"", end=True))
    assert sum(sizes(got, 1)) == 65_535
    for _ in range(4):
        step = wire.send(window(0, 32_768))
        assert sizes(step, 1) == sizes(step, 3) == [16_384]
        got += step
    got += wire.send(window(0, 2**30))
    assert body(got, 1) == message(b"\1" * 200_000)
    assert body(got, 3) == message(b"\3" * 200_000)


def test_frames_keep_to_the_peers_size() -> None:
    wire = Wire(Talks(), greet=False)
    wire.send(PREFACE, settings(p4=2**20, p5=20_000), window(0, 2**20))
    wire.send(headers(1))
    wire.talks.all[0].call.send(b"x" * 50_000)
    assert sizes(wire.take(), 1) == [20_000, 20_000, 10_005]


def test_a_changed_initial_window_moves_open_streams_and_may_make_them_negative() -> None:
    wire = Wire(Talks(nothing), greet=False)
    wire.send(PREFACE, settings(p4=100))
    wire.send(headers(1))
    call = wire.talks.all[0].call
    call.send(b"x" * 95)
    assert sizes(wire.take(), 1) == [100]
    assert sizes(wire.send(settings(p4=40)), 1) == []  # the window is now -60
    call.send(b"y" * 10)
    assert sizes(wire.take() + wire.send(window(1, 60)), 1) == []
    assert sizes(wire.send(settings(p4=44)), 1) == [4]
    assert sizes(wire.send(window(1, 100)), 1) == [11]


def test_initial_windows_may_not_push_a_stream_over_the_limit() -> None:
    wire = Wire(Talks(nothing))
    wire.send(headers(1), window(1, 2**31 - 1 - 65_535), settings(p4=65_536))
    assert wire.goaway() == FLOW_CONTROL_ERROR


@pytest.mark.parametrize(("step", "code"), [(0, PROTOCOL_ERROR), (2**31 - 1, FLOW_CONTROL_ERROR)])
def test_a_wrong_update_of_a_stream_costs_the_stream(step: int, code: int) -> None:
    wire = Wire(Talks(nothing))
    (answer,) = wire.send(headers(1), window(1, step))
    assert (answer.kind, answer.stream, answer.code) == (RST, 1, code)
    assert wire.talks.all[0].ends == 1


def test_a_peer_that_opens_no_window_makes_us_hold_so_much_and_no_more() -> None:
    wire = Wire(Talks(nothing), Limits(max_queued=10_000), greet=False)
    wire.send(PREFACE, settings(p4=0))
    wire.send(headers(1), headers(3))
    one, other = (talk.call for talk in wire.talks.all)
    other.send(b"x" * 4000)
    one.send(b"x" * 5000)
    one.send(b"x" * 5000)
    (_, _, answer) = wire.take()
    assert (answer.kind, answer.stream, answer.code) == (RST, 1, ErrorCode.ENHANCE_YOUR_CALM)
    assert [talk.ends for talk in wire.talks.all] == [1, 0]
    assert wire.connection._outbound.queued == 4005


def test_a_stream_whose_peer_takes_nothing_is_reset_in_time() -> None:
    wire = Wire(Talks(nothing), Limits(stall_s=60), greet=False)
    wire.send(PREFACE, settings(p4=10))
    wire.send(headers(1), headers(3))
    for talk in wire.talks.all:
        talk.call.send(b"x" * 100)
    ends = []
    for second in range(130):
        wire.now += 1
        if second % 20 == 0:
            wire.send(window(3, 1))  # slow is not stalled
        wire.connection.sweep(wire.now)
        ends += [(second, one.stream) for one in wire.take() if one.kind == RST]
    assert [stream for _, stream in ends] == [1]
    assert 58 <= ends[0][0] <= 62


def test_what_a_full_socket_cannot_take_waits_in_the_queues() -> None:
    wire = Wire(Talks(nothing))
    wire.send(headers(1))
    call = wire.talks.all[0].call
    wire.connection.hold()
    call.send(b"x" * 1000)
    call.finish()
    assert sizes(wire.take(), 1) == []
    wire.connection.release()
    got = wire.take()
    assert body(got, 1) == message(b"x" * 1000)
    assert [one.kind for one in got] == [DATA, HEADERS, RST]


def test_a_reset_frees_what_still_waits_for_a_window() -> None:
    wire = Wire(Talks(nothing), greet=False)
    wire.send(PREFACE, settings(p4=0))
    wire.send(headers(1))
    call = wire.talks.all[0].call
    call.send(b"x")
    call.finish(GrpcStatus.OK)
    assert wire.connection._outbound.queued == 6
    wire.send(rst(1))
    assert wire.connection._outbound.queued == 0
    assert wire.talks.all[0].ends == 1


def test_data_beyond_the_connections_window_costs_the_connection() -> None:
    wire = Wire(Talks(nothing), SMALL)
    wire.send(headers(1))
    wire.connection._credit = 10
    answer = wire.send(data(1, bytes(11)))[-1]
    assert (answer.kind, answer.code) == (GOAWAY, FLOW_CONTROL_ERROR)
