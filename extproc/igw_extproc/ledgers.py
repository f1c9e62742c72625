"""The ledgers of all known endpoints: a table that follows what is served, and the scraper's sink.

No I/O, no clock: `now` is an argument. `server` wires it, `director` selects a pool's ledgers from it.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from igw_extproc.domain import Endpoint, EngineKind, EngineLoad
from igw_extproc.inflight import Ledger, Mark
from igw_extproc.speeds import PREFILL_S


@dataclass(frozen=True, slots=True)
class LedgerStatistics:
    """One ledger's numbers at one moment, for telemetry and explanations."""

    address: str
    available: bool
    unreachable_reason: str | None
    engine: EngineKind | None
    scraped_at: float | None
    requests: int
    queued: float
    kv_tokens: float
    kv_capacity: int
    backlog_tokens: float
    cache_trust: float = 1.0
    seats: float = 0.0  # 0: not known
    prefill_s: float = PREFILL_S
    step_s: float = 0.0
    gpu: float | None = None
    load: EngineLoad | None = None  # what it said last


class Ledgers:
    """The ledgers of all known endpoints, by address; the scraper's sink.

    `gone(slot)` is called when what an endpoint held in its cache is lost: it restarted, or left. A slot is given to
    another endpoint only after that. `changed(ledger)` is called after each scrape: there may be room, or it is no
    longer available. Unknown addresses are ignored: an endpoint may leave during its scrape.
    """

    def __init__(
        self, gone: Callable[[int], None] | None = None, changed: Callable[[Ledger], None] | None = None
    ) -> None:
        self._gone = gone if gone is not None else _ignore
        self._changed = changed if changed is not None else _nothing
        self._by_address: dict[str, Ledger] = {}
        self._free_slots: list[int] = []
        self.doubts: dict[int, float] = {}  # by slot: what expected tokens are worth where that is not all
        self.gpus: dict[int, float] = {}  # by slot: the share of the time in which GPUs compute, where anybody tells
        self._exported: set[int] = set()  # those of whom an exporter tells

    def __len__(self) -> int:
        return len(self._by_address)

    def __iter__(self) -> Iterator[Ledger]:
        return iter(self._by_address.values())

    def get(self, address: str) -> Ledger | None:
        """The ledger of `address`; None for one that is not known."""
        return self._by_address.get(address)

    def select(self, addresses: Iterable[str]) -> tuple[Ledger, ...]:
        """The known ones of `addresses`, in their order: a pool's ledgers."""
        known = self._by_address
        return tuple(known[address] for address in addresses if address in known)

    def sync(self, endpoints: Collection[Endpoint]) -> None:
        """Make the table hold exactly these. Leases at an endpoint that left still close, on the ledger they hold."""
        wanted = {endpoint.address: endpoint for endpoint in endpoints}
        for address in self._by_address.keys() - wanted.keys():
            ledger = self._by_address.pop(address)
            ledger.available = False
            ledger.doubts = {}  # its slot will be another's
            self.doubts.pop(ledger.slot, None)
            self.gpus.pop(ledger.slot, None)
            self._exported.discard(ledger.slot)
            self._gone(ledger.slot)
            self._free_slots.append(ledger.slot)
        for address, endpoint in wanted.items():
            known = self._by_address.get(address)
            if known is not None:
                known.endpoint = endpoint
                continue
            slot = self._free_slots.pop() if self._free_slots else len(self._by_address)
            self._by_address[address] = Ledger(endpoint, slot, doubts=self.doubts)

    def scrape_started(self, address: str) -> Mark | None:
        """See `Ledger.scrape_started`; None for an unknown address."""
        ledger = self._by_address.get(address)
        return ledger.scrape_started() if ledger is not None else None

    def scraped(self, address: str, mark: object, load: EngineLoad, now: float) -> None:
        """See `Ledger.scraped`. A mark of an earlier ledger at the same address is ignored."""
        ledger = self._by_address.get(address)
        if ledger is not None and isinstance(mark, Mark) and mark.ledger is ledger:
            ledger.scraped(mark, load, now)
            if ledger.slot not in self._exported:
                self._busy(ledger.slot, load.gpu)
            self._changed(ledger)

    def unreachable(self, address: str, reason: str, now: float) -> None:
        """See `Ledger.unreachable`."""
        ledger = self._by_address.get(address)
        if ledger is not None:
            ledger.unreachable(reason)
            self._changed(ledger)

    def restarted(self, address: str) -> None:
        """The engine is a new process: its cache is empty."""
        ledger = self._by_address.get(address)
        if ledger is not None:
            ledger.forget_cache()
            self._gone(ledger.slot)

    def gpu_told(self, address: str, share: float | None) -> None:
        """See `gpu_watch.Sink`. An exporter's word goes before the engine's."""
        ledger = self._by_address.get(address)
        if ledger is None:
            return
        if share is None:
            self._exported.discard(ledger.slot)
        else:
            self._exported.add(ledger.slot)
        self._busy(ledger.slot, share)

    def _busy(self, slot: int, share: float | None) -> None:
        if share is None:
            self.gpus.pop(slot, None)
        else:
            self.gpus[slot] = share

    def statistics(self) -> tuple[LedgerStatistics, ...]:
        """Every ledger's numbers now."""
        return tuple(_statistics(ledger, self.gpus.get(ledger.slot)) for ledger in self._by_address.values())


def _statistics(ledger: Ledger, gpu: float | None) -> LedgerStatistics:
    return LedgerStatistics(
        address=ledger.endpoint.address,
        available=ledger.available,
        unreachable_reason=ledger.unreachable_reason,
        engine=ledger.load.engine if ledger.load is not None else None,
        scraped_at=ledger.scraped_at,
        requests=ledger.requests,
        queued=ledger.queued,
        kv_tokens=ledger.kv_tokens,
        kv_capacity=ledger.kv_capacity,
        backlog_tokens=ledger.backlog_tokens,
        cache_trust=ledger.trust.value,
        seats=ledger.seats.known if ledger.seats.known < math.inf else 0.0,
        prefill_s=ledger.prefill_s,
        step_s=ledger.decode.step or 0.0,
        gpu=gpu,
        load=ledger.load,
    )


def _ignore(slot: int) -> None:
    """Nobody keeps anything by slot."""


def _nothing(ledger: Ledger) -> None:
    """Nobody waits for a change."""
