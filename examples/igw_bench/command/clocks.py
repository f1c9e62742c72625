"""The gateway's own times, as configuration has them, on the workload's clock: it runs `speed` times as fast. Pure.

So a request waits as long in the picker as the engines' clock says, and roles are kept as long. Within what
configuration allows. Called by `product` and `virtual`.
"""

from dataclasses import replace

from igw_api.inferencepoolpolicy import SHORTEST_DWELL, SHORTEST_WAIT
from igw_api.objects import LONGEST_WAIT, Queue
from igw_api.split import Split
from igw_extproc.flowcontrol.waiters import Limits
from igw_extproc.scheduling.policies import SPLITS

_DYNAMIC = SPLITS[1]


def queue(speed: float) -> Queue:
    """The queue's defaults."""
    usual = Queue()
    wait = min(max(usual.wait_timeout / speed, SHORTEST_WAIT), LONGEST_WAIT)
    return replace(usual, wait_timeout=wait, retry_period=max(usual.retry_period / speed, SHORTEST_WAIT))


def limits(speed: float) -> Limits:
    """The same, as the picker has them."""
    asked = queue(speed)
    return Limits(asked.max_size, asked.wait_timeout, asked.retry_period)


def split(policy: str, speed: float) -> Split:
    """How one of SPLITS divides requests: by the defaults."""
    usual = Split(dynamic=policy == _DYNAMIC)
    return replace(usual, dwell=max(usual.dwell / speed, SHORTEST_DWELL))


def milliseconds(seconds: float) -> str:
    """As manifests have it."""
    return f"{round(1000 * seconds)}ms"
