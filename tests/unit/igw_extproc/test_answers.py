"""How long answers are taken to be: learned from those that ended, model by model."""

import random

import pytest

from igw_extproc.answers import DEFAULT_TOKENS, Answers, streamed_tokens


def test_until_answers_are_known_they_are_like_those_of_chats() -> None:
    assert Answers().expected("llm", "llama") == DEFAULT_TOKENS


def test_the_mean_length_of_a_models_answers_is_learned() -> None:
    answers, rng = Answers(), random.Random(1)
    for _ in range(500):
        answers.ended("llm", "llama", rng.uniform(20, 60))
    assert answers.expected("llm", "llama") == pytest.approx(40, abs=4)
    assert answers.expected("llm", "another") == answers.expected("other", "llama") == DEFAULT_TOKENS


def test_a_model_that_answers_differently_from_now_on_is_learned_anew() -> None:
    answers = Answers()
    for _ in range(1_000):
        answers.ended("llm", "llama", 30.0)
    for _ in range(1_000):
        answers.ended("llm", "llama", 900.0)
    assert answers.expected("llm", "llama") > 850


def test_one_runaway_changes_little() -> None:
    answers = Answers()
    for _ in range(300):
        answers.ended("llm", "llama", 100.0)
    answers.ended("llm", "llama", 1e9)
    assert answers.expected("llm", "llama") < 150


def test_pools_that_are_gone_are_forgotten() -> None:
    answers = Answers()
    for pool in ("one", "two"):
        answers.ended(pool, "llama", 10.0)
    answers.keep({"one"})
    assert answers.expected("two", "llama") == DEFAULT_TOKENS
    assert answers.expected("one", "llama") < DEFAULT_TOKENS


def test_a_streams_length_follows_from_its_time_and_its_engines_pace() -> None:
    assert streamed_tokens(2.0, 0.01, 0.03) == pytest.approx(101)
    assert streamed_tokens(2.0, None, 0.02) == pytest.approx(101)
