"""A service beyond the gateway that takes what pools cannot: it answers like OpenAI's, and keeps what it was sent.

On a real socket, with TLS if asked: its certificate is for `localhost` and trusted by nobody who is not told to.
`python -m igw_testing.provider_double HOST PORT` runs one until it is killed, which tells at `/got` what it was sent.
"""

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import web

CERTIFICATE: Final = Path(__file__).parents[1] / "transport" / "localhost.pem"
KEY: Final = "Bearer sk-of-the-provider-0815"


@dataclass(frozen=True)
class Got:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class ProviderDouble:
    """Refuses whoever has not its key. `failure`: status, body and header of every answer from now on."""

    port: int = 0
    tls: bool = False
    got: list[Got] = field(default_factory=list)
    failure: tuple[int, str, dict[str, str]] | None = None
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)  # of streams that have begun

    def __post_init__(self) -> None:
        """Streams go on until told otherwise."""
        self.may_go_on.set()

    @property
    def url(self) -> str:
        """Its base URL, with a path of its own."""
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}/compatible/v1"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """An answer, a stream, or the failure."""
        if request.path == "/got":
            return web.json_response([asdict(one) for one in self.got])
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.json()
        self.got.append(Got(request.path, headers, body))
        if self.failure is not None:
            status, text, more = self.failure
            return web.Response(status=status, text=text, headers=more, content_type="application/json")
        if headers.get("authorization") != KEY:
            return web.json_response({"error": {"message": "wrong key"}}, status=401)
        if body.get("stream"):
            return await self._stream(request, body["model"])
        return web.json_response({"model": body["model"], "from": "provider"})

    async def _stream(self, request: web.Request, model: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": begun\n\n")
        await self.may_go_on.wait()
        for word in ("one", "two"):
            await response.write(f"data: {json.dumps({'model': model, 'word': word})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


@asynccontextmanager
async def running_provider(
    *, tls: bool = False, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[ProviderDouble]:
    """A provider, on a port of the system's choice."""
    provider = ProviderDouble(tls=tls)
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_route("*", "/{path:.*}", provider.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=context, reuse_port=False).start()
        provider.port = runner.addresses[0][1]
        yield provider
    finally:
        await runner.cleanup()


def secret(name: str = "cloud-key") -> dict[str, Any]:
    """The Secret with its key, and with its certificate."""
    trusted = CERTIFICATE.read_text()
    trusted = trusted[trusted.index("-----BEGIN CERTIFICATE-----") :]
    trusted = trusted[: trusted.index("-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n"
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "stringData": {"credential": KEY, "ca.crt": trusted},
    }


async def main(host: str, port: str) -> None:
    """One provider, until it is killed."""
    async with running_provider(host=host, port=int(port)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
