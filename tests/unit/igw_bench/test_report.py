"""The demo's figures: percentiles, the table, the comparison in words, and the failures."""

import io
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from igw_bench.load import Answer, Tally
from igw_bench.numbers import mean, percentile
from igw_bench.report import CAPTION, Figures, Phase, cells, failures, table, verdict

ENGINES = {"vllm-1": "vLLM", "vllm-2": "vLLM", "sglang": "SGLang", "bladellm": "BladeLLM"}


def answer(engine: str = "vllm-1", ttft: float | None = 0.2, tpot: float | None = 0.03, cached: int = 0) -> Answer:
    return Answer(engine, 2_000, cached, 50, seconds=2.0, ttft=ttft, tpot=tpot)


def phase(
    *answers: Answer, policy: str = "round-robin", seconds: float = 10.0, failed: Counter[str] | None = None
) -> Phase:
    return Phase(policy, Tally(len(answers), answers=list(answers), failures=failed or Counter()), seconds)


def printed(*phases: Phase, width: int = 80) -> str:
    text = io.StringIO()
    Console(file=text, width=width, no_color=True).print(table(phases, ENGINES))
    return text.getvalue()


@pytest.mark.parametrize(
    ("share", "value"),
    [(0.0, 1.0), (0.01, 1.0), (0.5, 5.0), (0.51, 6.0), (0.9, 9.0), (0.99, 10.0), (1.0, 10.0)],
)
def test_a_percentile_is_the_smallest_value_that_the_share_does_not_exceed(share: float, value: float) -> None:
    assert percentile([10.0, 1, 2, 3, 4, 5, 6, 7, 8, 9], share) == value


def test_nothing_has_no_percentile_and_no_mean() -> None:
    assert percentile([], 0.5) is None
    assert mean([]) is None


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values_and_enough_are_not_above_it(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)
    assert sum(value < found for value in values) < max(share * len(values), 1)


def test_whole_answers_count_as_requests_and_tokens_but_have_no_token_times() -> None:
    figures = Figures.of([answer(ttft=0.1, tpot=0.02, cached=500), answer(ttft=None, tpot=None)])
    assert (figures.requests, figures.prompt_tokens, figures.cached_tokens, figures.output_tokens) == (
        2,
        4000,
        500,
        100,
    )
    assert figures.ttft == (0.1,)
    assert cells(figures) == ["2", "4,000", "12%", "100", "100", "100", "20.0", "20.0"]


def test_an_endpoint_without_requests_is_shown_with_nothing_to_tell() -> None:
    assert cells(Figures.of([])) == ["0", "0", "-", "0", "-", "-", "-", "-"]


def test_the_table_has_a_line_for_each_endpoint_and_policy_and_for_all() -> None:
    text = printed(
        phase(answer(), answer("sglang", ttft=0.4)),
        phase(answer("sglang", ttft=0.1, cached=1000), answer("sglang", ttft=0.3), policy="prefix-cache"),
    )
    rows = [line.split() for line in text.splitlines() if "round-robin" in line or "prefix-cache" in line]
    assert [row[0] for row in rows] == ["vllm-1", "vLLM", "vllm-2", "vLLM", "sglang", "SGLang", "bladellm", "BladeLLM",
                                        "all", "prefix-cache"]  # fmt: skip
    assert rows[4][1:] == ["round-robin", "1", "2,000", "0%", "50", "400", "400", "30.0", "30.0"]
    assert rows[5][1:] == ["prefix-cache", "2", "4,000", "25%", "100", "100", "300", "30.0", "30.0"]
    assert rows[-1][1:3] == ["2", "4,000"]


def test_an_answer_from_an_endpoint_that_nobody_knows_is_shown_too() -> None:
    assert "stranger" in printed(phase(answer("stranger")), phase(policy="prefix-cache"))


def test_a_full_run_fits_80_columns_uncut() -> None:
    many = [answer(name, ttft=12.345, tpot=0.1234) for name in ENGINES for _ in range(250)]
    text = printed(phase(*many), phase(*many, policy="prefix-cache"))
    assert "…" not in text
    assert "2,000k" in text
    assert max(map(len, [*text.splitlines(), CAPTION])) <= 80


def test_the_verdict_says_what_got_better_in_numbers_of_the_run() -> None:
    before = phase(answer(ttft=1.0), answer(ttft=1.48))
    after = phase(answer(ttft=0.31, cached=1500), answer(ttft=0.31), policy="prefix-cache", seconds=6.0)
    told = verdict(before, after)
    assert told[0] == "prefix-cache instead of round-robin:"
    assert "  mean TTFT 310 ms instead of 1,240 ms (-75%)" in told
    assert "  prompt tokens computed 2,500 instead of 4,000 (-38%)" in told
    assert "  the whole load 6.0 s instead of 10.0 s (-40%)" in told


def test_the_verdict_says_what_got_worse() -> None:
    told = verdict(phase(answer(tpot=0.03)), phase(answer(tpot=0.045), policy="prefix-cache"))
    assert "  mean TPOT 45.0 ms instead of 30.0 ms (+50%)" in told


def test_the_verdict_leaves_out_what_was_not_measured() -> None:
    silent = phase(answer(ttft=None, tpot=None))
    assert not any("TTFT" in line or "TPOT" in line for line in verdict(silent, silent))


def test_failures_are_told_by_kind_most_frequent_first_and_not_all_of_many() -> None:
    failed = Counter({f"kind {number}": number for number in range(1, 8)})
    told = failures([phase(failed=failed), phase(policy="prefix-cache")])
    assert told[0] == "28 requests were not answered:"
    assert told[1] == "  7 x under round-robin: kind 7"
    assert told[5:] == ["  3 x under round-robin: kind 3", "  and 2 more kinds"]


def test_nothing_is_said_of_failures_when_there_are_none() -> None:
    assert failures([phase(answer())]) == []
