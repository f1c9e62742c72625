"""Processes that simulate side by side, and that nothing leaves behind: not Ctrl-C, not a signal, not a parent's death.

Called by every offline benchmark. `concurrent.futures` awaits what has begun when it is interrupted, minutes perhaps.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.pool import Pool
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import NoReturn, TypeVar

from igw_bench.children import die_with_parent

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_LOOK_S = 1.0
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Workers:
    """They are there."""

    def __init__(self, pool: Pool, begun: Sequence[BaseProcess]) -> None:
        self._pool = pool
        self._begun = begun

    def map(self, call: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
        """The results in order, each as soon as it and those before it are there. ChildProcessError if one has died."""
        found = self._pool.imap(call, items)
        for _ in items:
            while True:
                try:
                    yield found.next(_LOOK_S)
                    break
                except multiprocessing.TimeoutError:
                    if any(one.exitcode is not None for one in self._begun):
                        raise ChildProcessError("a process that simulates was ended by somebody else") from None


@contextmanager
def workers(most: int) -> Iterator[Workers]:
    """As many as there are cores, and at most `most`. They end with the block, however it ends."""
    before = {number: signal.signal(number, _ended) for number in _ENDING}
    others = multiprocessing.active_children()
    try:
        with Pool(min(os.cpu_count() or 1, most), _obey) as pool:
            yield Workers(pool, [one for one in multiprocessing.active_children() if one not in others])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def _obey() -> None:
    """In a worker: Ctrl-C in the terminal is its parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _ENDING:
        signal.signal(number, signal.SIG_DFL)
    die_with_parent()
