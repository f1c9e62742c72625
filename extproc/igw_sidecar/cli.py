"""`igw sidecar`, or `python -m igw_sidecar`: options to settings, then the server. Errors: one line, exit code 2."""

import asyncio
import logging
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer
import uvloop
from yarl import URL

from igw_sidecar.prefillers import networks
from igw_sidecar.server import Sidecar
from igw_sidecar.settings import Format, Settings

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_DEFAULTS = Settings(URL("http://127.0.0.1:8001"))
_LAST_PORT = 65535


@app.command()
def sidecar(
    engine: Annotated[str, typer.Option(help="The engine beside us: http://HOST:PORT.")],
    listen: Annotated[int, typer.Option(min=0, max=_LAST_PORT, help="Port; 0: the system chooses.")] = _DEFAULTS.port,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = _DEFAULTS.host,
    format: Annotated[Format, typer.Option(help="How the engines are told of a split.")] = _DEFAULTS.format,  # noqa: A002
    allow_prefillers: Annotated[
        list[str] | None, typer.Option(help="Address or network of prefillers; may be repeated. Default: private ones.")
    ] = None,
    bootstrap_port: Annotated[
        int, typer.Option(min=0, max=_LAST_PORT, help="SGLang's bootstrap port; 0: the prefiller's own.")
    ] = _DEFAULTS.bootstrap_port,
    connect_seconds: Annotated[float, typer.Option(min=0.01, help="Time to connect.")] = _DEFAULTS.connect_s,
    prefill_seconds: Annotated[float, typer.Option(min=0.01, help="Time for a prefill.")] = _DEFAULTS.prefill_s,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="Time for requests to end after SIGTERM.")
    ] = _DEFAULTS.drain_s,
    max_body_bytes: Annotated[
        int, typer.Option(min=1, help="Longest request body that is split.")
    ] = _DEFAULTS.max_body_bytes,
) -> None:
    """Run the proxy beside a decode engine: it has prompts computed by the prefiller that the picker names."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = Settings(
            engine=_engine(engine),
            format=format,
            host=host,
            port=listen,
            bootstrap_port=bootstrap_port,
            allowed=networks(allow_prefillers) if allow_prefillers else _DEFAULTS.allowed,
            connect_s=connect_seconds,
            prefill_s=prefill_seconds,
            drain_s=drain_seconds,
            max_body_bytes=max_body_bytes,
        )
    except ValueError as error:
        _fail(str(error))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_serve(settings))
        except OSError as error:
            # Errors of name resolution have numbers of their own, below 0.
            code = error.errno or 0
            _fail(f"cannot listen on {host}:{listen}: {os.strerror(code) if code > 0 else error.strerror or error}")


def _engine(text: str) -> URL:
    url = URL(text)
    if url.scheme != "http" or not url.host or url.path not in ("", "/") or url.query_string:
        raise ValueError(f"--engine {text}: not of the form http://HOST:PORT")
    return url


async def _serve(settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with Sidecar(settings) as running:
        host, port = running.address
        print(f"igw sidecar listening address={host}:{port} engine={settings.engine}", flush=True)
        await stopping.wait()


def _fail(text: str) -> NoReturn:
    print(f"igw sidecar: {' '.join(text.split())}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    """The entry point of `igw sidecar`."""
    try:
        app(standalone_mode=False)
    except typer.TyperException as error:
        _fail(error.format_message())
