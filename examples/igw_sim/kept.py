"""Responses that an engine keeps, so that a later request may continue them: of this engine only, in memory."""

from collections import OrderedDict
from dataclasses import dataclass, replace

from igw_sim.calls import ApiError, Call

MOST = 10_000


@dataclass(frozen=True, slots=True)
class Response:
    """`conversation` is the tokens of everything up to its end; `body`, what a client gets that asks for it."""

    conversation: bytes
    body: bytes


class Kept:
    """By id. The oldest go first."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Response] = OrderedDict()

    def put(self, response_id: str, response: Response) -> None:
        """Keep it."""
        self._by_id[response_id] = response
        if len(self._by_id) > MOST:
            self._by_id.popitem(last=False)

    def get(self, response_id: str) -> Response:
        """ApiError 404 for one that this engine does not have."""
        found = self._by_id.get(response_id)
        if found is None:
            raise ApiError(404, f"Response with id '{response_id}' not found.", "invalid_request_error", "response_id")
        return found

    def continued(self, call: Call) -> Call:
        """The call with all that came before its input. ApiError 404 as above."""
        if call.previous is None:
            return call
        return replace(call, prompt=self.get(call.previous).conversation + call.prompt)
