"""How a pool's endpoints that fail are treated, and requests that they fail. Values only; times in seconds.

The operator spells them for the proxy, the picker follows the same ones: so both know of one rule. The defaults apply
to pools without an InferencePoolPolicy.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PassiveHealth:
    """When an endpoint that answers its metrics page, but fails requests, gets none for a while.

    A *lost* try had no connection, or the connection broke, before or in the middle of the answer, or its time was up.
    An *error* is an answer 500 to 599. Answers in `full_statuses` are neither: the endpoint is full, not broken.
    """

    enabled: bool = True
    failures: int = 3  # lost tries, 502 and 504, in a row; 0: not looked at
    threshold: float = 0.5  # of the tries of one interval, lost ones and errors together; 0: not looked at
    min_requests: int = 10  # tries in an interval; with fewer, the share says nothing
    interval: float = 1.0
    base_ejection: float = 30.0  # times the number of ejections so far
    max_ejection: float = 300.0
    max_ejected: float = 1.0  # share of the pool; of several endpoints, one at least may be out
    probes: int = 2  # requests that must succeed after the time is over, and as many at once
    slow_start: float = 10.0  # after that, while what it may have in flight grows with each success
    full_statuses: tuple[int, ...] = (429, 503)


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how often a request is tried again, at an endpoint that has not had it.

    Never after the response has begun. Always where the endpoint cannot have seen all of the request. `lost`: also
    where it may have computed something: the connection broke, or the time for a try was up, before an answer.
    """

    attempts: int = 2
    statuses: tuple[int, ...] = (503,)  # engines that drain or load a model answer it
    lost: bool = True
    # Retries that may wait for an answer at once: this share of the pool's requests, but so many in any case. When one
    # of three engines dies, all that it had is tried again at once, which is half of what the others have.
    budget: float = 0.5
    budget_min: int = 64
