"""Why a request cannot be served as asked, with the status and the body that an OpenAI client gets.

    SplitError
    +-- PrefillFailed     502, and not 503: the proxy would send that to the next endpoint, with the same prefiller
    +-- EngineGone        503   the engine beside us does not answer
    +-- TooLarge          413   a body above the limit, which has to be read whole to be split

The texts never quote a prompt.
"""

import orjson


class SplitError(Exception):
    """`str(error)` is what the client reads, unless the request is run locally instead."""

    def __init__(self, message: str, status: int, code: str, kind: str = "service_unavailable_error") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.kind = kind

    def body(self) -> bytes:
        """`{"error": {message, type, param, code}}`."""
        return orjson.dumps({"error": {"message": str(self), "type": self.kind, "param": None, "code": self.code}})


class PrefillFailed(SplitError):
    """`reason` is a label: refused, unreachable, timeout, status, answer, decode.

    `verdict` is a prefiller's answer, status and body, that finds fault with the request itself.
    """

    def __init__(self, reason: str, message: str, verdict: tuple[int, bytes] | None = None) -> None:
        super().__init__(message, verdict[0] if verdict else 502, "prefill_failed")
        self.reason = reason
        self._verdict = verdict

    def body(self) -> bytes:
        """The prefiller's own words where the request is to blame."""
        return self._verdict[1] if self._verdict else super().body()


class EngineGone(SplitError):
    """The engine beside us cannot be reached, or closed the connection before it answered."""

    def __init__(self) -> None:
        super().__init__("The engine does not answer; try again.", 503, "engine_unreachable")


class TooLarge(SplitError):
    """More than `--max-body-bytes`."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The body is larger than {limit} bytes; send less.", 413, "request_too_large", "invalid_request_error"
        )
