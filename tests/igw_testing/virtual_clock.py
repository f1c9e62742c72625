"""An event loop whose clock jumps to the next timer when nothing is ready: hours of waiting pass at once."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class _Jumping(selectors.DefaultSelector):
    """Never waits. `passed` is the time that it would have waited, in seconds."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now; else the clock goes on by `timeout`."""
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits for what never comes"
            self.passed += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    """The loop on that clock, which starts at 0."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds since the beginning."""
        return self._jumping.passed


def run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """What `work` returns, without waiting for its timers."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
