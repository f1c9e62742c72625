"""Requests that are wrong, odd or unlucky, through the whole product: the answers are those of `docs/errors.md`.

The cases below provoke every answer that the document's table promises; a row that no case provokes, and an answer that
no row describes, fail. What is merely odd (unknown paths, forms, gRPC frames, large bodies) must pass.
"""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio
import yaml

from igw_testing.engine_double import EngineDouble, running_engine
from igw_testing.metrics_stub import EngineStub, serving
from igw_testing.standalone import Up, endpoint_list, running_up, until, write_users_manifests

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
MODEL = "/model/llama2"
LLM, EXTRA, BUSY, EMPTY, DOWN = 8081, 8082, 8083, 8084, 8085
COMPLETIONS = "/v1/completions"
JSON = {"content-type": "application/json"}
MIB = 2**20
WAIT_S = 10  # of requests that no engine can take, by default
DEAD_PORT = 1  # nobody listens on tcpmux, and nobody may without being root


# ------------------------------------------------------------------------------------------------ the gateway


def attached(name: str, port: int) -> dict[str, Any]:
    """A pool that has a port of the second Gateway to itself."""
    annotation = f"name: extra\nport: {port}\n"
    return {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha1",
        "kind": "InferencePool",
        "metadata": {"name": name, "annotations": {"inference.networking.x-k8s.io/attach-to": annotation}},
        "spec": {"targetPortNumber": 8000, "selector": {"app": name}},
    }


def route(name: str, path: str, backends: list[dict[str, Any]], **rule: Any) -> dict[str, Any]:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name},
        "spec": {
            "parentRefs": [{"name": "extra", "port": EXTRA}],
            "rules": [{"matches": [{"path": {"value": path}}], "backendRefs": backends, **rule}],
        },
    }


def listed(name: str, addresses: list[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(endpoint_list(addresses, {"app": name}))
    document["metadata"]["name"] = name
    return document


def extras(stub: EngineStub, silent: str) -> list[dict[str, Any]]:
    """A second Gateway for what the users' one has not: full, empty and dead pools, and routes that lead nowhere."""
    listeners = [{"name": f"p{port}", "protocol": "HTTP", "port": port} for port in (EXTRA, BUSY, EMPTY, DOWN)]
    return [
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "extra"},
            "spec": {"gatewayClassName": "inference-gateway", "listeners": listeners},
        },
        attached("busy", BUSY),
        attached("empty", EMPTY),
        attached("down", DOWN),
        listed("busy", [stub.address]),
        listed("silent", [silent]),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "silent"},
            "spec": {"selector": {"app": "silent"}, "ports": [{"port": 8000}]},
        },
        listed("down", [f"127.0.0.1:{DEAD_PORT}"]),
        {
            "apiVersion": "inference.networking.x-k8s.io/v1alpha1",
            "kind": "InferenceModel",
            "metadata": {"name": "bulk"},
            "spec": {"modelName": "bulk", "criticality": "Sheddable", "poolRef": {"name": "busy"}},
        },
        route("nothing", "/nothing", []),
        route("missing", "/missing", [{"name": "missing", "port": 80}]),
        route("dead", "/dead", [{"name": "down", "port": 8000}]),
        route("nobody", "/nobody", [{"name": "empty", "port": 8000}]),
        route("slow", "/slow", [{"name": "silent", "port": 8000}], timeouts={"request": "300ms"}),
    ]


@asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """Takes requests and never answers: its `ip:port`."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


class Gateway(NamedTuple):
    """What the cases talk to."""

    up: Up
    engines: tuple[EngineDouble, EngineDouble]
    client: aiohttp.ClientSession


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """One gateway for all cases: none of them may harm another."""
    folder = tmp_path_factory.mktemp("bad-input")
    stub = EngineStub(waiting=50, running=8)
    async with running_engine("one") as one, running_engine("two") as two, serving(stub), silent_server() as silent:
        manifests = write_users_manifests(folder / "manifests", [one.address, two.address])
        (manifests / "extra.yaml").write_text(yaml.safe_dump_all(extras(stub, silent)))
        ports = (8080, LLM, EXTRA, BUSY, EMPTY, DOWN)
        async with (
            running_up(manifests, folder / "state", ports=ports) as up,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as client,
        ):
            yield Gateway(up, (one, two), client)


# ------------------------------------------------------------------------------------------------ refusals


@dataclass(frozen=True)
class Case:
    """One request, and its answer's status and code. `raw`: the bytes to send, where no client would send them."""

    name: str
    status: int
    code: str
    body: bytes | dict[str, Any] | list[Any] | str | None = None
    path: str = COMPLETIONS
    port: int = LLM
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))
    method: str = "POST"
    raw: bytes = b""
    kind: str = "invalid_request_error"

    def bodies(self) -> Iterator[bytes | None]:
        """The body; that of a JSON object also with streaming asked for."""
        if self.body is None or isinstance(self.body, bytes):
            yield self.body
            return
        yield json.dumps(self.body).encode()
        if isinstance(self.body, dict):
            yield json.dumps({**self.body, "stream": True}).encode()


BAD, GONE, TIME = "invalid_request", "service_unavailable_error", "timeout_error"
HELLO = {"model": MODEL, "prompt": "hello"}
LARGE = b'{"model": "%s", "prompt": "%s"}' % (MODEL.encode(), b"x" * (33 * MIB))


def head(line: str, *more: str) -> bytes:
    return "\r\n".join((line, *more, "", "")).encode()


