"""Which endpoints fail requests although their metrics pages are fine: they get none for a while. Pure.

A state for each endpoint:

    healthy --fails--> ejected --time is over--> probed --all succeed--> returning --slow start is over--> healthy
                          ^------- any failure ----'

*Ejected*, it is no candidate. *Probed*, it is one for a few requests at a time, which must succeed. *Returning*, for
twice as many, and one more for each that succeeds. An endpoint that says that it is full is left alone for a second.

Requests that go well only add to a number: all else happens where one fails, or where somebody is not healthy. Failures
come from `reports`; `director` asks who is out; `server` calls `tick` at the time that `due` names.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from igw_api.resilience import PassiveHealth
from igw_extproc.inflight import Ledger

log = logging.getLogger(__name__)

REST_S: Final = 1.0
# As Envoy has it: in a row count answers for which a proxy before the engine may stand, and what has no answer at all.
_GATEWAY: Final = frozenset((502, 503, 504))


class State(Enum):
    """Of an endpoint, see above."""

    HEALTHY = "healthy"
    EJECTED = "ejected"
    PROBED = "probed"
    RETURNING = "returning"


@dataclass(slots=True, eq=False)
class Watch:
    """What is known of one endpoint's failures. `good` and `state` are read for every request."""

    ledger: Ledger
    rules: PassiveHealth
    peers: Sequence[Ledger]
    state: State = State.HEALTHY
    good: int = 0  # requests that ended well
    in_a_row: int = 0  # failures since the last that ended well
    good_before: int = 0  # `good` at the last failure
    bad: int = 0  # failures of the interval
    good_at: int = 0  # `good` when it began
    interval_ends: float = -math.inf
    times: int = 0  # how often it was ejected lately
    since: float = -math.inf  # of the state
    until: float = math.inf
    rests_until: float = -math.inf
    limit: int | None = None  # requests that it may have in flight; None: any number
    taken: int = 0  # of those that were placed under a limit
    proven: int = 0  # probes that succeeded

    def count(self, in_a_row: bool, now: float) -> None:
        """One failure, of the kind that counts in a row or not."""
        if now >= self.interval_ends:
            self.interval_ends = now + self.rules.interval
            self.good_at, self.bad = self.good, 0
        self.bad += 1
        if not in_a_row or self.good != self.good_before:
            self.in_a_row = 0
        self.good_before = self.good
        self.in_a_row += in_a_row

    def why(self) -> str | None:
        """Why it has to go. None: it may stay."""
        rules, tries = self.rules, self.good - self.good_at + self.bad
        if self.state is State.PROBED:
            return "probe"
        if rules.failures and self.in_a_row >= rules.failures:
            return "in-a-row"
        if rules.threshold and tries >= rules.min_requests and self.bad >= rules.threshold * tries:
            return "share"
        return None

    def is_out(self) -> bool:
        """Whether it gets no request now."""
        full = self.limit is not None and self.taken >= self.limit
        return full or self.state is State.EJECTED or self.rests_until > -math.inf

    def due(self) -> float:
        """When time changes something."""
        return min(self.until, self.rests_until if self.rests_until > -math.inf else math.inf)

    def become(self, state: State, now: float, until: float = math.inf, limit: int | None = None) -> None:
        """Enter a state. What was counted before says nothing of it."""
        self.state, self.since, self.until, self.limit = state, now, until, limit
        self.proven = self.in_a_row = self.bad = 0
        self.good_at = self.good_before = self.good
        self.interval_ends = -math.inf


class HealthStatistics(NamedTuple):
    """Numbers by endpoint, for telemetry."""

    ejected: Mapping[str, bool]
    ejections: Mapping[tuple[str, str], int]  # by endpoint and reason
    failures: Mapping[tuple[str, str], int]  # by endpoint and kind


