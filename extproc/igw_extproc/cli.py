"""`igw picker`, or `python -m igw_extproc`: options to settings, then the server. Errors: one line, exit code 2."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from igw_extproc.scheduling.policies import POLICIES
from igw_extproc.server import run
from igw_extproc.settings import Settings, TransportName
from igw_extproc.sources.files import BadObjects

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_DEFAULTS = Settings(objects=())


@app.command()
def picker(
    objects: Annotated[list[Path], typer.Option(exists=True, help="Manifests: a file or a folder. May be repeated.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = _DEFAULTS.host,
    port: Annotated[int, typer.Option(help="Port for Envoy; 0: the system chooses.")] = _DEFAULTS.port,
    metrics_port: Annotated[int, typer.Option(help="Port of /metrics and /readyz.")] = _DEFAULTS.metrics_port,
    transport: Annotated[TransportName, typer.Option(help="http2: our own. grpc: grpc.aio.")] = _DEFAULTS.transport,
    policy: Annotated[str, typer.Option(help=f"Default policy: {', '.join(POLICIES)}.")] = _DEFAULTS.policy,
    max_body_bytes: Annotated[
        int, typer.Option(help="Longest body held in full-duplex mode.")
    ] = _DEFAULTS.max_body_bytes,
    drain_seconds: Annotated[
        float, typer.Option(help="Time for streams to end after SIGTERM.")
    ] = _DEFAULTS.drain_seconds,
    tls_certificate: Annotated[Path | None, typer.Option(exists=True, help="PEM certificate chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(exists=True, help="PEM private key.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the endpoint picker: the ext_proc server that Envoy asks where each request shall go."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("igw_extproc").setLevel(log_level.upper())
    if policy not in POLICIES:
        _fail(f"unknown policy `{policy}`; choose one of: {', '.join(POLICIES)}")
    if (tls_certificate is None) != (tls_key is None):
        _fail("--tls-certificate and --tls-key go together")
    settings = Settings(
        objects=tuple(objects),
        host=host,
        port=port,
        metrics_port=metrics_port,
        transport=transport,
        policy=policy,
        max_body_bytes=max_body_bytes,
        drain_seconds=drain_seconds,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings, lambda line: print(line, flush=True)))
    except* (OSError, BadObjects) as group:
        _fail("; ".join(str(error) for error in group.exceptions))


def _fail(text: str) -> None:
    print(f"igw picker: {text}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    """The entry point of `igw picker`."""
    app()
