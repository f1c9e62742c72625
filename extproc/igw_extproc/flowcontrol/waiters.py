"""What waits, within which limits, and how it ends. Values, and the one small object that a waiting request is.

No behaviour beyond derivation: `queue` is the only one to change a waiter.

What is kept of a request while it waits. Placement needs the `Ask` alone, whose prefix is a chain of hashes; the prompt
is not kept. What else must be kept depends on who can give the body back, the proxy or only we:

    body mode                         kept besides the Ask
    one message, BUFFERED(_PARTIAL)   nothing: the proxy holds the body; the rewritten one where a name is replaced
    STREAMED, NONE                    nothing: the headers decided, and the proxy holds back the body
    FULL_DUPLEX_STREAMED              the whole body, which must be sent back; the rewritten one instead of it

`held_bytes` counts that, from above, and the queue's byte budget bounds the sum. A request with a prompt of 400 KB
counts as 11 KB where the proxy holds its body: 10,000 of them are within the budget. Where we must hold it, the budget
is full after some three hundred, and others are refused. The proxy's memory is bounded by its buffer limit times
`Limits.max_size`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from igw_extproc.domain import Ask
from igw_extproc.inflight import Ledger

Payload = TypeVar("Payload")

# Bytes of a waiter, its Ask and its places in the queue's tables (1 KB), and of its conversation and stream.
_WAITER: Final = 4096
# Bytes of one (hash, tokens) pair of a prefix chain: a tuple and two integers.
_LINK: Final = 120
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """One pool's bounds. Times in seconds."""

    max_size: int = 512
    """Requests that wait at once; 0: none does, and whatever cannot be dispatched at once is refused."""
    wait_timeout: float = 10.0
    """A request that has waited so long is refused. The proxy must wait longer than this for our answer."""
    retry_period: float = 1.0
    """When a request whose turn it was, but which none of its own candidates could take, is tried again."""
    max_bytes: int = 128 * _MIB
    """What waiting requests may hold in our memory together."""


class End(StrEnum):
    """How a request left the queue, or why it never got in: low cardinality, a metric label."""

    DISPATCHED = "dispatched"
    EXPIRED = "expired"  # waited `wait_timeout`
    FULL = "full"  # no place for one more, or for its bytes
    SHED = "shed"  # sheddable, and others needed the place
    UNPLACED = "unplaced"  # none of its own candidates could take it, however often it was tried
    GONE = "gone"  # the client left


class Refusal(NamedTuple):
    """What to tell a client. `capacity`: endpoints exist but are taken (429); else there is none (503)."""

    reason: End
    capacity: bool
    retry_after: int  # whole seconds, 1 to 60


class Account(Protocol):
    """What a tenant has been served."""

    def charge(self, tokens: float) -> None:
        """So many more; below zero: fewer."""


@dataclass(slots=True, eq=False)
class Waiter(Generic[Payload]):
    """One waiting request. Read only, but for `queue`. `end` is set once; from then on the payload is gone."""

    sequence: int
    ask: Ask
    tenant: str
    size: int  # bytes held
    arrived_at: float
    expires_at: float
    payload: Payload | None
    place: Ledger | None = None  # the endpoint that it waits for; None: any that it may have
    other: Ledger | None = None  # one that must have room for it as well
    aside: bool = False  # its turn came to nothing, and it is to be tried again
    end: End | None = None
    account: Account | None = None  # who was charged when it was served

    @property
    def priority(self) -> int:
        """Higher goes first; below zero is sheddable."""
        return self.ask.priority

    @property
    def cost(self) -> int:
        """The tokens that its tenant is charged: prompt and expected output."""
        return self.ask.prompt_tokens + self.ask.output_tokens

    def used(self, tokens: float) -> None:
        """It is over, and used so many: its tenant pays the difference, or gets it back, if any still waits there."""
        account, self.account = self.account, None
        if account is not None:
            account.charge(tokens - self.cost)


class Refused(NamedTuple, Generic[Payload]):
    """A request that must be answered now, with what its caller gave for it."""

    payload: Payload
    refusal: Refusal


def held_bytes(ask: Ask, body: bytes | None) -> int:
    """What a waiting request costs in memory. `body`: the one that we must give to the proxy, if any."""
    return _WAITER + _LINK * len(ask.prefix) + (len(body) if body is not None else 0)
