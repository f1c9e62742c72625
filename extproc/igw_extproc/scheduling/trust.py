"""Which prefillers fail although their metrics pages are fine: they get no prompts for a while. Pure.

The proxy ejects endpoints that fail by what it sees of their responses; of prefillers it sees none, so the picker does
the same with what sidecars say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from igw_extproc.inflight import Ledger

# As the proxy's own rule: after so many failures in a row, so many seconds times the number of times so far.
IN_A_ROW: Final = 3
SECONDS: Final = 5.0
LONGEST: Final = 60.0


@dataclass(slots=True)
class _Record:
    failures: int = 0  # in a row
    times: int = 0
    until: float = 0.0


class Trust:
    """By endpoint, what sidecars said of its prompts."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}

    def failed(self, address: str, now: float) -> None:
        """It did not compute a prompt, or its KV did not arrive."""
        record = self._records.setdefault(address, _Record())
        if now < record.until:
            return  # one that was sent before
        record.failures += 1
        if record.failures >= IN_A_ROW:
            record.failures = 0
            record.times += 1
            record.until = now + min(SECONDS * record.times, LONGEST)

    def succeeded(self, address: str) -> None:
        """It did."""
        self._records.pop(address, None)

    def trusted(self, ledgers: Sequence[Ledger], now: float) -> list[Ledger]:
        """Those that may get prompts now. May be empty."""
        records = self._records
        if not records:
            return list(ledgers)
        return [one for one in ledgers if (found := records.get(one.endpoint.address)) is None or now >= found.until]
