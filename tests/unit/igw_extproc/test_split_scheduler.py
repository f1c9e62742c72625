"""Placement on two endpoints: who computes the prompt and who answers, and what is counted where until when."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igw_api.split import PrefillFailure, Split
from igw_api.wire import ROLE_LABELS
from igw_extproc.domain import Ask, Endpoint, EngineKind, EngineLoad
from igw_extproc.inflight import STALE_AFTER, Ledger
from igw_extproc.ledgers import Ledgers
from igw_extproc.scheduling.framework import Decision
from igw_extproc.scheduling.prefix import PrefixIndex, chain, seed
from igw_extproc.scheduling.split import PairLease, SplitScheduler
from igw_extproc.scheduling.trust import Trust

STATIC, DYNAMIC = Split(), Split(dynamic=True)
HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"


class Pool:
    """Engines of 100,000 KV tokens, one for each word in `roles`, and a clock that stands still."""

    def __init__(self, roles: str, split: Split = STATIC) -> None:
        self.index = PrefixIndex()
        self.ledgers = Ledgers(self.index.forget)
        named = enumerate(roles.split())
        self.ledgers.sync([Endpoint(f"10.0.0.{at}:8000", {ROLE_LABELS[0]: role}) for at, role in named])
        self.all = tuple(self.ledgers)
        for at in range(len(self.all)):
            self.says(at)
        self.scheduler = SplitScheduler(split, self.index)
        self.scheduler.serve(self.all)
        self.rng = random.Random(1)

    def says(self, at: int, running: float = 0, waiting: float = 0, kv: float = 0.0) -> None:
        said = EngineLoad(EngineKind.VLLM, running, waiting, kv_usage=kv, kv_capacity_tokens=100_000)
        self.all[at].scraped(self.all[at].scrape_started(), said, 0.0)

    def pick(self, ask: Ask, now: float = 1.0) -> Decision:
        decision = self.scheduler.pick(self.scheduler.candidates(self.all), ask, now, self.rng)
        assert decision is not None
        return decision

    def placed(self, ask: Ask) -> tuple[int | None, int]:
        """Who computes the prompt (None: who answers), who answers."""
        decision = self.pick(ask)
        prefiller = decision.prefiller
        return None if prefiller is None else prefiller.slot, decision.order[0].slot

    def holds(self, at: int, ask: Ask) -> None:
        """That endpoint has the prompt in its cache."""
        self.index.expect(at, ask.prefix, 100_000).confirm()

    def cached(self, at: int, ask: Ask) -> int:
        return self.index.match(ask.prefix).get(at, 0)


def an_ask(prompt: int = 4_000, output: int = 200, word: str = "word ", divisible: bool = True) -> Ask:
    said = (word * prompt * 4)[: prompt * 4].encode()
    return Ask("llama", prompt, output, chain(said, seed("llama")), divisible=divisible)


def counted(one: Ledger) -> tuple[int, float, float]:
    """Requests, KV tokens, tokens that wait for a first byte."""
    return one.requests, one.kv_tokens, one.backlog_tokens


def test_prompts_and_answers_go_to_endpoints_of_their_own() -> None:
    pool = Pool("prefill decode prefill decode")
    seen = Counter(pool.placed(an_ask(word=f"tenant {number} ")) for number in range(40))
    assert {pair[0] for pair in seen} == {0, 2} and {pair[1] for pair in seen} == {1, 3}


@pytest.mark.parametrize(("trust", "prefiller"), [(1.0, 0), (0.0, 1)])
def test_a_cache_in_which_nothing_is_found_draws_no_prompt(trust: float, prefiller: int) -> None:
    pool, ask = Pool("prefill prefill decode"), an_ask()
    pool.holds(0, ask)
    pool.says(0, running=1)
    pool.scheduler.doubts = {0: trust}
    assert pool.placed(ask)[0] == prefiller


def test_what_is_expected_in_such_a_cache_is_still_compared_so_that_trust_may_come_back() -> None:
    pool, ask = Pool("prefill decode"), an_ask()
    pool.holds(0, ask)
    pool.scheduler.doubts = {0: 0.0}
    decision = pool.pick(ask)
    assert isinstance(decision.lease, PairLease) and decision.cached_tokens == 0
    assert decision.lease.prefill.matched_tokens > 3_000
    decision.lease.prefilled(2.0)
    assert pool.all[0].trust.expected.cached > 3_000
    assert decision.lease.matched_tokens == 0, "what the other one finds is not its own"
    decision.lease.counted(4_000, 0)
    assert pool.all[1].trust.value == 1.0


def test_the_prompt_goes_where_it_is_cached_and_the_answer_where_there_is_room() -> None:
    """Each by the policy of its role."""
    pool = Pool("prefill prefill decode decode")
    pool.holds(1, an_ask())
    pool.says(2, running=20, kv=0.8)
    assert pool.placed(an_ask()) == (1, 3)


def test_a_waiting_queue_turns_a_cached_prompt_away() -> None:
    pool = Pool("prefill prefill decode")
    pool.holds(1, an_ask())
    pool.says(1, running=10, waiting=200, kv=0.9)
    assert pool.placed(an_ask()) == (0, 2)


def test_what_an_endpoint_holds_already_need_not_be_moved_to_it() -> None:
    pool = Pool("prefill decode decode", Split(transfer=1.0))
    pool.holds(2, an_ask())
    assert {pool.placed(an_ask()) for _ in range(5)} == {(0, 2)}


def test_both_endpoints_are_charged_before_the_next_pick() -> None:
    pool = Pool("prefill decode")
    ask = an_ask(4_000, 200)
    decision = pool.pick(ask)
    assert counted(pool.all[0]) == (1, 4_000, 4_000), "the prompt, until the first byte"
    assert counted(pool.all[1]) == (1, 4_200, 0), "prompt and answer, nothing of it to compute"
    decision.lease.first_byte(1.0)
    assert counted(pool.all[0]) == (0, 0, 0)
    assert counted(pool.all[1]) == (1, 4_200, 0)
    decision.lease.close(2.0)
    assert counted(pool.all[1]) == (0, 0, 0)


def test_after_a_success_both_hold_the_prompt() -> None:
    pool = Pool("prefill decode")
    decision = pool.pick(an_ask())
    decision.lease.first_byte(1.0)
    decision.lease.close(2.0)
    assert pool.cached(0, an_ask()) == pool.cached(1, an_ask()) > 3_000


def test_after_a_failure_neither_does() -> None:
    pool = Pool("prefill decode")
    pool.pick(an_ask()).lease.close(1.0, succeeded=False)
    assert pool.cached(0, an_ask()) == pool.cached(1, an_ask()) == 0
    assert [counted(one) for one in pool.all] == [(0, 0, 0)] * 2


def test_a_prefiller_that_failed_is_released_while_the_answer_goes_on() -> None:
    pool = Pool("prefill decode")
    lease = pool.pick(an_ask()).lease
    assert isinstance(lease, PairLease)
    lease.prefilled(1.0, succeeded=False)
    assert counted(pool.all[0]) == (0, 0, 0) and pool.cached(0, an_ask()) == 0
    lease.first_byte(2.0)
    assert pool.all[1].requests == 1 and pool.cached(1, an_ask()) > 3_000


def test_retries_go_to_endpoints_that_answer() -> None:
    pool = Pool("prefill decode decode decode prefill")
    decision = pool.pick(an_ask())
    assert {one.slot for one in decision.order} == {1, 2, 3}
    decision.lease.moved_to(decision.order[1])
    assert decision.lease.ledger is decision.order[1] and decision.order[0].requests == 0
    assert decision.prefiller is not None and decision.prefiller.requests == 1, "the prompt stays where it was"
    decision.lease.close(1.0)
    assert all(one.requests == 0 for one in pool.all)


def test_one_that_is_for_both_does_both_where_that_is_cheapest() -> None:
    pool = Pool("both prefill decode")
    pool.says(1, running=20, waiting=20, kv=0.9)
    assert pool.placed(an_ask()) == (None, 0)
    alone = Pool("both")
    assert alone.placed(an_ask()) == (None, 0)


def test_in_a_static_pool_an_endpoint_for_answers_never_gets_a_whole_request() -> None:
    pool = Pool("prefill decode")
    pool.says(0, running=50, waiting=500, kv=1.0)
    pool.holds(1, an_ask())
    assert pool.placed(an_ask()) == (0, 1)


def test_a_dynamic_pool_does_not_divide_what_is_short_or_cached() -> None:
    pool = Pool("prefill decode", Split(dynamic=True, min_uncached=1_000))
    pool.says(1, running=50, kv=0.5)
    assert pool.placed(an_ask(5_000)) == (0, 1)
    assert pool.placed(an_ask(200, word="short ")) == (None, 1)
    pool.holds(1, an_ask(5_000))
    assert pool.placed(an_ask(5_000)) == (None, 1)


def test_a_dynamic_pool_does_not_divide_where_that_gains_nothing() -> None:
    """Nobody is hindered where nobody is answered, and a prompt that is not moved arrives at once."""
    pool = Pool("prefill decode", DYNAMIC)
    assert pool.placed(an_ask(5_000)) == (None, 1)
    busy = Pool("prefill decode", DYNAMIC)
    busy.says(1, running=50, kv=0.1)
    assert busy.placed(an_ask(5_000)) == (0, 1)
    busy.says(0, running=50, waiting=500)
    assert busy.placed(an_ask(5_000)) == (None, 1)


def test_a_short_prompt_does_not_wait_behind_a_long_one_because_its_answer_is_long() -> None:
    """What the answer takes is the same whoever computes the prompt, and says nothing of who should."""
    pool = Pool("prefill decode", DYNAMIC)
    pool.says(1, running=20, kv=0.5)
    assert pool.placed(an_ask(prompt=16_000)) == (0, 1)
    for output in (10, 4_000):
        assert pool.placed(an_ask(prompt=400, output=output, word=f"{output} ")) == (None, 1)


def test_in_a_dynamic_pool_those_for_both_have_one_role_at_a_time() -> None:
    pool = Pool("both both both", DYNAMIC)
    for at in range(3):
        pool.says(at, running=20, kv=0.3)
    seen = {pool.placed(an_ask(8_000, word=f"{number} ")) for number in range(20)}
    (prefiller,) = {pair[0] for pair in seen if pair[0] is not None}
    assert prefiller not in {pair[1] for pair in seen}


def test_what_cannot_be_divided_goes_whole_to_those_that_answer() -> None:
    """Embeddings, say: engines take the parameters of a moved prompt with completions only."""
    pool = Pool("prefill decode both")
    asks = [an_ask(word=f"{number} ", divisible=False) for number in range(8)]
    assert {pool.placed(ask) for ask in asks} == {(None, 1), (None, 2)}


@pytest.mark.parametrize("failure", list(PrefillFailure))
@pytest.mark.parametrize("dynamic", [False, True])
def test_without_a_prefiller_it_is_as_the_pool_wants(failure: PrefillFailure, dynamic: bool) -> None:
    pool = Pool("prefill decode", Split(dynamic=dynamic, on_failure=failure))
    pool.all[0].unreachable("refused")
    allowed = pool.scheduler.candidates(pool.all)
    expected = None if failure is PrefillFailure.DECODE else failure
    assert pool.scheduler.missing(allowed, an_ask()) is expected
    assert pool.scheduler.missing(allowed, an_ask(divisible=False)) is None
    assert pool.scheduler.missing(allowed, an_ask(100)) is (None if dynamic else expected), "short"
    assert pool.placed(an_ask()) == (None, 1)


def test_without_an_endpoint_that_answers_there_are_no_candidates() -> None:
    pool = Pool("prefill decode")
    pool.all[1].unreachable("refused")
    assert pool.scheduler.candidates(pool.all) == []
    assert pool.scheduler.pick([pool.all[0]], an_ask(), 1.0, pool.rng) is None
    assert pool.all[0].requests == 0


def test_a_proxys_subset_says_who_answers_and_not_who_computes_the_prompt() -> None:
    """A prompt's endpoint is no destination."""
    pool = Pool("prefill decode decode")
    allowed = pool.scheduler.candidates(pool.all, {pool.all[2].endpoint.address})
    decision = pool.scheduler.pick(allowed, an_ask(), 1.0, pool.rng)
    assert decision is not None
    assert decision.order == (pool.all[2],) and decision.prefiller is pool.all[0]


