"""The command line: `igw sim` and `python -m igw_sim`. Starts engines, says where they listen, stops on a signal."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, NoReturn

import typer
import uvloop

from igw_sim import faults, presets
from igw_sim.dialects import DIALECTS
from igw_sim.lengths import Lengths
from igw_sim.presets import PRESETS
from igw_sim.server import SimServer
from igw_sim.settings import Settings
from igw_sim.splits import ROLES

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="Simulated LLM engines.")


class BadOption(ValueError):
    """An option, or a combination of options, that cannot be."""


@app.command()
def sim(
    port: Annotated[int, typer.Option(help="Port of the first engine; 0 lets the system choose.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    engine: Annotated[str, typer.Option(help=f"Metrics dialect: {', '.join(DIALECTS)}.")] = "vllm",
    model: Annotated[list[str] | None, typer.Option(help="Served model name; may be repeated.")] = None,
    lora: Annotated[list[str] | None, typer.Option(help="Adapter served as a model; may be repeated.")] = None,
    max_loras: Annotated[int | None, typer.Option(help="Adapter slots; as many as adapters by default.")] = None,
    name: Annotated[str, typer.Option(help="Name in `x-sim-engine`; numbered when --count is above 1.")] = "sim",
    preset: Annotated[
        str, typer.Option(help=f"Size and speed: {', '.join(PRESETS)}, or a JSON file with `limits` and `speed`.")
    ] = "a10-llama2-7b",
    time_scale: Annotated[float, typer.Option(help="How many times faster than the preset.")] = 1.0,
    count: Annotated[int, typer.Option(help="Engines in this process, each on its own port.")] = 1,
    engines: Annotated[int, typer.Option(help="Data-parallel ranks behind each port (vllm only).")] = 1,
    headers: Annotated[str, typer.Option(help="When streams send headers: early or first-token.")] = "early",
    output_tokens: Annotated[
        str, typer.Option(help="Natural reply length: fixed:N, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA.")
    ] = "lognormal:128:0.7",
    kv_blocks: Annotated[int | None, typer.Option(help="KV blocks, instead of the preset's.")] = None,
    max_sequences: Annotated[int | None, typer.Option(help="Largest batch, instead of the preset's.")] = None,
    write_every: Annotated[int, typer.Option(help="Tokens that a stream sends at a time, after the first.")] = 1,
    role: Annotated[
        str, typer.Option(help=f"With --engine sglang, its disaggregation mode: {', '.join(ROLES)}.")
    ] = "both",
    kv_bandwidth: Annotated[
        float | None, typer.Option(help="Bytes per second of KV between engines, instead of the preset's.")
    ] = None,
    kv_bytes_per_token: Annotated[
        float | None, typer.Option(help="Size of one token's KV, instead of the preset's.")
    ] = None,
    kv_lease: Annotated[float, typer.Option(help="Seconds that KV waits for the engine that is to fetch it.")] = 30.0,
    jitter: Annotated[float, typer.Option(help="Share by which step times vary.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    fail: Annotated[list[str] | None, typer.Option(help="Failure from the start, NAME=VALUE; may be repeated.")] = None,
    grace: Annotated[float, typer.Option(help="Seconds that SIGTERM leaves to running requests.")] = 5.0,
) -> None:
    """Run simulated LLM engines until SIGTERM or Ctrl-C."""
    options = locals()
    try:
        settings = _settings(options)
        broken: dict[str, Any] = {}
        for text in fail or []:
            broken |= faults.parse(text)
    except ValueError as error:
        _give_up(str(error))
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_serve(settings, host, port, broken)))


_CHOICES = {
    "engine": ("dialect", tuple(DIALECTS)),
    "headers": ("way", ("early", "first-token")),
    "role": ("role", ROLES),
}


def _settings(options: dict[str, Any]) -> list[Settings]:
    """One `Settings` for each engine; BadOption if they make no sense."""
    for name, (kind, choices) in _CHOICES.items():
        if options[name] not in choices:
            raise BadOption(f"--{name} {options[name]}: no such {kind}; there are {', '.join(choices)}")
    if options["time_scale"] <= 0:
        raise BadOption("--time-scale must be above 0")
    if not 0 <= options["jitter"] < 1:
        raise BadOption("--jitter must be 0 or more, and below 1")
    if options["write_every"] < 1:
        raise BadOption("--write-every must be at least 1")
    if options["count"] < 1 or options["engines"] < 1:
        raise BadOption("--count and --engines must be at least 1")
    # vLLM itself reports no adapters when it has several ranks.
    if options["engines"] > 1 and (options["engine"] != "vllm" or options["lora"]):
        raise BadOption("--engines above 1 needs --engine vllm, and no --lora")
    if not 0 <= options["port"] <= 65536 - options["count"]:
        raise BadOption(f"--port {options['port']}: no such port")
    base = _one(options)
    if options["count"] == 1:
        return [base]
    return [replace(base, name=f"{base.name}-{index}") for index in range(options["count"])]


def _one(options: dict[str, Any]) -> Settings:
    try:
        preset = presets.load(options["preset"])
    except ValueError as error:
        raise BadOption(f"--preset {error}") from None
    adapters = tuple(options["lora"] or ())
    slots = options["max_loras"] if options["max_loras"] is not None else len(adapters)
    if adapters and slots < 1:
        raise BadOption("--max-loras must be at least 1 when there are adapters")
    limits = replace(
        preset.limits,
        kv_blocks=options["kv_blocks"] if options["kv_blocks"] is not None else preset.limits.kv_blocks,
        max_sequences=(
            options["max_sequences"] if options["max_sequences"] is not None else preset.limits.max_sequences
        ),
        max_adapters=slots,
    )
    if min(options[name] or 1 for name in ("kv_bandwidth", "kv_bytes_per_token", "kv_lease")) <= 0:
        raise BadOption("--kv-bandwidth, --kv-bytes-per-token and --kv-lease must be above 0")
    transfer = replace(
        preset.transfer,
        bytes_per_s=options["kv_bandwidth"] or preset.transfer.bytes_per_s,
        bytes_per_token=options["kv_bytes_per_token"] or preset.transfer.bytes_per_token,
    )
    return Settings(
        name=options["name"],
        limits=limits,
        speed=replace(preset.speed.faster(options["time_scale"]), jitter=options["jitter"]),
        dialect=options["engine"],
        models=tuple(options["model"] or ("sim-model",)),
        adapters=adapters,
        lengths=Lengths.parse(options["output_tokens"]),
        early_headers=options["headers"] == "early",
        ranks=options["engines"],
        role=options["role"],
        transfer=transfer.faster(options["time_scale"]),
        lease_s=options["kv_lease"],
        seed=options["seed"],
        write_every=options["write_every"],
        grace_s=options["grace"],
    )


async def _serve(settings: Sequence[Settings], host: str, port: int, broken: dict[str, Any]) -> int:
    """Run all engines; 0 after a signal, 1 when all have died, 2 if an address cannot be had."""
    servers = [SimServer(one) for one in settings]
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(server.run()) for server in servers]
        try:
            for index, server in enumerate(servers):
                try:
                    address = await server.start(host, port + index if port else 0)
                except OSError as error:
                    # Errors of name resolution have numbers of their own, below 0.
                    code = error.errno or 0
                    reason = os.strerror(code) if code > 0 else error.strerror or str(error)
                    print(f"igw sim: cannot listen on {host}:{port + index}: {reason}", file=sys.stderr)
                    return 2
                await server.break_with(broken)
                one = server.settings
                print(
                    f"igw sim listening name={one.name} engine={one.dialect} address={address[0]}:{address[1]}",
                    flush=True,
                )
            watcher = group.create_task(_all_died(servers, stopping))
            tasks.append(watcher)
            await stopping.wait()
            return 1 if all(server.died.is_set() for server in servers) else 0
        finally:
            for server in servers:
                await server.stop()
            for task in tasks:
                task.cancel()


async def _all_died(servers: Sequence[SimServer], stopping: asyncio.Event) -> None:
    for server in servers:
        await server.died.wait()
    stopping.set()


def _give_up(message: str) -> NoReturn:
    print(f"igw sim: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """The entry point; reads `sys.argv`."""
    try:
        app(standalone_mode=False)
    except typer.TyperException as error:
        _give_up(error.format_message())
