"""The screen of `igw top`: pools, endpoints, queues and refusals, from two states of a picker. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


class Seen(NamedTuple):
    """One picker's `/state`, and when it was read, in seconds of any one clock."""

    at: float
    state: Mapping[str, Any]


def screen(picker: str, before: Seen | None, now: Seen) -> RenderableType:
    """The pools of one picker. `before`: an earlier look, for what happens in a second."""
    parts: list[RenderableType] = [Text(f"picker {picker}: {_outcomes(before, now)}", style="bold")]
    for pool in now.state["pools"]:
        former = _pool(before, pool["name"])
        parts += [Text(""), Text(_summary(pool, former, _elapsed(before, now))), _table(pool, former, before, now)]
    if not now.state["pools"]:
        parts.append(Text("no pools"))
    return Group(*parts)


def _elapsed(before: Seen | None, now: Seen) -> float:
    return now.at - before.at if before is not None else 0.0


def _pool(seen: Seen | None, name: str) -> Mapping[str, Any] | None:
    pools = seen.state["pools"] if seen is not None else ()
    return next((pool for pool in pools if pool["name"] == name), None)


def _outcomes(before: Seen | None, now: Seen) -> str:
    """Requests a second by outcome, or all of them at the first look."""
    counts: Mapping[str, int] = now.state["outcomes"]
    if before is None:
        return ", ".join(f"{count} {name}" for name, count in counts.items()) or "no requests yet"
    former, elapsed = before.state["outcomes"], _elapsed(before, now)
    rates = {name: (count - former.get(name, 0)) / elapsed for name, count in counts.items()}
    return ", ".join(f"{rate:.1f}/s {name}" for name, rate in rates.items() if rate > 0) or "quiet"


def _summary(pool: Mapping[str, Any], former: Mapping[str, Any] | None, elapsed: float) -> str:
    parts = [f"pool {pool['name']}", str(pool["policy"]), f"{pool['waiting']} waiting"]
    first = _first_byte(pool, former)
    if first is not None:
        parts.append(f"TTFT {first * 1000:.0f} ms in the mean")
    if former is not None and elapsed > 0:
        ends = {name: count - former["queue_ends"].get(name, 0) for name, count in pool["queue_ends"].items()}
        parts += [f"{count / elapsed:.1f}/s {name}" for name, count in ends.items() if count and name != "dispatched"]
    if pool["unseen"]:
        parts.append("its Pods cannot be listed: the proxy chooses")
    return ", ".join(parts)


def _first_byte(pool: Mapping[str, Any], former: Mapping[str, Any] | None) -> float | None:
    """Seconds, of those since the last look; of all, at the first one."""
    count, total = pool["first_bytes"], pool["first_byte_s_total"]
    if former is not None and count > former["first_bytes"]:
        count, total = count - former["first_bytes"], total - former["first_byte_s_total"]
    return total / count if count else None


def _table(pool: Mapping[str, Any], former: Mapping[str, Any] | None, before: Seen | None, now: Seen) -> RenderableType:
    if not pool["endpoints"]:
        return Text("  no endpoints")
    table = Table(box=None, pad_edge=False)
    table.add_column("ENDPOINT")
    table.add_column("STATE")
    table.add_column("ENGINE")
    for name in ("RUNNING", "WAITING", "IN FLIGHT", "KV", "REQ/S", "SHARE"):
        table.add_column(name, justify="right")
    known = {one["address"]: one for one in former["endpoints"]} if former is not None else {}
    for one in pool["endpoints"]:
        style = None if one["state"] == "available" else "red"
        table.add_row(*_cells(one, known.get(one["address"]), _elapsed(before, now)), style=style)
    return table


def _cells(one: Mapping[str, Any], former: Mapping[str, Any] | None, elapsed: float) -> Iterator[str]:
    yield one["address"]
    yield one["state"]
    yield one["engine"] or "-"
    yield _number(one["running"])
    yield _number(one["waiting"])
    yield str(one["in_flight"])
    yield _percent(one["kv_use"])
    yield f"{(one['placed'] - former['placed']) / elapsed:.1f}" if former is not None and elapsed > 0 else "-"
    yield _percent(one["share"])


def _number(value: float | None) -> str:
    return f"{value:.0f}" if value is not None else "-"


def _percent(value: float | None) -> str:
    return f"{value:.0%}" if value is not None else "-"
