"""The headers of a request that placement reads. Pure; called by `director` for every request.

And by `admission`, for those that have to wait: whose they are.
"""

from igw_api import wire
from igw_extproc.messages import CREDENTIAL_ATTRIBUTES, ROUTE_ATTRIBUTE, Arrived


class RequestHeaders:
    """The few headers that matter, from the headers message or, in the one-message mode, from attributes."""

    __slots__ = ("content_type", "model", "objective", "path", "rewrite", "route", "session")

    def __init__(self, request: Arrived) -> None:
        headers, attributes = request.headers, request.attributes
        self.route = attributes.get(ROUTE_ATTRIBUTE)
        if headers:
            self.path = headers.get(":path")
            self.content_type = headers.get("content-type")
            self.model = headers.get(wire.MODEL_HEADER)
            self.objective = headers.get(wire.OBJECTIVE_HEADER)
            self.rewrite = headers.get(wire.MODEL_REWRITE_HEADER)
            self.session = headers.get(wire.SESSION_HEADER)
        else:
            self.path = attributes.get("request.path")
            self.content_type = attributes.get(_CONTENT_TYPE)
            self.model = attributes.get(_MODEL)
            self.objective = attributes.get(_OBJECTIVE)
            self.rewrite = attributes.get(_REWRITE)
            self.session = attributes.get(_SESSION)


def fairness_id(request: Arrived) -> str | None:
    """What the request says of whose it is."""
    return request.headers.get(wire.FAIRNESS_HEADER) if request.headers else request.attributes.get(_FAIRNESS)


def wants_explanation(request: Arrived) -> bool:
    """Whether the client wants to be told of the decision."""
    return wire.EXPLAIN_HEADER in request.headers if request.headers else _EXPLAIN in request.attributes


def credential(request: Arrived) -> str | None:
    """The API key that it comes with, or where the proxy has taken that, whose it was. Nothing may keep or show it."""
    if request.headers:
        values = (request.headers.get(name) for name in (wire.CLIENT_HEADER, *wire.CREDENTIAL_HEADERS))
    else:
        values = (request.attributes.get(name) for name in (_CLIENT, *CREDENTIAL_ATTRIBUTES))
    return next((value for value in values if value), None)


def without_credential(request: Arrived) -> Arrived:
    """The same, to be kept."""
    headers = {name: value for name, value in request.headers.items() if name not in wire.CREDENTIAL_HEADERS}
    attributes = {name: value for name, value in request.attributes.items() if name not in CREDENTIAL_ATTRIBUTES}
    return request._replace(headers=headers, attributes=attributes)


_CONTENT_TYPE = "request.headers['content-type']"
_MODEL = f"request.headers['{wire.MODEL_HEADER}']"
_OBJECTIVE = f"request.headers['{wire.OBJECTIVE_HEADER}']"
_REWRITE = f"request.headers['{wire.MODEL_REWRITE_HEADER}']"
_CLIENT = f"request.headers['{wire.CLIENT_HEADER}']"
_SESSION = f"request.headers['{wire.SESSION_HEADER}']"
_EXPLAIN = f"request.headers['{wire.EXPLAIN_HEADER}']"
_FAIRNESS = f"request.headers['{wire.FAIRNESS_HEADER}']"