CASES = [
    Case("a body that ends early", 400, BAD, b'{"model": "/model/llama2", "prompt": "hel'),
    Case("a body that is no JSON", 400, BAD, b"model=x"),
    Case("a body that is not UTF-8", 400, BAD, b'{"model": "\xff", "prompt": "x"}'),
    Case("a list", 400, BAD, [HELLO]),
    Case("endless parts", 400, BAD, b'{"model": "%s", "prompt": [%s[]]}' % (MODEL.encode(), b"[]," * 260_000)),
    Case("endless depth", 400, BAD, b"[" * 200_000),
    Case("no model, on a path in disguise", 400, BAD, {"prompt": "hello"}, "/v1/completion%73"),
    Case("a text", 400, BAD, "hello"),
    Case("no model", 400, BAD, {"prompt": "hello"}),
    Case("a null model", 400, BAD, {"prompt": "hello", "model": None}),
    Case("a model that is a number", 400, BAD, {**HELLO, "model": 7}),
    Case("a model that is a list", 400, BAD, {**HELLO, "model": [MODEL]}),
    Case("an empty model", 400, BAD, {**HELLO, "model": ""}),
    Case("no prompt", 400, BAD, {"model": MODEL}),
    Case("no messages", 400, BAD, {"model": MODEL, "prompt": "hello"}, "/v1/chat/completions"),
    Case("no input", 400, BAD, {"model": MODEL}, "/v1/embeddings"),
    Case("no query", 400, BAD, {"model": MODEL}, "/v1/rerank"),
    Case("an unknown model", 404, "model_not_found", {**HELLO, "model": "gpt-9"}),
    Case(
        "an unknown model after 3 MB",
        404,
        "model_not_found",
        b'{"prompt": "%s", "model": "gpt-9"}' % (b"x" * 3_000_000),
    ),
    Case("JSON as a form", 415, "unsupported_media_type", HELLO, headers={"content-type": "multipart/form-data"}),
    Case("plain text", 415, "unsupported_media_type", b"hello", headers={"content-type": "text/plain"}),
    Case(
        "a form",
        415,
        "unsupported_media_type",
        b"model=x",
        headers={"content-type": "application/x-www-form-urlencoded"},
    ),
    Case("a sheddable model", 429, "saturated", {**HELLO, "model": "bulk"}, port=BUSY, kind="rate_limit_error"),
    Case("an empty pool", 503, "no_endpoints", HELLO, port=EMPTY, kind=GONE),
    Case("an empty pool, opaque", 503, "no_endpoints", b"\0", "/any", EMPTY, {}, kind=GONE),
    Case("an empty pool, no body", 503, "no_endpoints", None, "/v1/models", EMPTY, {}, "GET", kind=GONE),
    Case("a dead pool", 503, "no_endpoints", HELLO, port=DOWN, kind=GONE),
    Case("an unknown host and path", 404, "route_not_found", HELLO, "/elsewhere", EXTRA),
    Case("a route without a backend", 500, "no_backend", HELLO, "/nothing", EXTRA, kind=GONE),
    Case("a route to a missing backend", 503, "backend_not_found", HELLO, "/missing", EXTRA, kind=GONE),
    Case("a route to dead endpoints", 503, "endpoint_failed", HELLO, "/dead", EXTRA, kind=GONE),
    Case("a route to no endpoint", 503, "no_endpoints", HELLO, "/nobody", EXTRA, kind=GONE),
    Case("a slow answer", 504, "timeout", HELLO, "/slow", EXTRA, kind=TIME),
    Case("33 MB", 413, "request_too_large", LARGE),
    Case("33 MB on an unknown path", 413, "request_too_large", LARGE, "/any", headers={}),
    Case("large headers", 431, "headers_too_large", raw=head("GET / HTTP/1.1", "host: a", f"x-large: {'a' * 70_000}")),
    Case(
        "many headers",
        431,
        "headers_too_large",
        raw=head("GET / HTTP/1.1", "host: a", *(f"x-{number}: a" for number in range(120))),
    ),
    Case("another protocol", 400, "invalid_http", raw=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    Case("two lengths", 400, "invalid_http", raw=head("POST / HTTP/1.1", "host: a", "content-length: x")),
    Case("HTTP/1.0", 426, "http_version_not_supported", raw=head("GET /v1/models HTTP/1.0")),
]


async def answers(gateway: Gateway, case: Case) -> list[tuple[int, str, bytes]]:
    """Status, content type and body of the answer to each form of the request."""
    url = gateway.up.url(case.port)
    if case.raw:
        return [await spoken(url, case.raw)]
    found = []
    for body in case.bodies():
        skipped = () if "content-type" in case.headers else ("content-type",)
        async with gateway.client.request(
            case.method,
            url + case.path,
            data=body and io.BytesIO(body),
            headers=case.headers,
            skip_auto_headers=skipped,
        ) as answer:
            found.append((answer.status, answer.content_type, await answer.read()))
    return found


async def spoken(url: str, data: bytes) -> tuple[int, str, bytes]:
    """Say `data` and hear out the answer to its end."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        text = await reader.read()
        writer.close()
    top, _, body = text.partition(b"\r\n\r\n")
    kind = re.search(rb"^content-type: (\S+)", top, re.MULTILINE)
    return int(top.split(b" ")[1]), kind[1].decode() if kind else "", body


class Row(NamedTuple):
    """What the document promises: status, code, and the message as a pattern."""

    status: int
    code: str
    message: re.Pattern[str]


def promises() -> list[Row]:
    """The rows of the document's first table, but those that leave the word to the engine."""
    table = DOCUMENT.read_text().partition("## Manifests")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line[:2] == "| "]
    return [
        Row(int(status), code.strip("`"), re.compile(".+".join(map(re.escape, message.split("…")))))
        for _, status, code, message, source in rows[1:]
        if source.strip(" |") != "engine"
    ]


def row_for(case: Case, error: dict[str, Any]) -> Row:
    fits = [
        row
        for row in promises()
        if (row.status, row.code) == (case.status, case.code) and row.message.fullmatch(error["message"])
    ]
    assert len(fits) == 1, f"{case.name}: the document does not say {error}"
    return fits[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_bad_request_gets_the_answer_that_the_document_promises(gateway: Gateway, case: Case) -> None:
    """The status, a JSON error as OpenAI's clients parse it, and a message that the document has."""
    for status, kind, body in await answers(gateway, case):
        assert (status, kind) == (case.status, "application/json"), body
        (error,) = json.loads(body).values()
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["param"], error["code"]) == (case.kind, None, case.code)
        row_for(case, error)
        assert "hello" not in error["message"], "a refusal never repeats the prompt"


