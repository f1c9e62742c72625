"""gRPC calls over the pure connection: answers, statuses, deadlines, and an end for every conversation."""

from collections.abc import Callable

import pytest

from igw_extproc.http2.frames import ErrorCode
from igw_extproc.transport import Call, GrpcStatus
from igw_testing.http2_peers import (
    DATA,
    END_STREAM,
    HEADERS,
    NO_ERROR,
    PREFACE,
    PROTOCOL_ERROR,
    REQUEST,
    RST,
    Talk,
    Talks,
    Wire,
    data,
    echo,
    finish_at_once,
    headers,
    message,
    nothing,
    rst,
    settings,
    window,
)


def changed(**fields: str) -> list[tuple[str, str]]:
    """The usual request with other or further fields; p_x stands for ":x"."""
    named = {key.replace("p_", ":", 1).replace("_", "-"): value for key, value in fields.items()}
    return list({**dict(REQUEST), **named}.items())


def test_a_call_is_answered_with_headers_message_and_status() -> None:
    wire = Wire(Talks())
    start, text, last = wire.send(headers(1), data(1, message(b"hello"), end=True))
    assert wire.fields(start) == {":status": "200", "content-type": "application/grpc"}
    assert (text.kind, text.payload) == (DATA, message(b"hello"))
    assert wire.fields(last) == {"grpc-status": "0"}
    assert last.flags & END_STREAM
    assert wire.talks.all[0].ends == 1


def test_a_stream_stays_open_between_its_answer_and_its_half_close() -> None:
    wire = Wire(Talks())
    assert [one.kind for one in wire.send(headers(1), data(1, message(b"x")))] == [HEADERS, DATA]
    assert wire.talks.all[0].ends == 0
    assert [one.kind for one in wire.send(data(1, b"", end=True))] == [HEADERS]
    assert (wire.talks.all[0].half_closes, wire.talks.all[0].ends) == (1, 1)


def test_ending_first_sends_the_status_and_tells_the_peer_to_stop() -> None:
    wire = Wire(Talks(finish_at_once))
    status, stop = wire.send(headers(1), data(1, message(b"x")))
    assert wire.fields(status) == {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": "14",
        "grpc-message": "sp%C3%A4ter",
    }
    assert (stop.kind, stop.code) == (RST, NO_ERROR)


def test_a_unary_call_that_finishes_on_its_message_needs_no_reset() -> None:
    wire = Wire(Talks(finish_at_once))
    assert [one.kind for one in wire.send(headers(1), data(1, message(b"x"), end=True))] == [HEADERS]
    assert (wire.talks.all[0].half_closes, wire.talks.all[0].ends) == (0, 1)


@pytest.mark.parametrize(
    ("detail", "encoded"),
    [("100 %\n", "100 %25%0A"), ("a~ z", "a~ z"), ("x" * 5000, "x" * 1024)],
    ids=["escaped", "plain", "cut"],
)
def test_a_status_text_is_percent_encoded_and_bounded(detail: str, encoded: str) -> None:
    wire = Wire(Talks(lambda talk, _: talk.call.finish(GrpcStatus.INTERNAL, detail)))
    status = wire.send(headers(1), data(1, message(b"x"), end=True))[0]
    assert wire.fields(status)["grpc-message"] == encoded


def test_an_unknown_method_is_refused_at_once_with_the_encodings_we_take() -> None:
    wire = Wire(Talks())
    status, stop = wire.send(headers(1, changed(p_path="/x.Y/Z")))
    assert wire.fields(status)["grpc-status"] == "12"
    assert wire.fields(status)["grpc-accept-encoding"] == "identity"
    assert stop.kind == RST


def test_plain_http_is_refused_in_its_own_words_when_it_has_ended() -> None:
    wire = Wire(Talks())
    assert wire.send(headers(1, changed(content_type="text/plain")), data(1, b"hello")) == []
    start, text, last = wire.send(data(1, b"", end=True))
    assert wire.fields(start)[":status"] == "415"
    assert wire.fields(start)["content-length"] == str(len(text.payload))
    assert (last.kind, last.flags, last.payload) == (DATA, END_STREAM, b"")
    start, *_ = wire.send(headers(3, changed(p_method="GET"), end=True))
    assert (wire.fields(start)[":status"], wire.fields(start)["allow"]) == ("405", "POST")


def test_a_large_upload_that_is_refused_is_not_read_to_its_end() -> None:
    wire = Wire(Talks())
    wire.send(headers(1, changed(content_type="text/plain")))
    got = [one for _ in range(5) for one in wire.send(data(1, bytes(16_000)))]
    assert [one.kind for one in got] == [HEADERS, DATA, DATA, RST]


