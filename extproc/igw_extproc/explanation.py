"""Why a request went where it went, as plain values for JSON and in one line. Pure.

Called by `pages` when somebody asks, and by `conversation` for requests that want it in their response's headers.
"""

import math
from typing import Any, Final

from igw_api.split import Role
from igw_extproc.flight import Flight
from igw_extproc.history import Diverted, Refused, Told, flight_of
from igw_extproc.inflight import Ledger
from igw_extproc.scheduling.framework import Decision, Weighed

# Of long lists of candidates only the best are told, and the chosen one.
MOST_TOLD: Final = 20


def explained(told: Told, now: float) -> dict[str, Any]:
    """All about one request. Times in seconds; `age_s`: since it arrived."""
    found: dict[str, Any] = {"request_id": told.request_id, "age_s": _seconds(now - told.arrived_at)}
    if isinstance(told, Refused):
        refusal = {"status": told.status, "code": told.code, "message": told.message}
        return {**found, "outcome": "refused", "pool": "", "model": "", **refusal}
    found |= {"outcome": "placed", "pool": told.pool, "model": told.model}
    if isinstance(told, Diverted):
        found |= {"outcome": "diverted", "standby": told.standby, "reason": told.reason}
    flight = flight_of(told)
    return found if flight is None else {**found, **_course(flight, told.arrived_at, now)}


def listed(told: Told, now: float) -> dict[str, Any]:
    """The same without what was weighed: a row of a list."""
    return {name: value for name, value in explained(told, now).items() if name != "weighed"}


def in_a_line(flight: Flight) -> str:
    """For a response header: `endpoint=10.0.0.1:8000; policy=prefix-cache; cost=0.012; ...`."""
    decision = flight.decision
    parts = {"endpoint": decision.order[0].endpoint.address}
    if decision.prefiller is not None:
        parts["prefiller"] = decision.prefiller.endpoint.address
    for weighed in decision.weighed:
        at = _chosen(weighed, decision)
        if at is None:
            continue
        role = "" if len(decision.weighed) == 1 else f"{weighed.role}-"
        parts[f"{role}policy"] = weighed.policy
        parts[f"{role}cost"] = f"{weighed.costs[at]:.6g}"
        parts[f"{role}candidates"] = str(len(weighed.candidates))
    parts["cached"] = str(decision.cached_tokens)
    parts["predicted"] = f"{decision.first_token_s:.3f}"
    parts["waited"] = f"{flight.placed_at - flight.arrived_at:.3f}"
    return "; ".join(f"{name}={value}" for name, value in parts.items())


def _course(flight: Flight, arrived_at: float, now: float) -> dict[str, Any]:
    decision, first_byte, ended = flight.decision, flight.first_byte_at, flight.ended_at
    return {
        "lease": flight.lease_id,
        "waited_s": _seconds(flight.placed_at - arrived_at),
        "endpoint": _address(flight.place),
        "order": [_address(one) for one in decision.order],
        "prefiller": _address(decision.prefiller) if decision.prefiller is not None else None,
        "decided_by": [_why(one, decision) for one in decision.weighed if _chosen(one, decision) is not None],
        "cached_tokens_expected": decision.cached_tokens,
        "first_token_predicted_s": _seconds(decision.first_token_s),
        "first_byte_s": _seconds(first_byte - flight.placed_at) if first_byte is not None else None,
        "status": flight.status or None,
        "failed_tries": [_address(one) for one in flight.failed],
        "prompt_tokens": flight.prompt_tokens or None,
        "answer_tokens": flight.answer_tokens or None,
        "running_s": _seconds(now - flight.placed_at) if ended is None else None,
        "took_s": _seconds(ended - arrived_at) if ended is not None else None,
        "weighed": [_weighed(one, decision) for one in decision.weighed],
    }


def _weighed(weighed: Weighed, decision: Decision) -> dict[str, Any]:
    """The candidates, the cheapest first."""
    chosen = _chosen(weighed, decision)
    order = sorted(range(len(weighed.candidates)), key=lambda at: (weighed.costs[at], at != chosen))
    told = order[:MOST_TOLD]
    if chosen is not None and chosen not in told:
        told = [*told, chosen]
    return {
        "role": weighed.role.value,
        "policy": weighed.policy,
        "of": len(order),
        "candidates": [
            {
                "endpoint": _address(weighed.candidates[at]),
                "cost": round(weighed.costs[at], 6) if math.isfinite(weighed.costs[at]) else None,
                "cached_tokens": weighed.cached.get(weighed.candidates[at].slot, 0),
                "chosen": at == chosen,
            }
            for at in told
        ],
    }


def _why(weighed: Weighed, decision: Decision) -> str:
    """What decided this choice, in words."""
    at = _chosen(weighed, decision)
    assert at is not None, "somebody was chosen among them"
    mine = weighed.costs[at]
    others = [cost for other, cost in enumerate(weighed.costs) if other != at]
    if not others:
        return "the only candidate"
    least = min(others)
    if mine < least:
        return f"the lowest cost of {len(weighed.costs)}, {mine:.6g}; the next has {least:.6g}"
    if mine == least == max(others):
        return f"all {len(weighed.costs)} cost the same: by turn or by chance"
    if mine == least:
        return f"the lowest cost of {len(weighed.costs)}, {mine:.6g}, with others: by chance"
    return f"cost {mine:.6g}, though {least:.6g} was the lowest: the choice was for both parts of the request together"


def _chosen(weighed: Weighed, decision: Decision) -> int | None:
    """Where the one is that got the request, if this choice was the one that counted."""
    wanted = decision.prefiller if weighed.role is Role.PREFILL else decision.order[0]
    if weighed.role is Role.BOTH and decision.prefiller is not None:
        return None
    if weighed.role is Role.DECODE and decision.prefiller is None:
        return None
    return next((at for at, one in enumerate(weighed.candidates) if one is wanted), None)


def _address(ledger: Ledger) -> str:
    return ledger.endpoint.address


def _seconds(value: float) -> float:
    return round(value, 6)
