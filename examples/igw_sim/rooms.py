"""Where SGLang's two halves of a request meet, on the prefill engine. Either may come first, and either may fail."""

import asyncio

from igw_sim.driver import Ticket


class Broken(Exception):
    """The other half has gone."""


class Room:
    """`opened`: the prefill is here. `met`: the decoder is. `computed`: the prompt is. `moved`: its KV is across."""

    __slots__ = ("_reason", "computed", "met", "moved", "opened", "ticket")

    def __init__(self) -> None:
        self.opened, self.met, self.computed, self.moved = (asyncio.Event() for _ in range(4))
        self.ticket: Ticket | None = None
        self._reason: str | None = None

    async def reached(self, event: asyncio.Event) -> None:
        """Wait for it; Broken when a half goes before it came."""
        await event.wait()
        if self._reason is not None:
            raise Broken(self._reason)

    def fail(self, reason: str) -> None:
        """Wake everybody with Broken. Nothing happens if the KV is across."""
        if self.moved.is_set():
            return
        self._reason = reason
        for event in (self.opened, self.met, self.computed, self.moved):
            event.set()
        if self.ticket is not None:
            self.ticket.fail(Broken(reason))
