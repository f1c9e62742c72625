"""The API server's audit log, counted: who wrote what when, and who calls though nothing changes. Pure but for `Log`.

One line is one audit.k8s.io/v1 Event of level Metadata. A watch has two, at its beginning and its end; it counts once.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

_WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_POD: Final = "authentication.kubernetes.io/pod-name"
PEERINGS: Final = "clusterkopfpeerings"


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `at`: seconds since the epoch, when it had been answered, or its watch began."""

    at: float
    user: str
    pod: str
    verb: str
    resource: str
    code: int

    @property
    def writes(self) -> bool:
        """Whether it was to change something."""
        return self.verb in _WRITES

    @property
    def of_the_peering(self) -> bool:
        """Whether operators spoke to each other."""
        return self.resource == PEERINGS


@dataclass(frozen=True, slots=True)
class Idle:
    """Calls of a minute. `peering` are among `calls`, watches are not."""

    calls: float
    peering: float
    watches: float
    kinds: Counter[str]


@dataclass(slots=True)
class Log:
    """Reads on from where it was."""

    path: Path
    _offset: int = 0

    def skip(self) -> None:
        """Forget what was written so far."""
        self._offset = self.path.stat().st_size

    def calls(self) -> list[Call]:
        """What came since the last time. A line that is not whole yet comes next time."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return list(parse(whole.splitlines()))


def parse(lines: Iterable[bytes]) -> Iterator[Call]:
    """The calls that lines tell of, each once."""
    for line in lines:
        event: dict[str, Any] = json.loads(line)
        watch = event["verb"] == "watch"
        if event["stage"] != ("ResponseStarted" if watch else "ResponseComplete"):
            continue
        thing = event.get("objectRef", {})
        name = "/".join(filter(None, (thing.get("resource"), thing.get("subresource"))))
        yield Call(
            at=datetime.fromisoformat(event["stageTimestamp"]).timestamp(),
            user=event["user"].get("username", ""),
            pod=event["user"].get("extra", {}).get(_POD, [""])[0],
            verb=event["verb"],
            resource=name or event["requestURI"].partition("?")[0],
            code=event.get("responseStatus", {}).get("code", 0),
        )


def writes(calls: Iterable[Call], user: str) -> list[Call]:
    """What a user wrote, but for the peering's record."""
    return [one for one in calls if one.user == user and one.writes and not one.of_the_peering]


def idle(calls: Iterable[Call], user: str, seconds: float) -> Idle:
    """A user's calls in so many seconds, by the minute. `kinds`: what they are, as they were counted."""
    own = [one for one in calls if one.user == user]
    plain = [one for one in own if one.verb != "watch"]
    per_minute = 60.0 / seconds
    return Idle(
        calls=len(plain) * per_minute,
        peering=sum(one.of_the_peering for one in plain) * per_minute,
        watches=(len(own) - len(plain)) * per_minute,
        kinds=Counter(f"{one.verb} {one.resource}" for one in own),
    )
