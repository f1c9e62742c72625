"""An engine that only computes prompts, one that only decodes, and the KV between them."""

from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igw_sim.engine import Engine
from igw_sim.model import Fetch, Limits, Request, Speed, StepResult
from igw_sim.transfer import Link, Transfer, move

BLOCK = 4
SPEED = Speed(prefill_tokens_per_s=1000, decode_step_s=0.01)
SMALL = Limits(kv_blocks=20, block_tokens=BLOCK, max_sequences=8, max_batched_tokens=16)


def engine(kv_blocks: int = 20, speed: Speed = SPEED, max_sequences: int = 8) -> Engine:
    return Engine(Limits(kv_blocks, BLOCK, max_sequences, max_batched_tokens=16), speed, Random(1))


def hashes(family: str, tokens: int) -> tuple[int, ...]:
    return tuple(hash((family, block)) for block in range(tokens // BLOCK))


def prefill(name: str, prompt: int = 8) -> Request:
    """The prefill half: one token, and the KV stays."""
    return Request(name, prompt, 1, hashes(name, prompt + 1), keep_kv=True)


def decode(name: str, prompt: int = 8, output: int = 3, family: str = "") -> Request:
    """The decode half: the prompt's KV comes from elsewhere."""
    return Request(name, prompt, output, hashes(family or name, prompt + output), remote_kv=True)


def plain(name: str, prompt: int = 8, output: int = 3) -> Request:
    return Request(name, prompt, output, hashes(name, prompt + output))


def run(subject: Engine, now: float = 0.0, deliver: bool = False) -> tuple[list[StepResult], float]:
    """Step until nothing more can be done; with `deliver` every transfer takes no time."""
    results: list[StepResult] = []
    for _ in range(10_000):
        if not subject.busy:
            return results, now
        results.append(subject.step(now))
        now += results[-1].duration
        if deliver:
            for fetch in results[-1].fetches:
                subject.deliver(fetch.id, now)
    raise AssertionError("it does not come to an end")


def finished(results: Iterable[StepResult]) -> list[str]:
    return [one.id for result in results for one in result.finished]


def test_a_prefill_leaves_its_kv_behind_until_it_is_released() -> None:
    subject = engine()
    subject.submit(prefill("a", prompt=10), 0.0)
    results, _ = run(subject)
    assert finished(results) == ["a"]
    assert (subject.statistics().kept, subject.statistics().kv_used_blocks) == (1, 3)
    assert subject.release("a")
    assert (subject.statistics().kept, subject.statistics().kv_used_blocks) == (0, 0)


def test_what_is_released_can_still_be_reused_by_the_next_prompt() -> None:
    subject = engine()
    subject.submit(prefill("a", prompt=8), 0.0)
    run(subject)
    subject.release("a")
    assert subject.holds(hashes("a", 8)) == 2


def test_kept_kv_is_released_once() -> None:
    subject = engine()
    subject.submit(prefill("a"), 0.0)
    run(subject)
    assert [subject.release("a"), subject.release("a"), subject.release("never")] == [True, False, False]


def test_an_id_whose_kv_is_kept_is_in_use() -> None:
    subject = engine()
    subject.submit(prefill("a"), 0.0)
    run(subject)
    with pytest.raises(ValueError, match="in use"):
        subject.submit(prefill("a"), 0.0)


def test_a_cancelled_prefill_keeps_nothing() -> None:
    subject = engine()
    subject.submit(prefill("a", prompt=40), 0.0)
    subject.step(0.0)
    assert subject.cancel("a")
    assert (subject.statistics().kept, subject.statistics().kv_used_blocks) == (0, 0)


def test_stranded_kv_keeps_others_waiting_and_costs_no_steps() -> None:
    subject = engine(kv_blocks=4)
    subject.submit(prefill("a", prompt=12), 0.0)
    run(subject)
    subject.submit(plain("b", prompt=8), 1.0)
    run(subject)
    assert (subject.busy, subject.statistics().waiting) == (False, 1)
    subject.release("a")
    assert finished(run(subject)[0]) == ["b"]


def test_a_decode_asks_for_its_prompts_kv_and_takes_no_time_doing_so() -> None:
    subject = engine()
    subject.submit(decode("a", prompt=10), 0.0)
    assert subject.step(0.0) == StepResult(0.0, fetches=(Fetch("a", 10),))
    known = subject.statistics()
    assert (subject.busy, known.loading, known.waiting, known.running) == (False, 1, 1, 0)
    assert known.kv_used_blocks == 3, "room for the whole prompt is reserved while it is on its way"


def test_a_decode_with_its_kv_computes_one_token_of_the_prompt() -> None:
    subject = engine()
    subject.submit(decode("a", prompt=10, output=3), 0.0)
    run(subject)
    assert subject.deliver("a", 5.0)
    results, end = run(subject, now=5.0)
    assert [result.prefill_tokens for result in results] == [1, 0, 0]
    one = results[-1].finished[0]
    assert one.queued_s == pytest.approx(5.0), "as vLLM counts it, a request is queued while its KV comes"
    assert one.first_token_at == pytest.approx(5.0 + 0.01 + 1 / 1000)
    assert (one.cached_tokens, one.last_token_at, subject.statistics().kv_used_blocks) == (9, end, 0)


def test_what_the_decode_engine_has_cached_is_not_fetched_again() -> None:
    subject = engine()
    subject.submit(decode("first", prompt=9, family="same"), 0.0)
    run(subject, deliver=True)
    subject.submit(decode("second", prompt=9, family="same"), 1.0)
    assert subject.step(1.0).fetches == (Fetch("second", 1),)
    assert subject.statistics().prefix_hit_tokens == 0, "hits are counted when the request begins to run"
    subject.deliver("second", 1.0)
    assert subject.statistics().prefix_hit_tokens == 8


def test_a_decode_cancelled_on_the_way_gives_its_blocks_back() -> None:
    subject = engine()
    subject.submit(decode("a"), 0.0)
    run(subject)
    assert subject.cancel("a")
    assert subject.statistics().kv_used_blocks == 0
    assert not subject.deliver("a", 1.0), "a transfer that comes too late is thrown away"


def test_requests_whose_kv_is_on_its_way_count_toward_the_largest_batch() -> None:
    subject = engine(max_sequences=2)
    for name in "abc":
        subject.submit(decode(name), 0.0)
    assert [fetch.id for fetch in subject.step(0.0).fetches] == ["a", "b"]


def test_a_decode_that_is_preempted_computes_its_prompt_itself() -> None:
    subject = engine(kv_blocks=5)
    subject.submit(decode("a", prompt=8, output=8), 0.0)
    subject.submit(decode("b", prompt=8, output=8), 0.0)
    results, _ = run(subject, deliver=True)
    assert sorted(finished(results)) == ["a", "b"]
    assert sum(result.preempted for result in results) >= 1
    assert sum(len(result.fetches) for result in results) == 2


def slowest_token(subject: Engine, decoding: str) -> float:
    """The longest step in which this request got a token."""
    results, _ = run(subject, deliver=True)
    return max(result.duration for result in results if (decoding, 1) in result.emitted)


def test_prompts_computed_in_the_same_engine_slow_its_decoding_and_fetched_ones_do_not() -> None:
    """The interference that the split is for: a chunk of a prompt shares the step with everybody's next token."""
    durations = {}
    for name, other in (("computed", plain("other", 40, 1)), ("fetched", decode("other", 40, 1))):
        subject = engine(kv_blocks=40)
        subject.submit(plain("long", prompt=4, output=20), 0.0)
        subject.step(0.0)
        subject.submit(other, 0.0)
        durations[name] = slowest_token(subject, "long")
    assert durations["computed"] == pytest.approx(0.01 + 15 / 1000), "a full chunk beside the one decoding sequence"
    assert durations["fetched"] == pytest.approx(0.01 + 1 / 1000)


def test_a_transfer_takes_its_setup_and_its_bytes() -> None:
    assert Transfer(1000, 1e6, setup_s=0.5).seconds(100) == pytest.approx(0.5 + 0.1)
    assert Transfer(1000, 1e6, setup_s=0.5).faster(10).seconds(100) == pytest.approx(0.05 + 0.01)


def test_transfers_on_one_link_wait_for_each_other() -> None:
    link = Link(Transfer(1000, 1e6, setup_s=0.5))
    assert link.carry(100, now=1.0) == pytest.approx(1.6)
    assert link.carry(100, now=1.0) == pytest.approx(1.7)
    assert link.carry(100, now=9.0) == pytest.approx(9.6)


def test_a_transfer_is_through_when_both_links_are() -> None:
    busy, idle = Link(Transfer(1000, 1e6)), Link(Transfer(1000, 1e6))
    busy.carry(1000, now=0.0)
    assert move(100, 0.0, sender=busy, receiver=idle) == pytest.approx(1.1)
    assert idle.carry(100, 0.0) == pytest.approx(0.2)


happenings = st.lists(
    st.tuples(
        st.sampled_from(["prefill", "decode", "plain"]),
        st.integers(1, 20),
        st.integers(1, 12),
        st.sampled_from(["step", "deliver", "cancel", "release", "none"]),
    ),
    min_size=1,
    max_size=40,
)


class Play:
    """An engine, the transfers under way and the KV kept, as whoever drives an engine sees them."""

    def __init__(self, subject: Engine) -> None:
        self.subject = subject
        self.moving: list[str] = []
        self.kept: list[str] = []
        self.done: set[str] = set()
        self.gone: set[str] = set()

    def step(self) -> None:
        result = self.subject.step(0.0)
        self.moving.extend(fetch.id for fetch in result.fetches)
        names = finished([result])
        self.done.update(names)
        self.kept.extend(name for name in names if name.startswith("prefill"))
        known = self.subject.statistics()
        assert known.kv_used_blocks <= known.kv_total_blocks
        assert known.running + known.loading <= self.subject.limits.max_sequences

    def act(self, action: str, name: str) -> None:
        if action == "step":
            self.step()
        elif action == "deliver" and self.moving:
            self.subject.deliver(self.moving.pop(0), 0.0)
        elif action == "cancel" and self.subject.cancel(name):
            self.gone.add(name)
        elif action == "release" and self.kept:
            assert self.subject.release(self.kept.pop())

    def wind_up(self) -> None:
        for _ in range(5000):
            if self.subject.busy:
                self.step()
            elif self.moving:
                self.act("deliver", "")
            elif self.kept:
                self.act("release", "")
            else:
                return


@settings(max_examples=300, deadline=None)
@given(happenings, st.integers(8, 16), st.integers(1, 4))
def test_whatever_happens_no_block_is_lost_and_everyone_ends(
    happening: list[tuple[str, int, int, str]], kv_blocks: int, max_sequences: int
) -> None:
    play = Play(engine(kv_blocks=kv_blocks, max_sequences=max_sequences))
    for number, (kind, prompt, output, action) in enumerate(happening):
        name = f"{kind}-{number}"
        request = {"prefill": prefill(name, prompt), "decode": decode(name, prompt, output)}.get(kind)
        play.subject.submit(request or plain(name, prompt, output), 0.0)
        play.act(action, name)
    play.wind_up()
    known = play.subject.statistics()
    assert (known.kv_used_blocks, known.waiting, known.running, known.kept, known.loading) == (0, 0, 0, 0, 0)
    assert len(play.done) + len(play.gone) == len(happening)
