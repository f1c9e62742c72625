"""Options of the command line, checked, as a campaign's settings. Reads nothing but the key's file. Called by `cli`."""

import os
import re
import secrets
from collections.abc import Sequence
from typing import Any

from igw_bench.command import plans, virtual
from igw_bench.command.campaign import AS_IT_IS, Settings
from igw_bench.command.client import Target
from igw_bench.command.document import BASELINE
from igw_bench.command.figures import Slo
from igw_bench.command.plans import Shape
from igw_bench.command.samples import BadInput
from igw_bench.peers import PEERS
from igw_extproc.scheduling.policies import DEFAULT, POLICIES, SPLITS

# Of simulated engines over sockets: what two cores carry with little of it to be seen (docs/benchmarks/live.md).
SPEED = 5.0
DEFAULT_POLICIES = f"{BASELINE},least-request,llm-metric,prefix-cache"
# Where mixed and divided fleets are compared: the first is the mixed one.
POLICIES_OF_E = ",".join((DEFAULT, *SPLITS))
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|)")


def settings(options: dict[str, Any]) -> Settings:
    """All of the options, checked. BadInput."""
    _check_together(options)
    given = None if options["url"] is None else _target(options)
    names = [AS_IT_IS] if given else _policies(options)
    shape = _shape(options, bounded=given is None)
    if given is None:
        _check_policies(names, shape, options)
    return Settings(
        shape=shape,
        policies=names,
        seeds=range(1, options["seeds"] + 1),
        slo=Slo(_seconds(options["slo_ttft"], "--slo-ttft"), _seconds(options["slo_tpot"], "--slo-tpot")),
        target=given,
        offline=options["offline"],
        speed=options["speed"] or (1.0 if given or options["offline"] else SPEED),
        queue=options["queue"],
        prefillers=options["prefillers"],
        timeout=_seconds(options["timeout"], "--timeout"),
    )


# Options that say something of one kind of target only.
_ONLY_URL = ("model", "api_key_file", "salt")
_NOT_URL = ("offline", "policies", "queue", "preset", "engines", "prefillers")


def _check_together(options: dict[str, Any]) -> None:
    wrong = _NOT_URL if options["url"] is not None else _ONLY_URL
    for name in wrong:
        if options[name]:
            verb = "does not go with" if options["url"] is not None else "needs"
            raise BadInput(f"--{name.replace('_', '-')} {verb} --url")
    if options["url"] is not None and options["speed"] is not None:
        raise BadInput("--speed is for simulated engines: it does not go with --url")
    if options["rate"] is not None and options["clients"] is not None:
        raise BadInput("--rate (open loop) and --clients (closed loop) exclude each other")
    for name in ("json_file", "html_file"):
        folder = options[name] and options[name].absolute().parent
        if folder and not folder.is_dir():
            raise BadInput(f"{options[name]}: no such folder")


def _policies(options: dict[str, Any]) -> list[str]:
    known = virtual.known() if options["offline"] else (*POLICIES, *SPLITS)
    usual = POLICIES_OF_E if options["workload"] == "E" else DEFAULT_POLICIES
    names = [one.strip() for one in (options["policies"] or usual).split(",")]
    for name in names:
        if name not in known:
            raise BadInput(f"--policies {name}: no such policy; there are {', '.join(known)}")
    return list(dict.fromkeys(names))


def _check_policies(names: Sequence[str], shape: Shape, options: dict[str, Any]) -> None:
    """Whether each of them can place this load."""
    theirs, divided = [one for one in names if one in PEERS], [one for one in names if one in SPLITS]
    prefillers = options["prefillers"]
    if theirs and options["queue"]:
        raise BadInput(f"--queue does not go with --policies {theirs[0]}: other routers' rules have none")
    if prefillers is not None and not divided:
        raise BadInput(f"--prefillers needs --policies {' or '.join(SPLITS)}")
    if not divided:
        return
    workload = plans.build(shape, 1).workload
    engines = len(workload.fleet)
    if engines < 2:
        raise BadInput(f"--policies {divided[0]} needs two engines or more: see --engines")
    if prefillers is not None and prefillers >= engines:
        raise BadInput(f"--prefillers {prefillers}: of {engines} engines one must answer")
    if options["offline"] and workload.changes:
        raise BadInput(f"--policies {divided[0]}: engines of workload {shape.workload} die, which is not simulated")


def _shape(options: dict[str, Any], bounded: bool) -> Shape:
    """`bounded`: by the sizes of simulated engines. What a real one refuses is for it to say."""
    workload = options["workload"] or ("trace" if options["trace"] is not None else "sharegpt")
    if options["trace"] is not None and workload != "trace":
        raise BadInput(f"--trace does not go with --workload {workload}")
    times: dict[str, Any] = {
        name: _seconds(options[name], f"--{name}") for name in ("duration", "warmup", "think") if options[name]
    }
    longest = options["longest"] if bounded or options["longest"] is not None else 1 << 30
    given: dict[str, Any] = {name: options[name] for name in _SAME}
    return Shape(workload=workload, longest=longest, **times, **given)


# Options that are fields of a Shape under the same name.
_SAME = (
    *("requests", "rate", "clients", "trace", "trace_speed", "tenants", "prefix_tokens", "question_tokens"),
    *("answer_tokens", "turns", "preset", "engines"),
)


def _seconds(text: str, option: str) -> float:
    """`250ms`, `90s`, `5m`, `1h`, or a number of seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise BadInput(f"{option} {text}: must be a time such as 250ms, 90s or 5m")
    return float(match[1]) * _UNITS[match[2]]


def _target(options: dict[str, Any]) -> Target:
    url = options["url"].rstrip("/")
    if not re.match(r"https?://[^/\s]", url):
        raise BadInput(f"--url {url}: must begin with http:// or https:// and a host")
    if options["api"] not in ("chat", "completions"):
        raise BadInput(f"--api {options['api']}: must be chat or completions")
    key = _key(options)
    return Target(
        url,
        options["model"] or "",
        headers={"authorization": f"Bearer {key}"} if key else {},
        chat=options["api"] == "chat",
        ends="forced" if options["ignore_eos"] else "told",
        timeout=_seconds(options["timeout"], "--timeout"),
        endpoint_header=options["endpoint_header"],
        salt=secrets.token_hex(4) if options["salt"] is None else options["salt"],
    )


def _key(options: dict[str, Any]) -> str:
    """Never from the command line, which other users of the machine can read."""
    path = options["api_key_file"]
    if path is None:
        return os.environ.get(options["api_key_env"], "").strip()
    try:
        return str(path.read_text()).strip()
    except (OSError, UnicodeDecodeError):
        raise BadInput(f"--api-key-file {path}: cannot be read") from None
