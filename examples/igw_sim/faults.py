"""Failures on demand: what is broken now, and how that is said on the command line and in `POST /sim/fail`.

State and parsing only; `server` acts on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

# Every failure, with what its value may be. The README explains them.
KINDS: dict[str, str] = {
    "die": "true: close the port and every connection now",
    "die_after": "N: the same, when N more API requests are answered",
    "hang": "true: accept requests, never answer",
    "stall": "true: stop generating; headers, /metrics and /health still work",
    "slow": "FACTOR: every step takes so many times as long",
    "errors": "N: the next N API requests get `error_status`",
    "error_share": "0 to 1: that share of API requests gets `error_status`",
    "error_status": "the status of those, 500 at first",
    "reset": "before, after or cut: reset the connection before any byte or after the first token; or only end it then",
    "reset_next": "N: only the next N API requests are reset",
    "metrics": "ok, hang, 404 or garbage: /metrics only",
    "transfer": "ok, hang or fail: KV that others fetch from here",
    "health": "the status of /health, 200 at first",
}


class BadFault(ValueError):
    """A failure that does not exist, or a value it cannot have."""


@dataclass(slots=True)
class Faults:
    """What is broken now. Counters run down by `take_*`."""

    die: bool = False
    die_after: int | None = None
    hang: bool = False
    stall: bool = False
    slow: float = 1.0
    errors: int = 0
    error_share: float = 0.0
    error_status: int = 500
    reset: str | None = None
    reset_next: int | None = None
    metrics: str = "ok"
    transfer: str = "ok"
    health: int = 200

    def set(self, changes: Mapping[str, Any]) -> None:
        """Apply changes, all or none; `{"clear": true}` in them first undoes everything. BadFault on nonsense."""
        checked = {name: _check(name, value) for name, value in changes.items() if name != "clear"}
        if changes.get("clear"):
            for name, value in _HEALTHY.items():
                setattr(self, name, value)
        for name, value in checked.items():
            setattr(self, name, value)

    def take_error(self, rng: Random) -> int | None:
        """The status to fail this API request with, if it is to fail."""
        if self.errors > 0:
            self.errors -= 1
            return self.error_status
        if self.error_share and rng.random() < self.error_share:
            return self.error_status
        return None

    def take_reset(self) -> str | None:
        """How to break this API request's connection, if at all: "before", "after" or "cut"."""
        if self.reset is None or self.reset_next == 0:
            return None
        if self.reset_next is not None:
            self.reset_next -= 1
        return self.reset

    def answered(self) -> bool:
        """Count one API request answered; True when the engine is to die of it."""
        if self.die_after is None:
            return False
        self.die_after -= 1
        return self.die_after <= 0


_HEALTHY = {name: getattr(Faults(), name) for name in KINDS}
_CHOICES = {
    "reset": ("before", "after", "cut"),
    "metrics": ("ok", "hang", "404", "garbage"),
    "transfer": ("ok", "hang", "fail"),
}
_LEAST = {"die_after": 1, "errors": 0, "reset_next": 0, "error_status": 400, "health": 200}


def parse(text: str) -> dict[str, Any]:
    """`NAME=VALUE`, or `NAME` for `NAME=true`, as on the command line. BadFault on nonsense."""
    name, _, value = text.partition("=")
    if name not in KINDS:
        raise BadFault(f"no failure is called {name!r}; there are {', '.join(KINDS)}")
    if value in ("", "true", "false"):
        return {name: _check(name, value != "false")}
    if name in _CHOICES:
        return {name: _check(name, value)}
    try:
        return {name: _check(name, int(value) if name in _LEAST else float(value))}
    except ValueError as error:
        raise error if isinstance(error, BadFault) else BadFault(f"{name}: {value!r} is not a number") from None


def _check(name: str, value: Any) -> Any:
    if name not in KINDS:
        raise BadFault(f"no failure is called {name!r}; there are {', '.join(KINDS)}")
    healthy = _HEALTHY[name]
    if value is None and healthy is None:
        return None
    if isinstance(healthy, bool):
        good = isinstance(value, bool)
    elif name in _CHOICES:
        good = value in _CHOICES[name]
    elif name in _LEAST:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= _LEAST[name]
    else:
        good = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        good = good and (value <= 1 if name == "error_share" else value > 0)
    if not good:
        raise BadFault(f"{name} cannot be {value!r}; it is {KINDS[name]}")
    return value