# The first would take 65536 requests at once; the second a gateway with tokens (test_access_tokens).
NOT_PROVOKED = {(503, "overloaded"), (401, "invalid_api_key")}


async def test_every_answer_that_the_document_promises_is_provoked(gateway: Gateway) -> None:
    """By the cases of the test above, but for those named here with a reason."""
    provoked = set()
    for case in CASES:
        for _, _, body in await answers(gateway, case):
            provoked.add(row_for(case, json.loads(body)["error"]))
    left = {(row.status, row.code, row.message.pattern) for row in promises() if row not in provoked}
    assert {one[:2] for one in left} == NOT_PROVOKED, left


async def test_an_unknown_model_is_told_the_known_ones(gateway: Gateway) -> None:
    """So that a typing mistake can be seen."""
    case = Case("", 404, "", {**HELLO, "model": "gpt-9"})
    for _, _, body in await answers(gateway, case):
        assert f"`{MODEL}`" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429, 500, 502, 503])
async def test_what_an_engine_answers_passes_unchanged(gateway: Gateway, status: int) -> None:
    """The engine's own words are never replaced by the proxy's, whatever the status."""
    for engine in gateway.engines:
        engine.status = status
    try:
        ((found, _, body),) = await answers(gateway, Case("", 0, "", json.dumps(HELLO).encode()))
    finally:
        for engine in gateway.engines:
            engine.status = 200
    assert found == status
    assert json.loads(body)["engine"] in ("one", "two")


# ------------------------------------------------------------------------------------------------ what must pass

TALK = {"messages": [{"role": "user", "content": "hello"}]}
KNOWN: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": TALK,
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/embeddings": {"input": ["hello"]},
    "/v1/messages": {**TALK, "max_tokens": 5},
    "/v1/rerank": {"query": "hello", "documents": ["a"]},
    "/rerank": {"query": "hello", "documents": ["a"]},
    "/v1/score": {"text_1": "hello", "text_2": "a"},
    "/score": {"text_1": "hello", "text_2": "a"},
}


async def passed(gateway: Gateway, path: str, body: bytes | None, content_type: str | None = None) -> None:
    """An engine gets the request whole."""
    headers = {} if content_type is None else {"content-type": content_type}
    for status, _, text in await answers(gateway, Case("", 200, "", body, path, headers=headers)):
        assert status == 200, text
        got = json.loads(text)
        # A response that an engine may keep is given its id by the picker, in the request.
        named = len(b',"request_id":"resp_"') + 32 if path == "/v1/responses" else 0
        assert {**got, "engine": "", "size": got["size"] - named} == {
            "engine": "",
            "path": path,
            "size": len(body or b""),
        }


async def placed(gateway: Gateway) -> int:
    """How many requests the picker has placed so far."""
    async with gateway.client.get(gateway.up.metrics) as answer:
        counts = re.findall(r"^igw_picker_placed_total\{.*\} (\d+)", await answer.text(), re.MULTILINE)
    return sum(map(int, counts))


@pytest.mark.parametrize("path", KNOWN)
async def test_every_known_path_passes_with_a_valid_body(gateway: Gateway, path: str) -> None:
    """With and without streaming; with a charset, or without a content type at all."""
    for stream in (False, True):
        body = json.dumps({"model": MODEL, "stream": stream, **KNOWN[path]}).encode()
        for content_type in ("application/json", "application/json; charset=utf-8", None):
            await passed(gateway, path, body, content_type)


BOUNDARY = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF\0\xff\r\n--b--\r\n'


