"""Why a request is refused: one error tree, each with its HTTP status, its outcome and an OpenAI-style body.

    RoutingError
    +-- BadRequest            400   not JSON, no model, no prompt
    |   +-- WrongContentType  415
    |   +-- TooLarge          413
    +-- UnknownModel          404
    +-- Saturated             429   capacity exists but is taken
    +-- OverLimit             429   a limit of the pool or of the API key is reached
    +-- NoEndpoints           503   no capacity at all

Raised by `openai`, `stream`, `director` and `metering`; turned into an immediate response by `stream`. The texts name
what to do. They never quote the prompt; a model name is cut to 100 characters.
"""

from typing import ClassVar

import orjson

from igw_extproc.domain import Outcome


class RoutingError(Exception):
    """A request that gets no endpoint. `str(error)` is the message that the client reads."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "internal_error"
    code: ClassVar[str] = "internal_error"
    outcome: ClassVar[Outcome] = Outcome.FAILED
    retry_after: int | None = None
    """Whole seconds after which to try again, where that is known."""
    headers: tuple[tuple[str, str], ...] = ()
    """What else the client is told."""

    def but(self, why: str) -> "RoutingError":
        """The same, with more to say."""
        if why:
            self.args = (f"{self} {why}",)
        return self

    def body(self) -> bytes:
        """The error in the shape that OpenAI clients parse: `{"error": {message, type, param, code}}`."""
        return orjson.dumps({"error": {"message": str(self), "type": self.kind, "param": None, "code": self.code}})


class BadRequest(RoutingError):
    """The client must change its request."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_request"
    outcome = Outcome.REJECTED_BAD_REQUEST


class WrongContentType(BadRequest):
    """A path that takes JSON was sent something else."""

    status = 415
    code = "unsupported_media_type"


class TooLarge(BadRequest):
    """A body above the limit, in a mode where we hold all of it."""

    status = 413
    code = "request_too_large"
    outcome = Outcome.REJECTED_TOO_LARGE


class UnknownModel(RoutingError):
    """The pool declares its models, and serves none under this name."""

    status = 404
    kind = "invalid_request_error"
    code = "model_not_found"
    outcome = Outcome.REJECTED_UNKNOWN_MODEL

    def __init__(self, model: str, known: list[str]) -> None:
        some = ", ".join(f"`{name}`" for name in known[:5]) + (", ..." if len(known) > 5 else "")
        super().__init__(f"The model `{model[:100]}` is not served here. Models: {some or 'none'}.")


class Saturated(RoutingError):
    """Capacity exists but is taken: come back later."""

    status = 429
    kind = "rate_limit_error"
    code = "saturated"
    outcome = Outcome.REJECTED_SATURATED


class OverLimit(RoutingError):
    """Somebody has set a limit, and it is reached."""

    status = 429
    kind = "rate_limit_error"
    code = "rate_limit_exceeded"
    outcome = Outcome.REJECTED_OVER_LIMIT

    def __init__(self, message: str, retry_after: int, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.headers = headers


class NoEndpoints(RoutingError):
    """Nothing could serve this request now."""

    status = 503
    kind = "service_unavailable_error"
    code = "no_endpoints"
    outcome = Outcome.REJECTED_NO_ENDPOINTS
