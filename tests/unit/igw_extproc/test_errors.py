"""What a client reads when its request gets no endpoint."""

import json

import pytest

from igw_extproc.domain import Outcome
from igw_extproc.errors import (
    BadRequest,
    NoEndpoints,
    OverLimit,
    RoutingError,
    Saturated,
    TooLarge,
    UnknownModel,
    WrongContentType,
)

TABLE: list[tuple[RoutingError, int, str, str, Outcome]] = [
    (BadRequest("x"), 400, "invalid_request_error", "invalid_request", Outcome.REJECTED_BAD_REQUEST),
    (WrongContentType("x"), 415, "invalid_request_error", "unsupported_media_type", Outcome.REJECTED_BAD_REQUEST),
    (TooLarge("x"), 413, "invalid_request_error", "request_too_large", Outcome.REJECTED_TOO_LARGE),
    (UnknownModel("m", []), 404, "invalid_request_error", "model_not_found", Outcome.REJECTED_UNKNOWN_MODEL),
    (Saturated("x"), 429, "rate_limit_error", "saturated", Outcome.REJECTED_SATURATED),
    (OverLimit("x", 1), 429, "rate_limit_error", "rate_limit_exceeded", Outcome.REJECTED_OVER_LIMIT),
    (NoEndpoints("x"), 503, "service_unavailable_error", "no_endpoints", Outcome.REJECTED_NO_ENDPOINTS),
]


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "outcome"), TABLE, ids=[type(row[0]).__name__ for row in TABLE]
)
def test_each_refusal_has_its_status_and_the_shape_that_openai_clients_read(
    error: RoutingError, status: int, kind: str, code: str, outcome: Outcome
) -> None:
    assert (error.status, error.outcome) == (status, outcome)
    assert json.loads(error.body()) == {"error": {"message": str(error), "type": kind, "param": None, "code": code}}


def test_every_outcome_in_which_a_client_is_refused_has_an_error() -> None:
    assert {row[-1] for row in TABLE} == set(Outcome) - {
        Outcome.PLACED,
        Outcome.DIVERTED,
        Outcome.PASSED,
        Outcome.FAILED,
    }
    assert RoutingError("x").outcome is Outcome.FAILED


def test_a_clients_model_name_is_cut_and_few_others_are_listed() -> None:
    """The text goes back to whoever sent the name; pools may have hundreds of models."""
    text = str(UnknownModel("x" * 5000, [f"m{number}" for number in range(9)]))
    assert f"`{'x' * 100}`" in text and len(text) < 250
    assert text.endswith("Models: `m0`, `m1`, `m2`, `m3`, `m4`, ....")
    assert str(UnknownModel("m", [])).endswith("Models: none.")


@pytest.mark.parametrize("name", ['say "hi"', "back\\slash", "zeile\n", "模型", "\x00"])
def test_any_name_leaves_the_body_valid(name: str) -> None:
    assert name in json.loads(UnknownModel(name, []).body())["error"]["message"]
