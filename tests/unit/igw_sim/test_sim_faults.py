"""How failures are asked for, and how they run down."""

from random import Random
from typing import Any

import pytest

from igw_sim.faults import BadFault, Faults, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hang", {"hang": True}),
        ("hang=false", {"hang": False}),
        ("slow=2.5", {"slow": 2.5}),
        ("errors=3", {"errors": 3}),
        ("error_share=0.5", {"error_share": 0.5}),
        ("reset=after", {"reset": "after"}),
        ("metrics=404", {"metrics": "404"}),
        ("die_after=2", {"die_after": 2}),
    ],
)
def test_a_failure_is_written_as_a_name_and_a_value(text: str, expected: dict[str, Any]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "burn", "errors", "errors=x", "errors=1.5", "slow=0", "slow=-1", "error_share=2", "reset=maybe", "hang=3"],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(BadFault):
        parse(text)


def test_a_change_with_nonsense_in_it_changes_nothing() -> None:
    faults = Faults()
    with pytest.raises(BadFault):
        faults.set({"hang": True, "slow": "much"})
    assert faults == Faults()


def test_clear_undoes_everything_and_may_come_with_something_new() -> None:
    faults = Faults()
    faults.set({"hang": True, "errors": 3})
    faults.set({"clear": True, "slow": 2})
    assert faults == Faults(slow=2)


def test_the_next_requests_fail_and_those_after_do_not() -> None:
    faults = Faults()
    faults.set({"errors": 2, "error_status": 503})
    assert [faults.take_error(Random(0)) for _ in range(3)] == [503, 503, None]


def test_a_share_of_requests_fails() -> None:
    faults = Faults(error_share=0.25)
    rng = Random(0)
    assert 200 < sum(faults.take_error(rng) == 500 for _ in range(1000)) < 300


def test_resets_may_be_limited_to_the_next_requests() -> None:
    faults = Faults(reset="before", reset_next=1)
    assert [faults.take_reset() for _ in range(2)] == ["before", None]
    assert [Faults(reset="after").take_reset() for _ in range(2)] == ["after", "after"]


def test_an_engine_dies_after_the_given_number_of_answers() -> None:
    faults = Faults(die_after=2)
    assert [faults.answered() for _ in range(2)] == [False, True]
    assert not Faults().answered()
