"""Conversations in ShareGPT's JSON: what becomes a request, in which words, and what is said of a file that is none."""

import json
from pathlib import Path
from typing import Any

import pytest

from igw_bench.command.plans import Plan, Shape, build
from igw_bench.command.samples import BadInput
from igw_bench.command.sharegpt import looks_so, read
from igw_bench.command.texts import TEMPLATE_TOKENS


def said(*texts: str) -> dict[str, Any]:
    """A conversation, the human first."""
    return {"conversations": [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(texts)]}


def written(folder: Path, *conversations: Any) -> Path:
    path = folder / "sharegpt.json"
    path.write_text(json.dumps(list(conversations)))
    return path


def planned(path: Path, seed: int = 1, **shape: Any) -> Plan:
    return build(Shape(workload="trace", trace=path, **shape), seed)


def test_the_first_question_is_asked_in_its_own_words_for_an_answer_of_the_same_length(tmp_path: Path) -> None:
    plan = planned(written(tmp_path, said("Why is the sea salty?", "x" * 41, "And the moon?", "No.")))
    (job,) = plan.workload.jobs
    assert plan.words == {0: "Why is the sea salty?"}
    assert (job.prompt_tokens - TEMPLATE_TOKENS, job.output_tokens) == (6, 11)  # four bytes a token
    assert plan.workload.clients > 0, "it has no times, so clients wait for answers"


def test_conversations_by_role_and_content_are_read_too(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]}
    assert planned(written(tmp_path, chat)).words == {0: "Hi?"}


def test_what_has_no_question_or_no_answer_is_passed_over(tmp_path: Path) -> None:
    odd = (said("Hi?"), said("Hi?", ""), {"conversations": [{"from": "gpt", "value": "So."}] * 2}, said("Who?", "I."))
    assert [one.question for one in read(written(tmp_path, *odd))] == ["Who?"]


def test_each_seed_draws_in_an_order_of_its_own_and_as_many_as_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, *(said(f"Question {number}?", "Yes.") for number in range(50)))
    first, again, other = (planned(path, seed, requests=20).words for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first.values())) == 20


def test_what_is_too_long_is_left_out_and_counted(tmp_path: Path) -> None:
    path = written(tmp_path, said("x" * 100_000, "Yes."), said("Who?", "I."))
    assert planned(path).left_out == 1
    with pytest.raises(BadInput, match="no conversation fits into 2 tokens"):
        planned(path, longest=2)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[", ":1: not JSON"),
        ("[]", ": no question with an answer"),
        ('["x"]', ": conversation 1: a list of messages in `conversations` is required"),
        ('[{"conversations": [1]}]', ": conversation 1: a list of messages in `conversations` is required"),
        (
            '[{"conversations": [{"from": "human"}, {"from": "gpt"}]}]',
            ": conversation 1: a message has a text in `value`",
        ),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    assert looks_so(path)
    with pytest.raises(BadInput) as caught:
        read(path)
    assert str(caught.value) == f"{path}{complaint}"