def test_an_endpoint_that_is_for_nothing_gets_nothing() -> None:
    pool = Pool("prefill encode decode")
    assert {pool.placed(an_ask()) for _ in range(5)} == {(0, 2)}


def test_a_silent_engine_never_looks_idle_in_either_role() -> None:
    """Ours in flight count where its word is too old."""
    pool = Pool("prefill prefill decode decode")
    for _ in range(4):
        pool.pick(an_ask(word=f"{_} "))
    for at in range(4):
        pool.says(at)
    late = 1.0 + STALE_AFTER
    pool.all[1].scraped(pool.all[1].scrape_started(), EngineLoad(EngineKind.VLLM, kv_usage=0.0), late)
    pool.pick(an_ask(word="late "), late)
    assert all(late < one.stale_at for one in pool.all)


def spread(*hosts: str, nearby: tuple[tuple[str, float], ...] = ((HOST, 0.01), (ZONE, 0.05))) -> Pool:
    """A prefill and a decode endpoint by turns, at `zone/host` each."""
    pool = Pool("prefill decode " * (len(hosts) // 2), Split(nearby=nearby))
    placed = [
        Endpoint(one.endpoint.address, {**one.endpoint.labels, ZONE: host.split("/")[0], HOST: host})
        for one, host in zip(pool.all, hosts, strict=True)
    ]
    pool.ledgers.sync(placed)
    pool.scheduler.serve(pool.all)
    return pool


def test_pairs_on_one_host_go_before_pairs_in_one_zone_and_these_before_others() -> None:
    assert spread("a/1", "b/1", "a/2", "a/2").placed(an_ask()) == (2, 3)
    assert spread("a/1", "b/1", "b/2", "c/3").placed(an_ask()) == (2, 1)


def test_without_a_label_all_are_as_far() -> None:
    pool = spread("a/1", "a/1", "b/2", "b/2", nearby=())
    assert {pool.placed(an_ask(10, 1, word=f"{n} ")) for n in range(40)} == {(0, 1), (0, 3), (2, 1), (2, 3)}


def test_a_shorter_way_is_worth_what_it_saves_and_no_more() -> None:
    """Of 4,000 tokens 9 %: a prompt of 1,000 tokens that waits there costs more."""
    pool = spread("a/1", "a/1", "b/2", "b/3")
    pool.all[0].reserve(Ask("m", 100, 0), 0, 0.0)
    assert pool.placed(an_ask())[0] == 0
    pool = spread("a/1", "a/1", "b/2", "b/3")
    pool.all[0].reserve(Ask("m", 1_000, 0), 0, 0.0)
    assert pool.placed(an_ask())[0] == 2


def test_the_way_is_part_of_the_predicted_first_token() -> None:
    near, far = spread("a/1", "a/1"), spread("a/1", "b/2")
    prompt = 4_000 * near.all[0].prefill_s
    assert far.pick(an_ask()).first_token_s - near.pick(an_ask()).first_token_s == pytest.approx(0.09 * prompt)


def test_endpoints_without_the_label_are_near_nobody() -> None:
    pool = Pool("prefill decode", Split(nearby=((HOST, 0.01),)))
    assert pool.pick(an_ask()).first_token_s == pytest.approx(Pool("prefill decode").pick(an_ask()).first_token_s)


def test_other_rules_apply_from_the_next_pick_on() -> None:
    pool = Pool("prefill decode decode")
    pool.scheduler.configure(Split(decode="round-robin"))
    pool.says(1, running=40, kv=0.9)
    assert {pool.placed(an_ask()) for _ in range(4)} == {(0, 1), (0, 2)}


ROLES = st.lists(st.sampled_from(["prefill", "decode", "both"]), min_size=1, max_size=6)
STEPS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9_000), st.sampled_from("pfcmx")), max_size=30)


