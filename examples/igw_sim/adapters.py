"""The LoRA slots of one engine: who may run now, and what is loaded."""

from collections import OrderedDict


class AdapterSlots:
    """`slots` places. An adapter with a running request keeps its place; others are replaced, least recent first."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._running: dict[str, int] = {}
        self._resident: OrderedDict[str, None] = OrderedDict()

    @property
    def running(self) -> tuple[str, ...]:
        """Adapters with a running request."""
        return tuple(self._running)

    def fits(self, adapter: str | None) -> bool:
        """Whether a request for this adapter may run now; one for the base model always may."""
        return adapter is None or adapter in self._running or len(self._running) < self._slots

    def enter(self, adapter: str | None) -> int:
        """A request for it begins to run; it must fit. Returns how many adapters had to be loaded: 0 or 1."""
        if adapter is None:
            return 0
        self._running[adapter] = self._running.get(adapter, 0) + 1
        if adapter in self._resident:
            self._resident.move_to_end(adapter)
            return 0
        if len(self._resident) >= self._slots:
            del self._resident[next(name for name in self._resident if name not in self._running)]
        self._resident[adapter] = None
        return 1

    def leave(self, adapter: str | None) -> None:
        """A request for it runs no more."""
        if adapter is None:
            return
        self._running[adapter] -= 1
        if not self._running[adapter]:
            del self._running[adapter]