class Health:
    """All endpoints. `out`: who gets no request now, for those who choose; empty nearly always.

    `changed` is told when an endpoint is out or in again, `arm` when `tick` is to be called at the latest. Neither is
    called from within a placement.
    """

    def __init__(self, changed: Callable[[Ledger], None], arm: Callable[[float], None]) -> None:
        self.out: set[Ledger] = set()
        self.limited: dict[Ledger, Watch] = {}  # those with a limit
        self.sees_responses = False  # until one is seen: not every proxy shows them
        self._watches: dict[Ledger, Watch] = {}
        self._changed = changed
        self._arm = arm
        self._ejections: Counter[tuple[str, str]] = Counter()
        self._failures: Counter[tuple[str, str]] = Counter()

    def serve(self, pools: Iterable[tuple[PassiveHealth, Sequence[Ledger]]]) -> None:
        """Watch the endpoints of these pools from now on. Of two pools with one endpoint, the first has the rules."""
        before, self._watches = self._watches, {}
        for rules, ledgers in pools:
            for ledger in ledgers if rules.enabled else ():
                if ledger not in self._watches:
                    known = before.get(ledger) or Watch(ledger, rules, ledgers)
                    known.rules, known.peers = rules, ledgers
                    self._watches[ledger] = known
        self.out &= self._watches.keys()
        self.limited = {ledger: one for ledger, one in self.limited.items() if ledger in self._watches}
        addresses = {ledger.endpoint.address for ledger in self._watches}
        for counter in (self._ejections, self._failures):
            for address, what in [key for key in counter if key[0] not in addresses]:
                del counter[address, what]

    def keep(self, ledgers: Sequence[Ledger]) -> list[Ledger]:
        """Those that may get requests; all, if none may: a request that fails is no worse than one refused."""
        return [one for one in ledgers if one not in self.out] or list(ledgers)

    def has_all(self, ledgers: Sequence[Ledger]) -> bool:
        """Whether all of these are out, and would be chosen only for want of others."""
        return bool(self.out) and bool(ledgers) and self.out.issuperset(ledgers)

    def began(self, ledger: Ledger) -> Watch | None:
        """A request is placed there. Returns whose limit it counts against, for `ended`."""
        watch = self.limited.get(ledger)
        if watch is not None:
            watch.taken += 1
            self._settle(watch)
        return watch

    def went_well(self, ledger: Ledger, placed_at: float, now: float) -> None:
        """A request there was answered, to its end as far as one knows."""
        watch = self._watches.get(ledger)
        if watch is not None:
            watch.good += 1
            if watch.state is not State.HEALTHY and placed_at >= watch.since:
                self._recover(watch, now)

    def ended(self, watch: Watch) -> None:
        """A request that `began` is over."""
        watch.taken -= 1
        self._settle(watch)

    def failed(self, ledger: Ledger, status: int, lost: bool, now: float) -> None:
        """A try there ended with `status`, 0 for none; `lost`: its connection broke, or its time was up."""
        watch = self._watches.get(ledger)
        if watch is None or (not lost and status < 500 and status not in watch.rules.full_statuses):
            return
        if not lost and status in watch.rules.full_statuses:
            self._count(ledger, "full")
            watch.rests_until = now + REST_S
            self._turn(watch)
            return
        self._count(ledger, "lost" if lost else "error")
        if watch.state is State.EJECTED:
            return  # it was sent before
        watch.count(lost or status in _GATEWAY, now)
        why = watch.why()
        if why is not None and self._may_go(watch):
            self._eject(watch, why, now)

    def due(self) -> float:
        """When `tick` has something to do; infinite: never."""
        return min((watch.due() for watch in self._timed()), default=math.inf)

    def tick(self, now: float) -> None:
        """Do what time brings."""
        for watch in [one for one in self._timed() if one.due() <= now]:
            if watch.rests_until <= now:
                watch.rests_until = -math.inf
            if watch.until <= now:
                self._advance(watch, now)
            self._turn(watch)

    def forget(self, slot: int) -> None:
        """The engine is a new process: what the old one did is no fault of it."""
        for watch in [one for one in self._watches.values() if one.ledger.slot == slot]:
            watch.become(State.HEALTHY, -math.inf)
            watch.times, watch.rests_until = 0, -math.inf
            self.limited.pop(watch.ledger, None)
            self._turn(watch)

    def statistics(self) -> HealthStatistics:
        """The numbers now."""
        ejected = {one.ledger.endpoint.address: one.state is State.EJECTED for one in self._watches.values()}
        return HealthStatistics(ejected, dict(self._ejections), dict(self._failures))

    def _timed(self) -> list[Watch]:
        """All that time may change are among these."""
        return [self._watches[ledger] for ledger in {*self.out, *self.limited}]

    def _count(self, ledger: Ledger, kind: str) -> None:
        self._failures[ledger.endpoint.address, kind] += 1

    def _may_go(self, watch: Watch) -> bool:
        """Whether one more may be out. Of several one always may: a share below one endpoint would mean never."""
        count = len(watch.peers)
        gone = sum(self._watches[one].state is State.EJECTED for one in watch.peers if one in self._watches)
        return gone < max(math.floor(watch.rules.max_ejected * count + 1e-9), 1 if count > 1 else 0)

    def _eject(self, watch: Watch, why: str, now: float) -> None:
        rules = watch.rules
        if watch.state is State.HEALTHY and watch.times:
            watch.times = max(watch.times - int((now - watch.since) / rules.base_ejection), 0)
        watch.times += 1
        seconds = min(rules.base_ejection * watch.times, rules.max_ejection)
        watch.become(State.EJECTED, now, now + seconds)
        self.limited.pop(watch.ledger, None)
        address = watch.ledger.endpoint.address
        self._ejections[address, why] += 1
        log.warning("endpoint ejected address=%s why=%s times=%d seconds=%.1f", address, why, watch.times, seconds)
        self._turn(watch)

    def _recover(self, watch: Watch, now: float) -> None:
        """A request that came since its state began went well."""
        if watch.state is State.EJECTED:
            self._advance(watch, now)  # it was chosen for want of others, and shows that it works
        if watch.state is State.PROBED:
            watch.proven += 1
            if watch.proven >= watch.rules.probes:
                self._advance(watch, now)
        elif watch.limit is not None:
            watch.limit += 1
        self._settle(watch)

    def _advance(self, watch: Watch, now: float) -> None:
        """To the next state on the way back."""
        rules, address = watch.rules, watch.ledger.endpoint.address
        if watch.state is State.EJECTED:
            watch.become(State.PROBED, now, limit=rules.probes)
            self.limited[watch.ledger] = watch
            log.info("endpoint probed address=%s", address)
        elif watch.state is State.PROBED and rules.slow_start:
            watch.become(State.RETURNING, now, now + rules.slow_start, limit=2 * rules.probes)
            self._arm(watch.until)
            log.info("endpoint returning address=%s", address)
        else:
            watch.become(State.HEALTHY, now)
            self.limited.pop(watch.ledger, None)
            log.info("endpoint healthy address=%s", address)

    def _settle(self, watch: Watch) -> bool:
        """Bring `out` in line. Returns whether it changed."""
        ledger, is_out = watch.ledger, watch.is_out() and watch.ledger in self._watches
        if is_out is (ledger in self.out):
            return False
        (self.out.add if is_out else self.out.discard)(ledger)
        return True

    def _turn(self, watch: Watch) -> None:
        """The same, and tell of it."""
        if watch.due() < math.inf:
            self._arm(watch.due())
        if self._settle(watch):
            self._changed(watch.ledger)
