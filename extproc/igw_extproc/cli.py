"""`igw picker`, or `python -m igw_extproc`: options to settings, then the server. Errors: one line, exit code 2."""

import asyncio
import logging
import socket
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
import uvloop

from igw_api.objects import Key
from igw_extproc.scheduling.policies import POLICIES
from igw_extproc.server import run
from igw_extproc.settings import Settings, TransportName
from igw_extproc.sources.files import BadObjects
from igw_extproc.sources.kube_access import NoAccess
from igw_extproc.tls import Unusable

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_DEFAULTS = Settings()
LAST_PORT: Final = 65535


class Level(StrEnum):
    """Levels of our own log."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@app.command()
def picker(
    objects: Annotated[
        list[Path] | None, typer.Option(exists=True, help="Manifests: a file or a folder. May be repeated.")
    ] = None,
    kubernetes: Annotated[
        str | None, typer.Option(help="NAMESPACE/NAME of the ConfigMap to serve, with the Pods of its pools.")
    ] = None,
    kubeconfig: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="How to reach Kubernetes; in a Pod, not needed.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = _DEFAULTS.host,
    port: Annotated[
        int, typer.Option(min=0, max=LAST_PORT, help="Port for Envoy; 0: the system chooses.")
    ] = _DEFAULTS.port,
    metrics_port: Annotated[
        int, typer.Option(min=0, max=LAST_PORT, help="Port of /metrics and /readyz.")
    ] = _DEFAULTS.metrics_port,
    transport: Annotated[TransportName, typer.Option(help="http2: our own. grpc: grpc.aio.")] = _DEFAULTS.transport,
    policy: Annotated[str, typer.Option(help=f"Default policy: {', '.join(POLICIES)}.")] = _DEFAULTS.policy,
    max_body_bytes: Annotated[
        int, typer.Option(min=1, help="Longest body held in full-duplex mode.")
    ] = _DEFAULTS.max_body_bytes,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="Time for streams to end after SIGTERM.")
    ] = _DEFAULTS.drain_seconds,
    tls_certificate: Annotated[Path | None, typer.Option(exists=True, help="PEM certificate chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(exists=True, help="PEM private key.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(exists=True, help="PEM certificates of those who sign clients'; none: any may come.")
    ] = None,
    log_level: Annotated[Level, typer.Option(help="Level of the log.")] = Level.INFO,
) -> None:
    """Run the endpoint picker: the ext_proc server that Envoy asks where each request shall go."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("igw_extproc").setLevel(log_level.upper())
    if policy not in POLICIES:
        _fail(f"unknown policy `{policy}`; choose one of: {', '.join(POLICIES)}")
    if (tls_certificate is None) != (tls_key is None):
        _fail("--tls-certificate and --tls-key go together")
    if tls_client_ca is not None and tls_key is None:
        _fail("--tls-client-ca goes with --tls-certificate and --tls-key")
    if bool(objects) == (kubernetes is not None):
        _fail("say where the objects come from: either --objects or --kubernetes")
    if kubeconfig is not None and kubernetes is None:
        _fail("--kubeconfig goes with --kubernetes")
    settings = Settings(
        objects=tuple(objects or ()),
        kubernetes=None if kubernetes is None else _config_map(kubernetes),
        kubeconfig=kubeconfig,
        host=host,
        port=port,
        metrics_port=metrics_port,
        transport=transport,
        policy=policy,
        max_body_bytes=max_body_bytes,
        drain_seconds=drain_seconds,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        tls_client_ca=tls_client_ca,
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings, lambda line: print(line, flush=True)))
    except* (OSError, BadObjects, NoAccess, Unusable) as group:
        _fail("; ".join(_reason(error, settings) for error in group.exceptions))


def _config_map(text: str) -> Key:
    namespace, slash, name = text.partition("/")
    if not namespace or not slash or not name or "/" in name:
        _fail(f"--kubernetes {text}: not of the form NAMESPACE/NAME")
    return Key(namespace, name)


def _reason(error: BaseException, settings: Settings) -> str:
    if isinstance(error, socket.gaierror):
        return f"--host {settings.host}: {error.strerror}"
    if isinstance(error, OSError) and error.filename is None and error.strerror:
        return error.strerror
    return str(error)


def _fail(text: str) -> NoReturn:
    print(f"igw picker: {text}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    """The entry point of `igw picker`."""
    try:
        app(standalone_mode=False)
    except typer.TyperException as error:
        # Typer would draw a box; a mistake is one line.
        _fail(" ".join(error.format_message().replace("Value error, ", "").split()))