@pytest.mark.parametrize("length", ["5", "7"])
def test_a_body_that_is_not_as_long_as_announced_costs_the_stream(length: str) -> None:
    wire = Wire(Talks())
    wire.send(headers(1, changed(content_length=length)))
    answer = wire.send(data(1, message(b"x"), end=True))[-1]
    assert (answer.kind, answer.code) == (RST, PROTOCOL_ERROR)
    assert (wire.talks.all[0].half_closes, wire.talks.all[0].ends) == (0, 1)


def test_a_request_that_ends_inside_a_message_is_a_fault_of_its_own() -> None:
    wire = Wire(Talks())
    (status,) = wire.send(headers(1), data(1, message(b"hello")[:7], end=True))
    assert wire.fields(status)["grpc-status"] == "13"
    assert wire.talks.all[0].received == []


def test_a_message_that_cannot_be_taken_ends_its_stream_with_the_reason() -> None:
    wire = Wire(Talks())
    status, stop = wire.send(headers(1), data(1, message(b"x", compressed=1)))
    assert (wire.fields(status)["grpc-status"], stop.kind) == ("13", RST)
    assert (wire.talks.all[0].received, wire.talks.all[0].ends) == ([], 1)


def test_what_comes_after_the_answers_end_is_not_delivered() -> None:
    """The end of the answer waits for a window, so the stream is still there."""
    wire = Wire(Talks(nothing), greet=False)
    wire.send(PREFACE, settings(p4=0), headers(1))
    call = wire.talks.all[0].call
    call.send(b"x")
    call.finish()
    wire.send(data(1, message(b"late")), data(1, b"", end=True))
    assert (wire.talks.all[0].received, wire.talks.all[0].half_closes) == ([], 0)
    assert [one.kind for one in wire.send(window(1, 10))] == [DATA, HEADERS]


def test_several_messages_in_one_frame_are_delivered_until_the_call_is_finished() -> None:
    wire = Wire(Talks(lambda talk, text: talk.call.finish() if text == b"stop" else echo(talk, text)))
    wire.send(headers(1), data(1, message(b"a") + message(b"stop") + message(b"b"), end=True))
    assert wire.talks.all[0].received == [b"a", b"stop"]


def test_a_deferred_answer_wakes_the_driver_once() -> None:
    wire = Wire(Talks(nothing, finishes=False))
    wire.send(headers(1), data(1, message(b"x"), end=True), headers(3), data(3, message(b"y")))
    one, other = wire.talks.all
    assert wire.wakes == 0
    one.call.send(b"late")
    one.call.finish()
    other.call.send(b"later")
    assert wire.wakes == 1
    assert one.ends == 0  # not inside finish(), which its caller may not expect
    assert [got.stream for got in wire.take()] == [1, 1, 1, 3, 3]
    assert one.ends == 1
    other.call.send(b"again")
    assert wire.wakes == 2


def test_after_its_end_a_call_does_nothing() -> None:
    wire = Wire(Talks(nothing))
    wire.send(headers(1), headers(3))
    first, second = wire.talks.all
    wire.send(rst(1))
    wire.connection.lost()
    for talk in (first, second):
        talk.call.send(b"x")
        talk.call.finish()
        assert talk.ends == 1
    assert (wire.take(), wire.wakes) == ([], 0)


def test_an_ended_conversation_may_answer_another_one() -> None:
    """A freed place lets a waiting request go: both answers leave in the same write."""
    talks = Talks(nothing)
    wire = Wire(talks)
    wire.send(headers(1), headers(3))
    first, second = talks.all

    def hand_over() -> None:
        first.ends += 1
        second.call.send(b"your turn")
        second.call.finish()

    first.ended = hand_over  # type: ignore[method-assign]
    got = wire.send(rst(1))
    assert [(one.kind, one.stream) for one in got] == [(HEADERS, 3), (DATA, 3), (HEADERS, 3), (RST, 3)]
    assert (first.ends, second.ends) == (1, 1)


def fails(talk: Talk, text: bytes) -> None:
    """A conversation with a fault."""
    raise RuntimeError("a fault of ours")