@settings(deadline=None)
@given(ROLES, st.booleans(), STEPS)
def test_whatever_happens_everything_is_given_back(
    roles: list[str], dynamic: bool, steps: list[tuple[int, int, str]]
) -> None:
    pool = Pool(" ".join(roles), Split(dynamic=dynamic))
    flying: list[Decision] = []
    for at, tokens, what in steps:
        if what == "p" or not flying:
            allowed = pool.scheduler.candidates(pool.all)
            decision = pool.scheduler.pick(allowed, an_ask(tokens), 1.0, pool.rng)
            if decision is not None:
                flying.append(decision)
                assert decision.prefiller not in decision.order, "nor may a retry go there"
            continue
        lease = flying[at % len(flying)].lease
        if what == "f":
            lease.first_byte(1.0, succeeded=tokens % 2 == 0)
        elif what == "m":
            lease.moved_to(pool.all[at % len(pool.all)])
        elif what == "x" and isinstance(lease, PairLease):
            lease.prefilled(1.0, succeeded=False)
        else:
            lease.close(1.0)
    for decision in flying:
        decision.lease.close(2.0)
    assert [counted(one) for one in pool.all] == [(0, 0, 0)] * len(pool.all)


def test_an_answer_that_is_bound_to_an_endpoint_leaves_the_prompt_free() -> None:
    """As of a conversation that its engine keeps."""
    pool = Pool("prefill decode decode both")
    decision = pool.scheduler.pick([pool.all[2]], an_ask(), 1.0, pool.rng)
    assert decision is not None
    assert decision.order == (pool.all[2],) and decision.prefiller in (pool.all[0], pool.all[3])


