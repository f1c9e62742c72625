"""When a request is tried again, and which tries are told to the picker: words that both renderers use. Pure.

Apart from the rest, since the objects for Envoy Gateway are made without Envoy's classes.
"""

from typing import Final

from igw_api.resilience import Retry

# Where the endpoint has not had all of the request. A response that has begun is never sent again, whatever is said.
_UNSEEN: Final = ("connect-failure", "refused-stream", "reset-before-request")
# A try without an answer, or with one that broke off: the connection failed, ended, was reset, or spoke no HTTP; its
# time was up. A client that leaves has none of these.
BROKEN: Final = ("UF", "UC", "UR", "UPE", "UT")
# Answers that say something of the endpoint's health: from 500, or this one of a full engine.
FAILED_FROM: Final = 500
FULL: Final = 429
LOG: Final = "envoy.access_loggers.http_grpc"
LOG_NAME: Final = "tries"


def retry_on(retry: Retry) -> list[str]:
    """When to try again, in Envoy's words. `reset` is also where the time for a try is up."""
    lost, status = ["reset"] if retry.lost else [], ["retriable-status-codes"] if retry.statuses else []
    return [*_UNSEEN, *lost, *status]


def runtime_key(status: int) -> str:
    """Envoy wants a name for each number that could be changed while it runs."""
    return f"igw.tries.{status}"
