"""Who wrote what to an API server, read from its audit log: for tests that count writes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_READS: Final = ("get", "list", "watch")
# What an operator writes all the time: that it is there.
_SIGNS_OF_LIFE: Final = ("leases", "clusterkopfpeerings")


@dataclass(slots=True)
class Audit:
    """The part of a log that was written since this was made, or since `begin`."""

    log: Path
    start: int = 0

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget what was logged until now."""
        self.start = self.log.stat().st_size

    def writes(self, account: str, namespace: str) -> list[str]:
        """Those of the ServiceAccounts of the namespace `account` to objects in `namespace`, in order."""
        return [
            f"{event['verb']} {place['resource']}/{place.get('name', '')}"
            for event in self._events()
            if event["user"]["username"].startswith(f"system:serviceaccount:{account}:")
            and event["verb"] not in _READS
            and (place := event.get("objectRef", {})).get("namespace") == namespace
            and place["resource"] not in _SIGNS_OF_LIFE
        ]

    def _events(self) -> Iterator[dict[str, Any]]:
        with self.log.open("rb") as log:
            log.seek(self.start)
            for line in log:
                if line.endswith(b"\n"):
                    yield json.loads(line)
