"""The text of `igw explain`: one request's way, from the picker's JSON. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def page(told: Mapping[str, Any]) -> RenderableType:
    """Everything about one request."""
    parts: list[RenderableType] = [Text(line) for line in lines(told)]
    for weighed in told.get("weighed", ()):
        parts += [Text(""), _table(weighed)]
    return Group(*parts)


def lines(told: Mapping[str, Any]) -> Iterator[str]:
    """What happened, in order."""
    yield f"request {told['request_id'] or '(unnamed)'}, {told['age_s']:.1f} s ago"
    if told["outcome"] == "refused":
        yield f"refused with {told['status']} ({told['code']}): {told['message']}"
        return
    model = f", model {told['model']}" if told["model"] else ""
    yield f"{told['outcome']} in pool {told['pool']}{model}"
    if told["outcome"] == "diverted":
        yield f"  to its standby {told['standby']}, since the pool was {told['reason']}"
    if "endpoint" in told:
        yield from _course(told)


def _course(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"  waited {_seconds(told['waited_s'])} in the picker, lease {told['lease']}"
    for why in told["decided_by"]:
        yield f"  decided by {why}"
    if told["prefiller"] is not None:
        yield f"  prompt at {told['prefiller']}"
    first = told["order"][0]
    yield f"  {'served' if told['endpoint'] == first else 'first choice'} {first}" + _others(told["order"][1:])
    if told["endpoint"] != first:
        yield f"  served {told['endpoint']}"
    if told["failed_tries"]:
        yield f"  tries failed at {', '.join(told['failed_tries'])}"
    yield f"  expected {told['cached_tokens_expected']} cached tokens, first token in " + _seconds(
        told["first_token_predicted_s"]
    )
    yield f"  {_answer(told)}"


def _others(rest: Sequence[str]) -> str:
    return f", then {', '.join(rest)} for retries" if rest else ""


def _answer(told: Mapping[str, Any]) -> str:
    parts = []
    if told["first_byte_s"] is not None:
        parts.append(f"first byte after {_seconds(told['first_byte_s'])}")
    if told["status"] is not None:
        parts.append(f"status {told['status']}")
    if told["prompt_tokens"] is not None:
        parts.append(f"{told['prompt_tokens']} prompt and {told['answer_tokens'] or 0} answer tokens")
    ended = told["took_s"]
    parts.append(f"ended after {_seconds(ended)}" if ended is not None else f"running {_seconds(told['running_s'])}")
    return ", ".join(parts)


def _table(weighed: Mapping[str, Any]) -> Table:
    shown = weighed["candidates"]
    rest = f", {len(shown)} shown" if len(shown) < weighed["of"] else ""
    title = f"{weighed['policy']}, {weighed['of']} candidates for {_ROLES[weighed['role']]}{rest}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("ENDPOINT")
    table.add_column("COST", justify="right")
    table.add_column("CACHED TOKENS", justify="right")
    table.add_column("")
    for one in shown:
        cost = f"{one['cost']:.6g}" if one["cost"] is not None else "not allowed"
        table.add_row(one["endpoint"], cost, str(one["cached_tokens"]), "chosen" if one["chosen"] else "")
    return table


_ROLES = {"both": "the request", "prefill": "its prompt", "decode": "its answer"}


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
