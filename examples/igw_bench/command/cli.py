"""The command line of `igw bench`: reads options, checks the target, runs the campaign, writes the report.

Exit codes: 0 done, 1 nothing was answered, 2 bad input or a target that is not there, 130 Ctrl-C.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
import uvloop
from rich.console import Console

from igw_bench.children import NotStarted
from igw_bench.command import campaign, plans
from igw_bench.command.campaign import Settings
from igw_bench.command.document import Facts, document
from igw_bench.command.options import DEFAULT_POLICIES, POLICIES_OF_E, SPEED
from igw_bench.command.options import settings as read
from igw_bench.command.page import page
from igw_bench.command.progress import Progress
from igw_bench.command.reach import with_model
from igw_bench.command.samples import ANSWERED, BadInput, Run
from igw_bench.command.table import notes, table

EXIT_DONE, EXIT_UNANSWERED, EXIT_BAD_INPUT = 0, 1, 2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main() -> None:
    """The entry point of `igw bench`."""
    try:
        code = app(standalone_mode=False)
    except (BadInput, NotStarted, ChildProcessError) as error:
        _give_up(str(error))
    except typer.TyperException as error:
        _give_up(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(128 + signal.SIGINT)
    sys.exit(code if isinstance(code, int) else EXIT_DONE)


@app.command()
def bench(
    url: Annotated[
        str | None,
        typer.Option(help="An OpenAI-compatible API, as http://host:8000/v1."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask for; may be left out if there is but one.")] = None,
    api: Annotated[str, typer.Option(help="chat or completions.")] = "chat",
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable that has the API key, if any.")
    ] = "OPENAI_API_KEY",
    api_key_file: Annotated[Path | None, typer.Option(help="File that has it instead.")] = None,
    ignore_eos: Annotated[
        bool,
        typer.Option("--ignore-eos/--no-ignore-eos", help="Force answers to their length; not every API knows how."),
    ] = True,
    endpoint_header: Annotated[str, typer.Option(help="Response header that names the engine.")] = "x-sim-engine",
    salt: Annotated[
        str | None,
        typer.Option(help="Part of every text; the same one finds the caches of a run before. Drawn for each call."),
    ] = None,
    timeout: Annotated[str, typer.Option(help="Longest wait for a whole answer.")] = "10m",
    offline: Annotated[bool, typer.Option("--offline", help="Simulate all of it on a virtual clock.")] = False,
    policies: Annotated[
        str | None,
        typer.Option(help=f"Placement policies, by commas. [default: {DEFAULT_POLICIES}; workload E: {POLICIES_OF_E}]"),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(min=0.01, help=f"How many times faster simulated engines run. [default: {SPEED:g}; offline: 1]"),
    ] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Requests wait in the picker, with its defaults.")] = False,
    preset: Annotated[str | None, typer.Option(help="Simulated engines: a preset of igw sim.")] = None,
    engines: Annotated[int | None, typer.Option(min=1, help="How many simulated engines.")] = None,
    prefillers: Annotated[
        int | None, typer.Option(min=1, help="How many of them compute prompts, under pd-split and dynamic-pd-split.")
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option("-w", "--workload", help=f"{', '.join(plans.names())}. [default: sharegpt]"),
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Trace file in Mooncake's JSONL.")] = None,
    trace_speed: Annotated[float, typer.Option(min=0.001, help="How many times faster it is played.")] = 1.0,
    rate: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Open loop: requests a second (chats: conversations)."),
    ] = None,
    clients: Annotated[int | None, typer.Option(min=1, help="Closed loop: requests at a time.")] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    duration: Annotated[str | None, typer.Option(help="Send nothing after this time, as 90s or 5m.")] = None,
    warmup: Annotated[str | None, typer.Option(help="Latencies before this time do not count.")] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="How many seeds.")] = 1,
    tenants: Annotated[int, typer.Option(min=1, help="System prompts there are.")] = 20,
    prefix_tokens: Annotated[int, typer.Option(min=1, help="Length of each.")] = 1_000,
    question_tokens: Annotated[int, typer.Option(min=1, help="Median of questions.")] = 100,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Median of answers.")] = 200,
    turns: Annotated[int, typer.Option(min=1, help="Mean turns of a chat.")] = 4,
    think: Annotated[str, typer.Option(help="Mean pause before a next turn.")] = "1s",
    longest: Annotated[
        int | None,
        typer.Option(min=2, help="Longest prompt and answer together; longer lines of a trace are left out."),
    ] = None,
    slo_ttft: Annotated[str, typer.Option(help="Good: first token within this.")] = "2s",
    slo_tpot: Annotated[str, typer.Option(help="And this for each later one.")] = "100ms",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here as JSON.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write it here as one HTML page.")] = None,
) -> int:
    """Measure a load: against any OpenAI-compatible API (--url), or policy by policy against the whole product on this
    machine with simulated engines, or the same offline on a virtual clock (--offline)."""
    options = locals()
    return _bench(read(options), options)


# ------------------------------------------------------------------------------------------------ the run


def _bench(settings: Settings, options: dict[str, Any]) -> int:
    console = Console(highlight=False)
    progress = Progress(Console(stderr=True, highlight=False))
    plan = plans.build(settings.shape, settings.seeds[0])  # complains before anything is started
    if settings.target is not None:
        settings = replace(settings, target=_run(with_model(settings.target)))
    began = datetime.now(UTC).isoformat(timespec="seconds")
    runs = campaign.offline(settings, progress) if settings.offline else _run(campaign.online(settings, progress))
    report = document(Facts(*_about(settings), _load_of(options, settings), began, plan.left_out), runs, settings.slo)
    console.print(table(report, console.width))
    for line in notes(report):
        console.print(line, markup=False, soft_wrap=True)
    _write(options, report, progress)
    return EXIT_DONE if _any_answer(runs) else EXIT_UNANSWERED


def _any_answer(runs: list[Run]) -> bool:
    return any(one.outcome == ANSWERED for run in runs for one in run.samples)


def _write(options: dict[str, Any], report: dict[str, Any], progress: Progress) -> None:
    for name, render in (("json_file", _as_json), ("html_file", page)):
        path = options[name]
        if path is None:
            continue
        try:
            path.write_text(render(report), encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror}") from None
        progress.says(f"written: {path}")


def _as_json(report: dict[str, Any]) -> str:
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


def _about(settings: Settings) -> tuple[str, str]:
    """Which target, in one word and in a line."""
    if settings.target is not None:
        return "url", f"{settings.target.model} at {settings.target.url}"
    count = len(plans.build(settings.shape, settings.seeds[0]).workload.fleet)
    if settings.offline:
        return "offline", f"{count} simulated engines on a virtual clock, the picker's scheduler; no sockets"
    faster = "" if settings.speed == 1.0 else f", {settings.speed:g} times as fast as their clock; times are theirs"
    return "product", f"Envoy, the picker and {count} simulated engines on this machine{faster}"


# Options that are told elsewhere in the report, are secret, or say nothing of the load; then those that say something
# of some loads and targets only.
_NOT_TOLD = (
    *(
        "url",
        "model",
        "offline",
        "api_key_env",
        "api_key_file",
        "json_file",
        "html_file",
        "slo_ttft",
        "slo_tpot",
        "salt",
    ),
)
_OF_URLS = ("api", "ignore_eos", "endpoint_header", "salt")
_OF_ENGINES = ("offline", "policies", "speed", "queue", "preset", "engines", "prefillers")
_OF_SIZES = ("tenants", "prefix_tokens", "question_tokens", "answer_tokens", "turns", "think")


def _load_of(options: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """What was asked for, as far as it matters."""
    untold = {*_NOT_TOLD, *(_OF_URLS if settings.target is None else _OF_ENGINES)}
    untold |= set() if settings.shape.workload in ("prefixes", "chats") else set(_OF_SIZES)
    untold |= set() if settings.shape.trace is not None else {"trace_speed"}
    untold |= {"timeout"} if settings.offline else set()
    given = {name: value for name, value in options.items() if name not in untold and value is not None}
    told = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    salt = {"salt": settings.target.salt} if settings.target is not None else {}
    ours = {"policies": list(settings.policies), "speed": settings.speed} if settings.target is None else {}
    return {**told, "workload": settings.shape.workload, **ours, **salt}


_Result = TypeVar("_Result")


def _run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """To its end. A signal cancels it, so that what was started is stopped first."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_cancelled_by_signals(work))
        except asyncio.CancelledError:
            sys.exit(128 + signal.SIGTERM)


async def _cancelled_by_signals(work: Coroutine[Any, Any, _Result]) -> _Result:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await work


def _give_up(message: str) -> NoReturn:
    print(f"igw bench: {message}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)
