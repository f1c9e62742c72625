"""What proxies tell of tries that failed: their access log, filtered down to those. One long stream for each worker.

It names each try's endpoint, so that of a request that was tried again the endpoint that failed is blamed, and not the
one that answered. Called by transports, through `conversation`'s table of methods; never answers but with its end.
"""

import logging
from collections.abc import Callable

from igw_api import wire
from igw_extproc import codec
from igw_extproc.director import Director
from igw_extproc.ledgers import Ledgers
from igw_extproc.messages import Try
from igw_extproc.transport import Call, Conversation, GrpcStatus, Methods

log = logging.getLogger(__name__)


class Reports:
    """All these streams. `suspect` is told the address of each endpoint that did not answer."""

    def __init__(
        self, director: Director, ledgers: Ledgers, clock: Callable[[], float], suspect: Callable[[str], None]
    ) -> None:
        self._director = director
        self._ledgers = ledgers
        self._clock = clock
        self._suspect = suspect
        self.open: set[Call] = set()

    def methods(self) -> Methods:
        """By path: the access log service."""
        return {wire.TRIES_METHOD: self._listen}

    def failed(self, one: Try) -> None:
        """A try failed, of a request that may be under way still."""
        ledger, flight = self._ledgers.get(one.address), self._director.flights.get(one.lease or "")
        log.debug("try failed address=%s status=%d lost=%s", one.address, one.status, one.lost)
        if ledger is None:
            return  # it has left, or belongs to no pool
        if flight is not None and ledger not in flight.failed:
            flight.failed += (ledger,)
        self._director.health.failed(ledger, one.status, one.lost, self._clock())
        if one.lost:
            self._suspect(one.address)

    def _listen(self, call: Call) -> Conversation:
        self.open.add(call)
        return _Report(self, call)

    def close(self) -> None:
        """End them all: they never end by themselves, and drains wait for streams."""
        for call in list(self.open):
            call.finish()


class _Report(Conversation):
    __slots__ = ("_all", "_call")

    def __init__(self, reports: Reports, call: Call) -> None:
        self._all = reports
        self._call = call

    def receive(self, message: bytes) -> None:
        try:
            tries = codec.decode_tries(message)
        except codec.MalformedMessage as error:
            self._call.finish(GrpcStatus.INVALID_ARGUMENT, str(error))
            return
        for one in tries:
            self._all.failed(one)

    def half_closed(self) -> None:
        self._call.finish()

    def ended(self) -> None:
        self._all.open.discard(self._call)