@pytest.mark.parametrize(
    ("path", "body", "content_type"),
    [
        ("/v1/audio/transcriptions", BOUNDARY, "multipart/form-data; boundary=b"),
        ("/v1/completions", BOUNDARY, "multipart/form-data; boundary=b"),
        ("/inference.GRPCInferenceService/ModelInfer", b"\0\0\0\0\5hello", "application/grpc"),
        ("/v1/completions", b"\0\0\0\0\5hello", "application/grpc+proto"),
        ("/some/path", bytes(range(256)) * 50, None),
        ("/v1/tokenize", b'{"prompt": ', "application/json"),
        ("/v2/models/a/infer", b"hello", "text/plain"),
    ],
)
async def test_what_is_not_ours_to_read_is_placed_by_load_unread(
    gateway: Gateway, path: str, body: bytes, content_type: str | None
) -> None:
    """Never a 400 for a path or a framing that we do not know; the picker places it all the same."""
    before = await placed(gateway)
    await passed(gateway, path, body, content_type)
    assert await placed(gateway) == before + 1


@pytest.mark.parametrize("megabytes", [2, 8, 31])
async def test_large_bodies_pass_wherever_the_model_is_named(gateway: Gateway, megabytes: int) -> None:
    """The proxy shows the picker a part of them; none is refused for what is not in that part."""
    prompt = b"x" * (megabytes * MIB)
    for body in (
        b'{"model": "%s", "prompt": "%s"}' % (MODEL.encode(), prompt),
        b'{"prompt": "%s", "model": "%s"}' % (prompt, MODEL.encode()),
    ):
        await passed(gateway, COMPLETIONS, body, "application/json")


async def test_requests_without_a_body_pass(gateway: Gateway) -> None:
    """An empty POST is for the engine to judge; HEAD gets headers alone."""
    await passed(gateway, COMPLETIONS, b"", "application/json")
    for method, path in (("GET", "/v1/models"), ("GET", "/health"), ("DELETE", "/v1/files/a"), ("HEAD", "/v1/models")):
        case = Case("", 200, "", None, path, headers={}, method=method)
        ((status, _, body),) = await answers(gateway, case)
        assert status == 200
        assert (body == b"") == (method == "HEAD")


async def test_an_upgrade_neither_hangs_nor_fails(gateway: Gateway) -> None:
    """WebSockets are placed by their headers; another kind of upgrade is refused at once."""
    async with gateway.client.ws_connect(f"{gateway.up.url(LLM)}/v1/realtime") as socket:
        await socket.send_str("hello")
        assert str((await socket.receive()).data).endswith("hello")
    raw = head("GET /v1/models HTTP/1.1", "host: a", "upgrade: other", "connection: upgrade, close")
    assert (await spoken(gateway.up.url(LLM), raw))[0] == 403


async def test_a_client_that_gives_up_in_the_middle_of_its_body_harms_nobody(gateway: Gateway) -> None:
    """It gets no answer; the next one is served."""
    host, _, port = gateway.up.url(LLM).removeprefix("http://").rpartition(":")
    for _ in range(5):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head(f"POST {COMPLETIONS} HTTP/1.1", "host: a", "content-length: 5000000") + b"x" * 100_000)
        await writer.drain()
        writer.close()
    await passed(gateway, COMPLETIONS, json.dumps(HELLO).encode(), "application/json")


# ------------------------------------------------------------------------------------------------ coming and going


async def test_an_empty_pool_serves_within_two_seconds_of_its_first_endpoint(gateway: Gateway, tmp_path: Path) -> None:
    """And refuses again, just as clearly, when the endpoint is gone: what has waited as long as it may."""
    one, _ = gateway.engines
    manifests = write_users_manifests(tmp_path / "manifests", [])
    async with running_up(manifests, tmp_path / "state") as up:
        apart = gateway._replace(up=up)
        await up.line("EndpointsNotFound: no ready endpoint has the labels app=vllm-llama2-7b-pool")

        async def says(wanted: int) -> bool:
            found = await answers(apart, Case("", 0, "", HELLO))
            assert all(
                status == 200 or json.loads(body)["error"]["code"] == "no_endpoints" for status, _, body in found
            )
            return all(status == wanted for status, _, _ in found)

        assert await says(503)
        (manifests / "endpoints.yaml").write_text(endpoint_list([one.address]))
        await until(lambda: says(200), 2.0)
        (manifests / "endpoints.yaml").write_text(endpoint_list([]))
        await until(lambda: says(503), 2.0 + 3 * WAIT_S)
