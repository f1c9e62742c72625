"""The commands `igw explain` and `igw top`: whom to ask is read here. Called by the command line."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, sleep
from typing import Annotated, Any, Final, NoReturn
from urllib.parse import quote

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from igw_inspect.explanation import page
from igw_inspect.reach import ByAddress, Picker, Unreachable, by_state_directory, in_namespace
from igw_inspect.screen import Seen, screen

EXIT_FAILED, EXIT_REFUSED = 1, 2
_OK: Final = 200
_FILE_WIDTH: Final = 240

_Address = Annotated[str | None, typer.Option("--picker", help="A picker's metrics port, as HOST:PORT.")]
_State = Annotated[Path, typer.Option(help="The state directory of the `igw up` to ask.")]
_Namespace = Annotated[str | None, typer.Option("-n", "--namespace", help="On Kubernetes: the Gateway's namespace.")]
_Kubeconfig = Annotated[Path | None, typer.Option(help="How to reach that cluster. Without: as kubectl does.")]
_HERE: Final = Path(".igw")


def explain() -> None:
    """The `igw explain` command."""
    _run("explain", _explain)


def top() -> None:
    """The `igw top` command."""
    _run("top", _top)


def _run(name: str, command: Callable[..., None]) -> None:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name=name)(command)
    try:
        app(standalone_mode=False)
    except typer.TyperException as error:
        _fail(" ".join(error.format_message().split()), EXIT_REFUSED)
    except Unreachable as error:
        _fail(str(error), EXIT_FAILED)


def _explain(
    request: Annotated[str, typer.Argument(help="The request: what `x-request-id` was in its response, or its lease.")],
    picker: _Address = None,
    state_dir: _State = _HERE,
    namespace: _Namespace = None,
    kubeconfig: _Kubeconfig = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Say why a request went where it went: who could have taken it, what each would have cost, what happened then."""
    pickers = _pickers(picker, state_dir, namespace, kubeconfig)
    for one in pickers:
        status, told = one.get(f"/decisions/{quote(request, safe='')}")
        if status == _OK:
            print(json.dumps(told, indent=2)) if as_json else _console().print(page(told))
            return
    _fail(f"no picker knows the request {request}; each remembers its last 1,000", EXIT_FAILED)


def _top(
    picker: _Address = None,
    state_dir: _State = _HERE,
    namespace: _Namespace = None,
    kubeconfig: _Kubeconfig = None,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option(help="Look once, print it, and end.")] = False,
) -> None:
    """Watch pools, endpoints and queues. Ends with Ctrl-C."""
    pickers = _pickers(picker, state_dir, namespace, kubeconfig)
    console = _console()
    seen: dict[str, Seen | None] = {one.name: None for one in pickers}
    if once:
        console.print(_screens(pickers, seen))
        return
    try:
        with Live(_screens(pickers, seen), console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                sleep(interval)
                live.update(_screens(pickers, seen), refresh=True)
    except KeyboardInterrupt:
        return


def _screens(pickers: Sequence[Picker], seen: dict[str, Seen | None]) -> RenderableType:
    """A picker that does not answer says so; the next look may find it."""
    parts: list[RenderableType] = []
    for one in pickers:
        try:
            now = Seen(perf_counter(), _state(one))
        except Unreachable as error:
            if len(pickers) == 1 and seen[one.name] is None:
                raise
            parts.append(Text(str(error), style="red"))
            continue
        parts.append(screen(one.name, seen[one.name], now))
        seen[one.name] = now
    return Group(*parts)


def _state(picker: Picker) -> Any:
    status, state = picker.get("/state")
    if status != _OK:
        raise Unreachable(f"the picker {picker.name} answers {status}: it may be older than this command")
    return state


def _pickers(address: str | None, state_dir: Path, namespace: str | None, kubeconfig: Path | None) -> Sequence[Picker]:
    """Whoever is to be asked. Raises Unreachable."""
    if address is not None:
        return [ByAddress(address)]
    if namespace is not None:
        return in_namespace(namespace, kubeconfig)
    return [by_state_directory(state_dir)]


def _console() -> Console:
    """Tables are cut to a terminal's width, and to nothing else's."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_WIDTH)


def _fail(message: str, code: int) -> NoReturn:
    print(f"problem: {message}", file=sys.stderr)
    sys.exit(code)
