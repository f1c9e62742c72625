"""Streams whose peer, a proxy or whoever else may connect, means harm: what one takes is bounded."""

import tracemalloc

import pytest

from igw_api import wire
from igw_extproc import codec
from igw_extproc.codec import MOST_BESIDE, MalformedMessage, decode
from igw_extproc.domain import Ask
from igw_extproc.messages import BodyMode, Message, Part, Reply
from igw_extproc.stream import MOST_HELD, Exchange
from igw_extproc.transport import GrpcStatus
from igw_protos import ext_proc_pb2 as pb
from igw_testing.builders import Picking, address, chat, load, members, pool
from igw_testing.conversations import LIMIT, POOL, Serving, duplex, modes
from igw_testing.ext_proc import (
    BUFFERED,
    FULL_DUPLEX,
    NONE,
    request_body,
    request_headers,
    response_headers,
    with_attributes,
)

FULL = load(running=8, waiting=4, kv_usage=1.0, kv_capacity_tokens=10_000)
MIB = 2**20


DUPLEX = BodyMode.FULL_DUPLEX
HEAD = Message(Part.REQUEST_HEADERS, {":path": "/v1/chat/completions"}, request_mode=DUPLEX, response_mode=DUPLEX)


@pytest.mark.parametrize("piece", [b"", b"x" * 100], ids=["empty", "small"])
def test_a_peer_that_goes_on_while_its_request_waits_is_cut_off(piece: bytes) -> None:
    """What is kept of it is no more than one body."""
    here = Serving(Picking(pool(), *members(1)))
    here.picking.ledger(1).reserve(Ask("m", 0, 10), 0, here.now)
    here.picking.says(1, FULL, here.now)
    stream = here.stream()
    stream.tell(modes(request_headers(), BUFFERED, NONE), request_body(chat()))
    assert here.admission.waiting == 1
    for _ in range(LIMIT):
        stream.tell(request_body(piece, end=False))
        if stream.status is not None:
            break
    assert stream.status is GrpcStatus.RESOURCE_EXHAUSTED
    stream.conversation.ended()
    assert here.admission.waiting == 0 and here.telemetry.open_streams == 0


@pytest.mark.parametrize("size", [0, 2])
def test_a_body_that_comes_in_crumbs_takes_little_more_than_its_size(size: int) -> None:
    exchange = Exchange(MIB)
    exchange.receive(HEAD)
    tracemalloc.start()
    try:
        for _ in range(100_000):
            exchange.receive(Message(Part.REQUEST_BODY, body=b"x" * size))
        assert tracemalloc.get_traced_memory()[0] < MIB // 2
    finally:
        tracemalloc.stop()


def test_of_an_endless_json_response_only_its_beginning_is_held() -> None:
    """An engine that never ends, or ends after gigabytes."""
    exchange = Exchange(LIMIT)
    exchange.receive(HEAD)
    exchange.receive(Message(Part.RESPONSE_HEADERS, {":status": "200", "content-type": "application/json"}))
    sent = passed = 0
    for _ in range(200):
        step = exchange.receive(Message(Part.RESPONSE_BODY, body=b"x" * 65_536))
        sent += 65_536
        passed += sum(len(one.body or b"") for one in step.outputs if isinstance(one, Reply))
        assert sent - passed <= MOST_HELD
    assert passed == sent


def test_a_status_of_any_length_is_none() -> None:
    """It would become a label, and Python reads no number of 5000 digits."""
    here = Serving(Picking(pool(), *members(1)))
    stream = here.stream()
    duplex(stream)
    stream.tell(response_headers({":status": "9" * 5000}))
    assert stream.status is None
    assert [code for _, code in here.telemetry.responses] == ["0xx"]


def test_addresses_that_a_proxy_makes_up_are_no_labels() -> None:
    here = Serving(Picking(pool(), *members(2)))
    for number in range(50):
        stream = here.stream()
        duplex(stream)
        stream.tell(response_headers(served=f"203.0.113.{number}:80"))
    assert {endpoint for endpoint, _ in here.telemetry.responses} <= {address(1), address(2)}


def test_names_that_clients_make_up_are_no_labels() -> None:
    """Models, routes, sessions, responses, tenants and objectives without end."""
    here = Serving(Picking(pool(), *members(2)))
    for number in range(300):
        headers = {
            wire.MODEL_HEADER: f"m{number}",
            wire.OBJECTIVE_HEADER: f"o{number}",
            wire.FAIRNESS_HEADER: f"f{number}",
            wire.SESSION_HEADER: f"s{number}",
            "authorization": f"Bearer {number}",
        }
        stream = here.stream()
        head = with_attributes(modes(request_headers(headers), BUFFERED, NONE), {"xds.route_name": POOL})
        stream.tell(head, request_body(chat(f"model-{number}\r\nx: y\0")))
        stream.conversation.ended()
    told = here.telemetry
    assert set(told.requests) == {(POOL, "", "placed")}
    assert {key[1:] for key in told.sticky} == {("session", "unknown")}


# ------------------------------------------------------------------------------------------------ messages


def headers_message(count: int, name: str = "x") -> bytes:
    message = pb.ProcessingRequest()
    for _ in range(count):
        message.request_headers.headers.headers.add(key=name, raw_value=b"v")
    return message.SerializeToString()


def test_a_header_that_comes_a_hundred_thousand_times_is_read_in_one_go() -> None:
    assert len(decode(headers_message(100_000)).headers["x"]) == 2 * 100_000 - 1


def test_a_message_with_more_beside_its_body_than_any_proxy_sends_is_malformed() -> None:
    """Small fields cost many times their size, and are read in one step."""
    crowd = headers_message(MOST_BESIDE // 4)
    body = request_body(b"x" * 2 * MOST_BESIDE)
    assert len(decode(body.SerializeToString()).body) == 2 * MOST_BESIDE
    body.attributes["f"].fields["request.path"].string_value = "/" * 2 * MOST_BESIDE
    for data in (crowd, body.SerializeToString(), b"\x12\x00" + crowd):
        with pytest.raises(MalformedMessage, match="beside a body"):
            decode(data)
    with pytest.raises(MalformedMessage):
        codec.decode_tries(bytes(MOST_BESIDE + 1))


@pytest.mark.parametrize("mode", [FULL_DUPLEX, BUFFERED])
def test_no_log_holds_a_prompt_that_is_refused(mode: pb.BodySendMode, caplog: pytest.LogCaptureFixture) -> None:
    here = Serving(Picking(pool(), *members(1)))
    caplog.set_level("DEBUG")
    for body in (b'{"prompt":"s3cret", ' + b"\xff", b'{"model":["s3cret"],"messages":["s3cret"]}', b'["s3cret"]'):
        here.stream().tell(modes(request_headers(), mode, NONE), request_body(body))
    assert "refused" in caplog.text and "s3cret" not in caplog.text
