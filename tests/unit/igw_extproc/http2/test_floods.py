"""Peers that ask for useless work lose the connection with ENHANCE_YOUR_CALM; busy honest ones do not."""

from collections.abc import Callable

import pytest

from igw_extproc.http2.limits import CalmBudget, Held, Limits
from igw_testing.http2_peers import (
    CONTINUATION,
    ENHANCE_YOUR_CALM,
    HEADERS,
    NO_ERROR,
    PING,
    PREFACE,
    PRIORITY,
    REFUSED_STREAM,
    REQUEST,
    RST,
    SETTINGS,
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

STRICT = Limits(calm_burst=500, calm_rate=100)

FLOODS: dict[str, Callable[[int], bytes]] = {
    "ping": lambda n: frame(PING, 0, 0, bytes(8)),
    "settings": lambda n: settings(p4=65_535),
    "priority": lambda n: frame(PRIORITY, 0, 99, b"\0\0\0\0\x10"),
    "empty-data": lambda n: data(1, b""),
    "unknown": lambda n: frame(0x55, 0, 0),
    "rapid-reset": lambda n: headers(2 * n + 3) + rst(2 * n + 3),
    "made-you-reset": lambda n: headers(2 * n + 3) + window(2 * n + 3, 0),
    "malformed": lambda n: headers(2 * n + 3, (("no", "pseudo"),)),
    "closed-stream": lambda n: headers(2 * n + 3, end=True) + data(2 * n + 3, b"x"),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_cut_off_and_every_conversation_ends(name: str) -> None:
    talks = Talks(nothing)
    wire = Wire(talks, STRICT)
    wire.send(headers(1))
    for number in range(1000):
        wire.send(FLOODS[name](number))
        if wire.connection.closed:
            break
    assert wire.goaway() == ENHANCE_YOUR_CALM
    assert 490 <= number <= 500
    assert all(talk.ends == 1 for talk in talks.all)


@pytest.mark.parametrize("name", FLOODS)
def test_the_same_at_a_slow_pace_goes_on_for_ever(name: str) -> None:
    wire = Wire(Talks(nothing), STRICT)
    wire.send(headers(1))
    for number in range(3000):
        wire.now += 0.02  # 50 a second, the budget allows 100
        wire.send(FLOODS[name](number))
    assert wire.goaway() is None


def test_resets_after_an_answer_are_how_proxies_hang_up() -> None:
    wire = Wire(Talks(), STRICT)
    for stream in range(1, 8001, 2):
        wire.send(headers(stream), data(stream, message(b"x")), rst(stream))
    assert wire.goaway() is None


def test_all_open_streams_may_be_cancelled_at_once_under_the_default_limits() -> None:
    talks = Talks(nothing)
    wire = Wire(talks)
    streams = range(1, 2 * Limits().max_streams, 2)
    wire.send(*(headers(stream) for stream in streams))
    wire.send(*(rst(stream) for stream in streams))
    assert wire.goaway() is None
    assert sum(talk.ends for talk in talks.all) == Limits().max_streams


@pytest.mark.parametrize("size", [0, 1000], ids=["empty", "large"])
def test_a_header_block_without_end_is_cut_off(size: int) -> None:
    wire = Wire(Talks())
    wire.send(frame(HEADERS, 0, 1, plain_block(REQUEST)))
    for _ in range(100):
        wire.send(frame(CONTINUATION, 0, 1, bytes(size)))
    assert wire.goaway() == ENHANCE_YOUR_CALM


def test_settings_with_hundreds_of_parameters_are_cut_off() -> None:
    wire = Wire(Talks())
    wire.send(frame(SETTINGS, 0, 0, (b"\0\4" + bytes(4)) * 400))
    assert wire.goaway() == ENHANCE_YOUR_CALM


def test_unfinished_messages_of_all_streams_together_are_bounded() -> None:
    talks = Talks()
    wire = Wire(talks, Limits(max_buffered=100_000))
    begun = message(b"x" * 40_000)[:30_000]
    for stream in (1, 3, 5, 7):
        wire.send(headers(stream), data(stream, begun[:15_000]), data(stream, begun[15_000:]))
    assert [talk.ends for talk in talks.all] == [0, 0, 0, 1]
    assert wire.connection._calls._buffered == 90_000
    wire.send(rst(1), data(3, bytes(10_005), end=True))
    assert wire.connection._calls._buffered == 30_000
    assert wire.goaway() is None


def test_all_connections_together_hold_no_more_than_their_server_may() -> None:
    """Else one peer had as much memory as it has connections."""
    held, limits = Held(), Limits(max_buffered=100_000, max_all_streams=9, max_all_queued=100_000)
    wires = [Wire(Talks(nothing), limits, held=held) for _ in range(3)]
    begun = message(b"x" * 40_000)[:15_000]
    for wire in wires:
        for stream in (1, 3, 5):
            wire.send(headers(stream), data(stream, begun))
    assert (held.streams, held.buffered) == (6, 6 * 15_000), "one more was too much, each time"
    refused = [one for one in wires[0].send(*(headers(stream) for stream in (7, 9, 11, 13))) if one.kind == RST]
    assert [one.code for one in refused] == [REFUSED_STREAM]
    for wire in wires:
        wire.connection.lost()
    assert (held.streams, held.buffered, held.queued) == (0, 0, 0)


def test_what_waits_for_peers_that_take_nothing_is_bounded_for_all_of_them() -> None:
    held, limits = Held(), Limits(max_all_queued=100_000)
    wires = [Wire(Talks(), limits, greet=False, held=held) for _ in range(3)]
    for wire in wires:
        wire.send(PREFACE, settings(p4=0), headers(1))
        for _ in range(3):
            wire.send(data(1, message(b"x" * 16_000)))
        assert held.queued <= 100_000
    assert held.queued > 80_000
    for wire in wires:
        wire.connection.lost()
    assert held.queued == 0


def test_a_message_must_come_to_its_end_in_time() -> None:
    """Byte after byte, a peer would keep the memory of all others' messages."""
    talks = Talks(nothing)
    wire = Wire(talks)
    wire.send(headers(1), headers(3))
    for stream in (1, 3):
        wire.send(data(stream, message(b"x" * 15_000)[:10_000]))
    wire.send(data(3, message(b"x" * 15_000)[10_000:]))
    for _ in range(int(Limits().message_s) + 1):
        wire.now += 1
        wire.send(data(1, b"x"), data(3, message(b"y" * 15_000)[:10_000]), data(3, message(b"y" * 15_000)[10_000:]))
        wire.connection.sweep(wire.now)
        wire.take()
    assert [talk.ends for talk in talks.all] == [1, 0]
    assert wire.goaway() is None


def test_long_header_blocks_are_not_remembered() -> None:
    wire = Wire(Talks())
    for number in range(100):
        fields = [*REQUEST, *((f"x-{part}-{number}", "y" * 100) for part in range(20))]
        wire.send(headers(2 * number + 1, fields, end=True))
    assert wire.goaway() is None
    assert not wire.connection._calls._blocks._kept


def test_the_budget_refills_with_time_and_no_further_than_its_burst() -> None:
    budget = CalmBudget(10, 1.0)
    for _ in range(10):
        budget.spend(1, 0.0, "x")
    budget.spend(0, 1000.0, "x")
    with pytest.raises(Exception, match="without use"):
        for _ in range(12):
            budget.spend(1, 1000.0, "x")


@pytest.mark.parametrize(("greeted", "code"), [(False, 4), (True, NO_ERROR)], ids=["no-preface", "silent"])
def test_a_peer_that_says_nothing_is_given_up(greeted: bool, code: int) -> None:
    talks = Talks(nothing)
    wire = Wire(talks, greet=greeted)
    if greeted:
        wire.send(headers(1))
    pings = 0
    for _ in range(200):
        wire.now += 1
        wire.connection.sweep(wire.now)
        pings += sum(one.kind == PING for one in wire.take())
        if wire.connection.closed:
            break
    limits = Limits()
    assert wire.goaway() == code
    assert pings == int(greeted)
    assert wire.now - 100 == (limits.keepalive_s + limits.keepalive_timeout_s if greeted else limits.handshake_s)
    assert [talk.ends for talk in talks.all] == [1] * greeted


def test_a_peer_that_answers_pings_keeps_its_streams() -> None:
    wire = Wire(Talks(nothing))
    wire.send(headers(1))
    for _ in range(500):
        wire.now += 1
        wire.connection.sweep(wire.now)
        for one in wire.take():
            wire.send(frame(PING, 1, 0, one.payload))
    assert wire.connection.open_streams == 1


def test_an_idle_connection_is_left_alone_for_long_and_then_shut_down() -> None:
    wire = Wire(Talks(nothing))
    closed_after = 0
    while not wire.connection.closed and closed_after < 9000:
        wire.now += 10
        closed_after += 10
        wire.connection.sweep(wire.now)
        wire.take()
    limits = Limits()
    assert closed_after == limits.idle_s + limits.keepalive_timeout_s