def test_a_prefiller_that_keeps_failing_gets_no_prompts_for_a_while() -> None:
    """Its metrics page may be fine: only sidecars know. One that was sent before does not count."""
    pool = Pool("prefill prefill decode")
    pool.holds(0, an_ask())
    sent = [pool.pick(an_ask()).lease for _ in range(5)]
    assert {lease.prefill.ledger for lease in sent if isinstance(lease, PairLease)} == {pool.all[0]}
    for lease in sent:
        assert isinstance(lease, PairLease)
        lease.prefilled(1.0, succeeded=False)
        lease.blame(1.0)
        lease.close(1.0)
    assert pool.pick(an_ask(), 5.9).prefiller is pool.all[1]
    assert pool.pick(an_ask(), 6.0).prefiller is pool.all[0]


def test_a_success_restores_trust_and_the_only_prefiller_is_always_tried() -> None:
    pool = Pool("prefill decode")
    for outcome in (False, False, True, False, False, False, False):
        decision = pool.pick(an_ask())
        assert decision.prefiller is pool.all[0]
        assert isinstance(decision.lease, PairLease)
        decision.lease.prefilled(1.0, outcome)
        if not outcome:
            decision.lease.blame(1.0)
        decision.lease.close(1.0)


def test_each_further_time_is_longer_up_to_a_minute() -> None:
    trust, one = Trust(), Pool("prefill").all[0]
    now, waits = 0.0, []
    for _ in range(14):
        for _ in range(3):
            trust.failed(one.endpoint.address, now)
        waits.append(next(second for second in range(100) if trust.trusted([one], now + second)))
        now += waits[-1]
    assert waits[:3] == [5, 10, 15] and waits[-1] == 60
    trust.succeeded(one.endpoint.address)
    assert trust.trusted([one], now) == [one]