def test_a_fault_in_a_message_ends_the_stream_with_internal(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(Talks(fails))
    status, _ = wire.send(headers(1), data(1, message(b"secret")))
    assert wire.fields(status)["grpc-status"] == "13"
    assert "fault of ours" not in wire.fields(status)["grpc-message"]
    assert wire.talks.all[0].ends == 1
    assert "conversation failed in=receive" in caplog.text
    assert "secret" not in caplog.text
    assert wire.goaway() is None


def test_a_fault_at_the_beginning_or_at_the_end_costs_no_more(caplog: pytest.LogCaptureFixture) -> None:
    def broken(call: Call) -> Talk:
        raise RuntimeError("a fault of ours")

    talks = Talks()
    talks.begin = broken  # type: ignore[method-assign]
    wire = Wire(talks)
    status, _ = wire.send(headers(1))
    assert wire.fields(status)["grpc-status"] == "13"

    class Ends(Talk):
        def ended(self) -> None:
            raise RuntimeError("a fault of ours")

    talks = Talks()
    talks.begin = lambda call: Ends(call, echo)  # type: ignore[method-assign]
    wire = Wire(talks)
    wire.send(headers(1), data(1, message(b"x"), end=True))
    assert wire.send(headers(3), data(3, message(b"x"), end=True))
    assert "in=begin" in caplog.text
    assert "in=ended" in caplog.text


def test_a_method_may_finish_before_it_has_a_conversation() -> None:
    talks = Talks()
    begun: list[Talk] = []

    def refuse(call: Call) -> Talk:
        call.finish(GrpcStatus.UNAVAILABLE)
        begun.append(Talk(call, echo))
        return begun[0]

    talks.begin = refuse  # type: ignore[method-assign]
    wire = Wire(talks)
    status, _ = wire.send(headers(1), data(1, message(b"x")))
    assert wire.fields(status)["grpc-status"] == "14"
    assert (begun[0].received, begun[0].ends) == ([], 1)


def test_a_deadline_asks_for_an_alarm_and_ends_the_stream() -> None:
    wire = Wire(Talks(nothing))
    wire.send(headers(1, changed(grpc_timeout="500m")), headers(3, changed(grpc_timeout="2S")), headers(5))
    assert wire.alarms == [100.5]
    wire.connection.expire(100.4)
    assert wire.take() == []
    wire.connection.expire(100.5)
    status, stop = wire.take()
    assert (wire.fields(status)["grpc-status"], stop.stream) == ("4", 1)
    assert wire.alarms[-1] == 102.0
    wire.connection.expire(102.0)
    wire.take()
    assert [talk.ends for talk in wire.talks.all] == [1, 1, 0]


def test_a_passed_deadline_cuts_an_answer_that_waits_for_its_window() -> None:
    wire = Wire(Talks(nothing), greet=False)
    wire.send(PREFACE, settings(p4=0))
    wire.send(headers(1, changed(grpc_timeout="1S")))
    wire.talks.all[0].call.send(b"x")
    wire.talks.all[0].call.finish()
    wire.connection.expire(101.0)
    assert wire.take()[-1].kind == RST
    assert wire.connection._outbound.queued == 0
    assert wire.send(window(1, 100)) == []


def test_deadlines_of_ended_streams_are_not_kept() -> None:
    wire = Wire(Talks())
    for stream in range(1, 4001, 2):
        wire.send(headers(stream, changed(grpc_timeout="99999999H")), data(stream, message(b"x"), end=True))
    assert len(wire.connection._calls._deadlines) < 200


def test_every_way_out_ends_each_conversation_once() -> None:
    outs: dict[str, Callable[[Wire], object]] = {
        "half-close": lambda wire: wire.send(data(1, b"", end=True)),
        "reset": lambda wire: wire.send(rst(1)),
        "fault": lambda wire: wire.send(window(1, 0)),
        "connection-fault": lambda wire: wire.send(window(0, 0)),
        "lost": lambda wire: wire.connection.lost(),
        "garbage": lambda wire: wire.send(b"\xff" * 100),
        "abort": lambda wire: wire.connection.abort(ErrorCode.NO_ERROR, "bye"),
    }
    for name, leave in outs.items():
        wire = Wire(Talks())
        wire.send(headers(1), data(1, message(b"x")))
        leave(wire)
        wire.connection.lost()
        wire.connection.lost()
        wire.take()
        assert wire.talks.all[0].ends == 1, name
        assert wire.connection.open_streams == 0


def test_frames_of_one_chunk_leave_together() -> None:
    wire = Wire(Talks())
    got = wire.send(*(headers(n) + data(n, message(b"x"), end=True) for n in range(1, 201, 2)))
    assert len(got) == 300
    assert wire.wakes == 0
