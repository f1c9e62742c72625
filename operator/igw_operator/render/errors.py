"""Errors that the gateway gives by itself, in the shape that OpenAI clients parse. Pure."""

import json
from typing import Final

REQUEST_ERROR: Final = "invalid_request_error"
SERVICE_ERROR: Final = "service_unavailable_error"
TIMEOUT_ERROR: Final = "timeout_error"


def error_body(message: str, kind: str, code: str) -> str:
    """`{"error": {message, type, param, code}}`."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


# For those without a token, in both homes. The challenge goes into the header `WWW-Authenticate`.
CHALLENGE: Final = 'Bearer realm="inference-gateway"'
UNAUTHORIZED: Final = error_body(
    "No valid API key was given; send one as `Authorization: Bearer KEY`.", REQUEST_ERROR, "invalid_api_key"
)
