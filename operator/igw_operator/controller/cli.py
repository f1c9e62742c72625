"""The command `igw operator`: reads the configuration, sets up the log, and runs the process."""

import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from igw_operator.controller.kube import NoAccess
from igw_operator.controller.process import run
from igw_operator.controller.watch import quiet_kopf
from igw_operator.operator_settings import BadConfiguration, load

EXIT_REFUSED = 2
FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def operator() -> None:
    """The `igw operator` command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name="operator")(_operator)
    try:
        app(standalone_mode=False)
    except typer.TyperException as error:
        # Typer would draw a box; a mistake is one line.
        _refuse(" ".join(error.format_message().split()))


def _operator(
    config: Annotated[Path, typer.Option(help="The operator's configuration file; see docs/operator.md.")],
    kubeconfig: Annotated[
        Path | None, typer.Option(help="How to reach the API server. Without: as a Pod of the cluster.")
    ] = None,
) -> None:
    """Run the operator: make InferencePools reachable through Envoy Gateway."""
    try:
        settings = load(config)
    except BadConfiguration as error:
        _refuse(str(error))
    if kubeconfig is not None and not kubeconfig.is_file():
        _refuse(f"--kubeconfig {kubeconfig}: no such file")
    level = logging.getLevelNamesMapping()[settings.operator.log_level.upper()]
    logging.basicConfig(level=level, format=FORMAT, stream=sys.stderr)
    quiet_kopf(level)
    try:
        code = asyncio.run(run(settings, kubeconfig, time.time))
    except NoAccess as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"operator.listen {settings.operator.listen}: {error.strerror or error}")
    sys.exit(code)


def _refuse(message: str) -> NoReturn:
    print(f"problem: {message}", file=sys.stderr)
    sys.exit(EXIT_REFUSED)
