"""Request headers: RFC 9113 section 8.3, then gRPC's own."""

import pytest

from igw_extproc.http2.request import GrpcRefusal, HttpRefusal, Malformed, check_trailers, read_request
from igw_extproc.transport import Call, Conversation, GrpcStatus

GOOD = {
    b":method": b"POST",
    b":scheme": b"http",
    b":path": b"/a.B/C",
    b":authority": b"picker",
    b"content-type": b"application/grpc",
}


def method(call: Call) -> Conversation:
    """A method that no test here calls."""
    raise NotImplementedError


METHODS = {"/a.B/C": method}


def fields(**changes: bytes | None) -> list[tuple[bytes, bytes]]:
    """GOOD with changes; p_x stands for ":x", dashes are underscores, None takes a field out."""
    named = {key.replace("p_", ":", 1).replace("_", "-").encode(): value for key, value in changes.items()}
    return [(name, value) for name, value in {**GOOD, **named}.items() if value is not None]


def test_a_grpc_request_finds_its_method() -> None:
    opening = read_request(fields(te=b"trailers", grpc_timeout=b"250m", content_length=b"12"), METHODS)
    assert (opening.method, opening.refusal) == (method, None)
    assert (opening.timeout, opening.content_length, opening.encoding) == (0.25, 12, "identity")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 4e-3), (b"5u", 5e-6), (b"99999999n", 0.099999999)],
)
def test_a_timeout_is_read_in_its_unit(text: bytes, seconds: float) -> None:
    assert read_request(fields(grpc_timeout=text), METHODS).timeout == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"", b"1", b"S", b"-1S", b"123456789S", b"1x", b"1.5S"])
def test_a_malformed_timeout_is_refused(text: bytes) -> None:
    refusal = read_request(fields(grpc_timeout=text), METHODS).refusal
    assert isinstance(refusal, GrpcRefusal)
    assert refusal.status is GrpcStatus.INTERNAL


def test_an_unknown_path_is_unimplemented() -> None:
    refusal = read_request(fields(p_path=b"/a.B/D"), METHODS).refusal
    assert refusal == GrpcRefusal(GrpcStatus.UNIMPLEMENTED, "unknown method /a.B/D")


@pytest.mark.parametrize("kind", [b"application/grpc", b"application/grpc+proto", b"application/grpc; charset=utf-8"])
def test_the_content_types_of_grpc_are_taken(kind: bytes) -> None:
    assert read_request(fields(content_type=kind), METHODS).method is method


@pytest.mark.parametrize("kind", [None, b"", b"text/plain", b"application/grpc-web", b"application/grpc+json"])
def test_other_content_types_get_415(kind: bytes | None) -> None:
    refusal = read_request(fields(content_type=kind), METHODS).refusal
    assert isinstance(refusal, HttpRefusal)
    assert refusal.status == 415


@pytest.mark.parametrize("verb", [b"GET", b"HEAD", b"PUT", b"post"])
def test_other_verbs_get_405(verb: bytes) -> None:
    refusal = read_request(fields(p_method=verb), METHODS).refusal
    assert isinstance(refusal, HttpRefusal)
    assert (refusal.status, refusal.body == b"") == (405, verb == b"HEAD")


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(fields(p_method=None), id="no-method"),
        pytest.param(fields(p_scheme=None), id="no-scheme"),
        pytest.param(fields(p_path=None), id="no-path"),
        pytest.param(fields(p_path=b""), id="empty-path"),
        pytest.param(fields(p_status=b"200"), id="response-pseudo"),
        pytest.param(fields(p_protocol=b"websocket"), id="extended-connect"),
        pytest.param([*fields(), (b":authority", b"late")], id="pseudo-after-regular"),
        pytest.param([(b":path", b"/"), *fields()], id="pseudo-twice"),
        pytest.param(fields(p_method=b"CONNECT"), id="connect-with-path"),
        pytest.param([*fields(), (b"X-Upper", b"1")], id="uppercase"),
        pytest.param([*fields(), (b"", b"1")], id="empty-name"),
        pytest.param([*fields(), (b"a b", b"1")], id="space-in-name"),
        pytest.param([*fields(), (b"a\x80", b"1")], id="high-byte-in-name"),
        pytest.param([*fields(), (b"a:b", b"1")], id="colon-in-name"),
        pytest.param(fields(x=b"a\nb"), id="newline"),
        pytest.param(fields(x=b"a\rb"), id="return"),
        pytest.param(fields(x=b"a\0b"), id="nul"),
        pytest.param(fields(x=b" a"), id="leading-space"),
        pytest.param(fields(x=b"a\t"), id="trailing-tab"),
        pytest.param(fields(connection=b"close"), id="connection"),
        pytest.param(fields(keep_alive=b"1"), id="keep-alive"),
        pytest.param(fields(proxy_connection=b"x"), id="proxy-connection"),
        pytest.param(fields(transfer_encoding=b"chunked"), id="transfer-encoding"),
        pytest.param(fields(upgrade=b"h2c"), id="upgrade"),
        pytest.param(fields(te=b"gzip"), id="te"),
        pytest.param(fields(content_length=b"-1"), id="negative-length"),
        pytest.param(fields(content_length=b"1x"), id="length-not-a-number"),
        pytest.param([*fields(content_length=b"1"), (b"content-length", b"2")], id="two-lengths"),
    ],
)
def test_a_malformed_request_is_no_request(bad: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Malformed):
        read_request(bad, METHODS)


def test_connect_is_well_formed_and_refused() -> None:
    opening = read_request([(b":method", b"CONNECT"), (b":authority", b"x:1")], METHODS)
    assert isinstance(opening.refusal, HttpRefusal)
    assert opening.refusal.status == 405


def test_trailers_have_no_pseudo_headers() -> None:
    check_trailers([(b"x", b"1")])
    with pytest.raises(Malformed):
        check_trailers([(b":path", b"/")])
