"""The command `igw up`: its words are read here, and become `UpSettings`. Called by `commands`."""

import asyncio
import re
import shlex
import sys
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final

import typer

from igw_api.meta import LABEL_KEY_PATTERN, LABEL_VALUE_PATTERN, NAME_PATTERN, NAMESPACE_PATTERN
from igw_api.objects import Key, Member
from igw_operator.console import Console
from igw_operator.render.files import Address
from igw_operator.settings import UpSettings, picker_module
from igw_operator.standalone import EXIT_REFUSED
from igw_operator.standalone import up as run_up

LAST_PORT: Final = 65535


class Transport(StrEnum):
    """How Envoy and the picker talk; the picker knows the same names."""

    HTTP2 = "http2"
    GRPC = "grpc"


class Level(StrEnum):
    """Levels that Envoy and the picker both know."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def up() -> None:
    """The `igw up` command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name="up")(_up)
    try:
        app(standalone_mode=False)
    except typer.TyperException as error:
        # Typer would draw a box; a mistake is one line.
        Console().problem(" ".join(error.format_message().replace("Value error, ", "").split()))
        sys.exit(EXIT_REFUSED)


def _up(
    manifests: Annotated[
        list[Path], typer.Option("-f", "--filename", help="Manifest file, or directory of manifests. Repeatable.")
    ],
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="An engine, as LABEL=VALUE[,LABEL=VALUE]@ADDRESS[:PORT]. Repeatable."),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(help="A Secret as [NAMESPACE/]NAME=DIRECTORY, a file for each of its keys. Repeatable."),
    ] = None,
    listen_host: Annotated[str, typer.Option(help="Address to open ports on; 0.0.0.0 for the network.")] = "127.0.0.1",
    listen: Annotated[
        list[str] | None,
        typer.Option(help="Open a Gateway's port elsewhere: PORT=[HOST:]PORT; port 0 means any. Repeatable."),
    ] = None,
    state_dir: Annotated[Path, typer.Option(help="Where generated files and logs go.")] = Path(".igw"),
    picker_transport: Annotated[Transport, typer.Option(help="Transport of the picker.")] = Transport.HTTP2,
    picker_tls: Annotated[
        Path | None,
        typer.Option(help="TLS between Envoy and the picker: a directory with tls.crt, tls.key and ca.crt."),
    ] = None,
    admin_port: Annotated[
        int, typer.Option(min=0, max=LAST_PORT, help="Envoy's admin port, on this machine only; 0 means any.")
    ] = 0,
    metrics_port: Annotated[int, typer.Option(min=0, max=LAST_PORT, help="The picker's metrics port, likewise.")] = 0,
    first_byte: Annotated[bool, typer.Option(help="Measure the time to the first token of every request.")] = True,
    access_log: Annotated[str | None, typer.Option(help="File for Envoy's access log. None by default.")] = None,
    drain_timeout: Annotated[float, typer.Option(min=0, help="Seconds that requests may still run at the end.")] = 30.0,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Envoy's worker threads. One per core by default.")
    ] = None,
    log_level: Annotated[Level, typer.Option(help="Level of the logs.")] = Level.INFO,
    picker_command: Annotated[str | None, typer.Option(hidden=True, help="Another picker, for tests.")] = None,
) -> None:
    """Run the gateway on this machine: Envoy, the picker, and the manifests that say what leads where."""
    console = Console()
    try:
        settings = UpSettings(
            manifests=tuple(manifests),
            state_dir=state_dir.absolute(),
            members=tuple(parse_endpoint(text) for text in endpoint or ()),
            secrets=dict(parse_secret(text) for text in secret or ()),
            listen_host=_host(listen_host, f"--listen-host {listen_host}"),
            listens=dict(parse_listen(text, listen_host) for text in listen or ()),
            picker_transport=picker_transport,
            picker_tls=picker_tls.absolute() if picker_tls else None,
            picker_command=tuple(shlex.split(picker_command)) if picker_command else picker_module(),
            admin_port=admin_port,
            metrics_port=metrics_port,
            first_byte=first_byte,
            access_log=access_log,
            drain_timeout=drain_timeout,
            concurrency=concurrency,
            log_level=log_level,
        )
    except ValueError as error:
        console.problem(str(error))
        sys.exit(EXIT_REFUSED)
    sys.exit(asyncio.run(run_up(settings, console)))


def parse_endpoint(text: str) -> Member:
    """`app=vllm,role=x@127.0.0.1:8001` as a member; without a port, the pool's. Raises ValueError."""
    labels, at, place = text.rpartition("@")
    pairs = [pair.partition("=") for pair in labels.split(",")]
    if not at or not all(_is_label(name, value) for name, _, value in pairs):
        raise ValueError(f"--endpoint {text}: must look like app=vllm@127.0.0.1:8001")
    host, port = _host_port(place, f"--endpoint {text}")
    if port == 0:
        raise ValueError(f"--endpoint {text}: '0' is not a port that an engine can have")
    name = f"cli-{host.replace(':', '-')}" + (f"-{port}" if port else "")
    return Member(Key("default", name), host, port, {name: value for name, _, value in pairs})


def parse_secret(text: str) -> tuple[Key, Path]:
    """`team-a=tokens/` or `llm/web=/etc/igw/web`. Raises ValueError."""
    identity, _, place = text.partition("=")
    namespace, slash, name = identity.rpartition("/")
    key = Key(namespace if slash else "default", name)
    if not (place and re.fullmatch(NAME_PATTERN, name) and re.fullmatch(NAMESPACE_PATTERN, key.namespace)):
        raise ValueError(f"--secret {text}: must look like NAME=DIRECTORY or NAMESPACE/NAME=DIRECTORY")
    return key, Path(place)


def _is_label(name: str, value: str) -> bool:
    return bool(value and re.fullmatch(LABEL_KEY_PATTERN, name) and re.fullmatch(LABEL_VALUE_PATTERN, value))


def parse_listen(text: str, default_host: str) -> tuple[int, Address]:
    """`8080=127.0.0.1:0` or `8080=9090`. Raises ValueError."""
    port, _, place = text.partition("=")
    what = f"--listen {text}"
    if not port.isdecimal() or not place:
        raise ValueError(f"{what}: must look like 8080=127.0.0.1:9090 or 8080=9090")
    if place.isdecimal():
        return _port(port, what), Address(default_host, _port(place, what))
    host, to = _host_port(place, what)
    if to is None:
        raise ValueError(f"{what}: a port is missing after the address")
    return _port(port, what), Address(host, to)


def _host_port(place: str, what: str) -> tuple[str, int | None]:
    host, colon, port = place.rpartition(":")
    if not colon or (place.count(":") > 1 and not place.startswith("[")):
        host, port = place, ""
    return _host(host.strip("[]"), what), _port(port, what) if port else None


def _host(text: str, what: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError(f"{what}: {text!r} is not an IP address; host names are not resolved") from None


def _port(text: str, what: str) -> int:
    if not (text.isdecimal() and int(text) <= LAST_PORT):
        raise ValueError(f"{what}: {text!r} is not a port")
    return int(text)
