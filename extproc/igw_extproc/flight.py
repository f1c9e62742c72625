"""One placed request, from its placement to its end: what was met on the way, and what can be learnt of it.

Pure: `now` is an argument. The director makes one for each placement; conversations tell it what passes.
"""

from collections.abc import Callable

from igw_extproc import openai
from igw_extproc.answers import streamed_tokens
from igw_extproc.health import Watch
from igw_extproc.inflight import Ledger
from igw_extproc.ledgers import Ledgers
from igw_extproc.messages import Responded
from igw_extproc.metering import Charge
from igw_extproc.scheduling.framework import Decision
from igw_extproc.scheduling.split import PairLease


class Flight:
    """One placed request until it ends: its share of the load, and what it met on the way.

    Every method may be called at any time and in any order; `ended` closes it once and for all. The lease tells the
    prefix index what was learnt: the endpoint holds the prompt once it answers with a first byte, or without our
    seeing responses, once the request has ended.
    """

    __slots__ = (
        "_ledgers",
        "_step",
        "answer_tokens",
        "arrived_at",
        "bill",
        "charge",
        "decision",
        "ended_at",
        "failed",
        "first_byte_at",
        "lease_id",
        "model",
        "moved",
        "open",
        "placed_at",
        "pool",
        "prompt_tokens",
        "proven",
        "request_id",
        "response_id",
        "status",
        "watch",
    )

    def __init__(self, lease_id: str, pool: str, model: str, decision: Decision, ledgers: Ledgers, now: float) -> None:
        self.lease_id = lease_id
        self.pool = pool
        self.model = model
        self.decision = decision
        self.arrived_at = self.placed_at = now
        self.request_id = ""  # the proxy's name of the request
        self.ended_at: float | None = None
        self.response_id = ""  # what we called the response that it asks for
        self.first_byte_at: float | None = None
        self.status = 0  # 0: not seen
        self.prompt_tokens = self.answer_tokens = 0  # as the engine has them; 0: not seen
        self.bill: Callable[[float], None] | None = None  # to be told the tokens that it used, where these are known
        self.charge: Charge | None = None  # what it has taken of its pool's and its key's limits
        self.moved = False
        self.open = True
        self.failed: tuple[Ledger, ...] = ()  # endpoints where a try failed
        self.watch: Watch | None = None  # whose limit it counts against
        self.proven = False  # it has shown already that its endpoint answers
        self._ledgers = ledgers
        self._step: float | None = None  # seconds for a token when the answer began

    @property
    def first_choice(self) -> Ledger:
        """The endpoint that was named first."""
        return self.decision.order[0]

    @property
    def place(self) -> Ledger:
        """The endpoint where it counts now."""
        return self.decision.lease.ledger

    @property
    def places(self) -> tuple[Ledger, ...]:
        """The same, and where its prompt is computed, if that is elsewhere."""
        prefiller = self.decision.prefiller
        return (self.place,) if prefiller is None else (self.place, prefiller)

    def went_well(self, sees_responses: bool) -> bool:
        """Whether its endpoint has answered it, as far as one knows: a client that leaves may hide that it did not."""
        answered = 0 < self.status < 500 or not (self.status or sees_responses)
        return answered and not self.proven and self.place not in self.failed

    def hold(self) -> None:
        """It waits here for its place there."""
        self.decision.lease.hold()

    def goes(self) -> None:
        """It need not wait."""
        self.decision.lease.go()

    def sent(self, now: float) -> None:
        """It waits no longer. The endpoint's time begins now; retries skip those that have gone meanwhile."""
        self.decision.lease.send(now)
        self.placed_at = now
        first, *others = self.decision.order
        if first.available and not all(other.available for other in others):
            left = (first, *(other for other in others if other.available))
            self.decision = self.decision._replace(order=left)

    def responded(self, response: Responded) -> None:
        """An engine answered, perhaps another than the one named first: the load goes to the one that did."""
        if not self.open:
            return
        self.status = response.status
        served = self._ledgers.get(response.served) if response.served else None
        if served is not None and served is not self.first_choice:
            self.moved = True
            self.decision.lease.moved_to(served)

    def prefilled(self, succeeded: bool, now: float) -> Ledger | None:
        """The prompt was computed elsewhere, or not. Returns where it should have been, if it was to be anywhere."""
        lease = self.decision.lease
        if not self.open or not isinstance(lease, PairLease):
            return None
        lease.prefilled(now, succeeded)
        return self.decision.prefiller

    def first_byte(self, now: float) -> float | None:
        """A byte of the response's body passed. Returns seconds since the pick, the first time only."""
        if not self.open or self.first_byte_at is not None:
            return None
        self.first_byte_at = now
        self._step = self.decision.lease.ledger.decode.step
        self.decision.lease.first_byte(now, succeeded=self.status < 400)
        return now - self.placed_at

    def length(self, now: float) -> float | None:
        """Tokens of the answer that ends now, as far as that can be told."""
        if self.answer_tokens:
            return self.answer_tokens
        step = self.decision.lease.ledger.decode.step
        if not self.decision.lease.ask.streams or self.first_byte_at is None or not step or self.status >= 400:
            return None
        return streamed_tokens(now - self.first_byte_at, self._step, step)

    def counted(self, usage: openai.Usage) -> None:
        """The engine told what it counted for this request."""
        self.prompt_tokens, self.answer_tokens = usage.prompt, usage.completion
        if usage.cached is not None:
            self.decision.lease.counted(usage.prompt, usage.cached)

    def withdrawn(self, now: float) -> None:
        """Nobody was told of it."""
        self.open = False
        self.decision.lease.close(now, succeeded=False)

    def ended(self, now: float, length: float | None = None, sees_responses: bool = False) -> None:
        """The request is over. `length`: tokens of its answer, where known; then whoever sent it is billed."""
        self.open = False
        self.ended_at = now
        prompt = self.prompt_tokens or self.decision.lease.ask.prompt_tokens
        if self.bill is not None and (self.status >= 400 or length is not None):
            self.bill(prompt + length if length is not None and self.status < 400 else 0.0)
        if self.charge is not None:
            self._settle(self.charge, prompt, length, sees_responses, now)
        self.decision.lease.close(now, succeeded=self.status < 400)
        # `history` keeps it.
        self.bill = self.charge = None
        self.decision.lease.forget()

    def _settle(self, charge: Charge, prompt: int, length: float | None, sees_responses: bool, now: float) -> None:
        """Its limits: what it used, as far as one knows. Who leaves before the answer has had the prompt computed."""
        if self.status >= 500:
            charge.refund(now)
        elif self.status >= 400:
            charge.ended(0.0, now)
        elif length is not None or self.prompt_tokens:
            charge.ended(prompt + (length or 0.0), now)
        else:
            charge.ended(prompt if sees_responses and not self.status else None, now)
