"""Placement where one endpoint computes the prompt and another the answer (prefill/decode). Called as `Scheduler` is.

What each costs, in seconds, with the pool's two policies:

    prompt at p:            prefill policy's cost + HINDERS x time for uncached tokens x requests being answered there
    answer at d:            decode policy's cost + transfer x time to compute the tokens that d does not hold yet,
                            where `transfer` is less for a p in the same domain (`Split.nearby`)
    pair (p, d):            both; p and d differ
    one endpoint for both:  prompt at e + answer at e, less the transfer; where that is allowed

and the lowest of all is taken (`pairs`). One for both is allowed where an endpoint is for both roles, and in a dynamic
pool at every endpoint for answers, as the only way where it misses fewer than `min_uncached` tokens of the prompt.

What is reserved: at p the prompt, until the first byte; at d the KV of prompt and answer, until the end. The index
expects the prompt at both.
"""

import math
from collections.abc import Container, Mapping, Sequence
from random import Random
from typing import Final, NamedTuple

from igw_api import wire
from igw_api.split import PrefillFailure, Role, Split
from igw_extproc.domain import Ask
from igw_extproc.inflight import Lease, Ledger
from igw_extproc.scheduling import filters
from igw_extproc.scheduling.framework import Decision, Policy, Weighed, costs_of
from igw_extproc.scheduling.nearby import Choice, Nearby
from igw_extproc.scheduling.pairs import Pair, best_pair, cheaper
from igw_extproc.scheduling.pickers import cheapest
from igw_extproc.scheduling.policies import POLICIES
from igw_extproc.scheduling.popularity import Held, Popularity
from igw_extproc.scheduling.prefix import PrefixExpectation, PrefixIndex
from igw_extproc.scheduling.roles import Roles
from igw_extproc.scheduling.trust import Trust
from igw_extproc.speeds import Levelling, level

# A prompt token that is computed between the steps of running answers delays each of them by its own time. Chunked
# prefill hides part of that, since a step of few answers leaves most of the device idle.
HINDERS: Final = 0.1
# What an uncached token counts at most, in times of its computing. Less than in other pools: a prefix that is elsewhere
# must not keep a prompt from those who have nothing else to do than compute prompts.
HIGHEST_PRICE: Final = 2.5


class PairLease:
    """One request's share at two endpoints. Every call may come in any order and more than once."""

    __slots__ = ("_trust", "decode", "prefill")

    def __init__(self, prefill: Lease, decode: Lease, trust: Trust) -> None:
        self.prefill = prefill
        self.decode = decode
        self._trust = trust

    @property
    def ledger(self) -> Ledger:
        """Where the answer comes from."""
        return self.decode.ledger

    @property
    def ask(self) -> Ask:
        """What is counted there."""
        return self.decode.ask

    def prefilled(self, now: float, succeeded: bool = True) -> None:
        """The sidecar says that the prompt has left the endpoint that computed it, or that this one did not do it."""
        if succeeded:
            self._trust.succeeded(self.prefill.ledger.endpoint.address)
        self._release(now, succeeded)

    def blame(self, now: float) -> None:
        """It was the endpoint's fault, and not the request's."""
        self._trust.failed(self.prefill.ledger.endpoint.address, now)

    def _release(self, now: float, succeeded: bool) -> None:
        self.prefill.first_byte(now, succeeded)
        self.prefill.close(now, succeeded)

    def first_byte(self, now: float, succeeded: bool = True) -> None:
        """The answer began, which it does after the prompt has arrived."""
        self._release(now, succeeded)
        self.decode.first_byte(now, succeeded)

    def close(self, now: float, succeeded: bool = True) -> None:
        """The request is over at both."""
        self.prefill.close(now, succeeded)
        self.decode.close(now, succeeded)

    def forget(self) -> None:
        """It is over at both, and kept without what grows with its prompt."""
        self.prefill.forget()
        self.decode.forget()

    @property
    def matched_tokens(self) -> int:
        """Of no use: what the endpoint for the answer counts as cached may have come from the other one."""
        return 0

    def counted(self, prompt_tokens: int, cached_tokens: int) -> None:
        """Nothing is learnt of it, see above."""

    def moved_to(self, other: Ledger) -> None:
        """The proxy retried another endpoint for the answer; the prompt stays where it was."""
        self.decode.moved_to(other)

    def hold(self) -> None:
        """The request waits in the picker for its place at both."""
        self.prefill.hold()
        self.decode.hold()

    def go(self) -> None:
        """It need not wait."""
        self.prefill.go()
        self.decode.go()

    def send(self, now: float) -> None:
        """It waits no longer."""
        self.prefill.send(now)
        self.decode.send(now)


class SplitStatistics(NamedTuple):
    """One pool's numbers: requests by how many endpoints they got, and each endpoint's role now."""

    pairs: int
    singles: int
    roles: tuple[tuple[str, Role], ...]  # by address
    changes: int


class _Halves(NamedTuple):
    """Who may compute the prompt, and who the answer. An endpoint for both roles is in both."""

    prefill: list[Ledger]
    decode: list[Ledger]
    apart: bool = False  # no endpoint for both


class SplitScheduler:
    """Places the requests of one pool that divides them. `serve` tells it the pool's endpoints: of those it takes who
    computes prompts, and of a pick's candidates who answers."""

    def __init__(self, split: Split, index: PrefixIndex) -> None:
        self.split = split
        self.roles = Roles(split.dwell)
        self._trust = Trust()
        self.doubts: Mapping[int, float] = {}  # as in `Scheduler`
        self._index = index
        self._popularity = Popularity()
        self._turn = -1
        self._levelling = Levelling()
        self._pairs = self._singles = 0
        self._served: list[tuple[Ledger, Role]] = []
        self._computing: list[Ledger] = []  # those of them that may compute prompts
        self._role: dict[int, Role] = {}  # by slot
        self._near = Nearby((), ())
        self._prefill, self._decode = POLICIES[split.prefill], POLICIES[split.decode]

    @property
    def reads_prefixes(self) -> bool:
        """Always: what an endpoint holds need not be moved to it."""
        return True

    def configure(self, split: Split) -> None:
        """Go on by these rules."""
        self.split = split
        self.roles.dwell = split.dwell
        self._prefill, self._decode = POLICIES[split.prefill], POLICIES[split.decode]

    def serve(self, ledgers: Sequence[Ledger]) -> None:
        """The pool has these endpoints from now on."""
        found = [(one, self.split.role(one.endpoint.labels)) for one in ledgers]
        self._served = [(one, role) for one, role in found if role is not None]
        self._role = {one.slot: role for one, role in self._served}
        self._computing = [one for one, role in self._served if role is not Role.DECODE]
        self._near = Nearby(self.split.nearby, ledgers)
        self.roles.serve(self._served)

    def candidates(self, ledgers: Sequence[Ledger], subset: Container[str] | None = None) -> list[Ledger]:
        """Who may be chosen for the answer, as `filters` says. No subset binds who computes the prompt."""
        return filters.candidates([one for one in ledgers if self._role.get(one.slot) in _ANSWERING], subset)

    def missing(self, candidates: Sequence[Ledger], ask: Ask | None = None) -> PrefillFailure | None:
        """What to do, since nobody can compute the prompt of `ask`, or any. None: somebody can.

        Judged without a look at the index: a long prompt in a dynamic pool counts even if it is cached.
        """
        failure, least = self.split.on_failure, self.split.min_uncached if self.split.dynamic else 0
        if failure is PrefillFailure.DECODE:
            return None
        if ask is not None and not (ask.divisible and ask.prompt_tokens >= least):
            return None
        return failure if candidates and not self._prefillers() else None

    def may(self, ledger: Ledger, *, computes: bool) -> bool:
        """Whether it may compute a prompt now, or else answer."""
        return ledger in (self._prefillers() if computes else self._answering([ledger]))

    def pick(
        self,
        candidates: Sequence[Ledger],
        ask: Ask,
        now: float,
        rng: Random,
        again: bool = False,
        computing: Sequence[Ledger] | None = None,
    ) -> Decision | None:
        """Choose among `candidates` and reserve. None: there is none for the answer. `again`: as for `Scheduler`.

        `computing`: the only ones that may compute the prompt; the roles are as they were, and a pair stays a pair.
        """
        if self.split.dynamic and computing is None:
            self.roles.review(now)
        able = self._prefillers() if computing is None else computing
        # If all have failed, one of them is tried: the sidecar knows what to do.
        trusted = self._trust.trusted(able, now) or list(able)
        sides = _Halves(trusted, self._answering(candidates), apart=bool(computing))
        if not sides.decode:
            return None
        if self._levelling.due(now):
            level([one for one, _ in self._served])
        held = self._popularity.held(self._index, ask.prefix, self.doubts, len(candidates))
        held = held._replace(price=min(held.price, HIGHEST_PRICE))
        return self._pair(sides, ask, held, now, rng)

    def _pair(self, sides: _Halves, ask: Ask, held: Held, now: float, rng: Random) -> Decision:
        self._turn += 1
        pair, order, weighed = self._choose(sides, ask, held, rng)
        prefiller = sides.prefill[pair.prefill] if pair.prefill is not None else None
        chosen = [one for at in order if (one := sides.decode[at]) is not prefiller]
        silent = [one for one in (chosen[0], prefiller) if one is not None and now >= one.stale_at]
        if silent:
            # As in `Scheduler.pick`: ageing raises costs, once for each silence.
            for one in (*sides.prefill, *sides.decode):
                one.age(now)
            return self._pair(sides, ask, held, now, rng)
        at = prefiller or chosen[0]
        hit = held.tokens.get(at.slot, 0)
        predicted = at.first_token_s(ask, hit)
        if prefiller is not None:
            predicted += (
                self._near.transfer(prefiller, chosen[0], self.split.transfer) * ask.prompt_tokens * prefiller.prefill_s
            )
        lease = self._reserve(ask, (chosen[0], prefiller), held, now)
        return Decision(tuple(chosen), hit, lease, weighed, prefiller, predicted)

    def _reserve(self, ask: Ask, chosen: tuple[Ledger, Ledger | None], held: Held, now: float) -> Lease | PairLease:
        decoder, prefiller = chosen
        cached, matched = held.tokens, held.matched
        hit = cached.get(decoder.slot, 0)
        if prefiller is None:
            self._singles += 1
            return decoder.reserve(ask, hit, now, self._expect(decoder, ask), matched.get(decoder.slot, 0))
        self._pairs += 1
        # Nothing of the prompt is computed where it is answered: there it is KV like the answer's own.
        arrives = max(ask.prompt_tokens - hit, 0) + ask.output_tokens
        answer = decoder.reserve(
            ask._replace(prompt_tokens=0, output_tokens=arrives), 0, now, self._expect(decoder, ask)
        )
        prompt = ask._replace(output_tokens=0)
        found, expected = cached.get(prefiller.slot, 0), matched.get(prefiller.slot, 0)
        at = prefiller.reserve(prompt, found, now, self._expect(prefiller, ask), expected)
        return PairLease(at, answer, self._trust)

    def _expect(self, ledger: Ledger, ask: Ask) -> PrefixExpectation | None:
        return self._index.expect(ledger.slot, ask.prefix, ledger.kv_capacity) if ask.prefix else None

    def _choose(self, sides: _Halves, ask: Ask, held: Held, rng: Random) -> tuple[Pair, list[int], tuple[Weighed, ...]]:
        """The lowest cost of all, the endpoints for the answer, the chosen one first, and what was weighed."""
        answer = self._costs(self._decode, sides.decode, ask, held)
        single, order, weighed = self._single(sides, ask, held, answer, rng)
        best = single
        if sides.prefill and ask.divisible:
            moved = self._moved(answer, sides.decode, ask, held.tokens, self.split.transfer)
            prompt = self._prompt(sides.prefill, ask, held)
            ends = self._decode.picker(sides.decode, moved, self._turn, rng)
            starts = self._prefill.picker(sides.prefill, prompt, self._turn, rng)
            pair = best_pair(sides.prefill, sides.decode, prompt, moved, (starts, ends))
            if self._near.levels:
                pickers = self._prefill.picker, self._decode.picker
                choice = Choice(sides.prefill, sides.decode, prompt, pickers, self._turn, rng)
                pair = self._near.cheaper(
                    pair, choice, lambda share: self._moved(answer, sides.decode, ask, held.tokens, share)
                )
            best, order = cheaper(pair, single), ends
            weighed += (
                Weighed(self._prefill.name, Role.PREFILL, sides.prefill, prompt, held.tokens),
                Weighed(self._decode.name, Role.DECODE, sides.decode, moved, held.tokens),
            )
        assert best is not None, "where there is no pair, one for both is allowed"
        return best, [best.decode, *(at for at in order if at != best.decode)], weighed

    def _single(
        self, sides: _Halves, ask: Ask, held: Held, answer: Sequence[float], rng: Random
    ) -> tuple[Pair | None, list[int], tuple[Weighed, ...]]:
        """The best endpoint that does both, if any may, and those that may, in order."""
        decode = sides.decode
        if sides.apart:
            return None, [], ()
        if self.split.dynamic or not ask.divisible or not sides.prefill:
            allowed = list(range(len(decode)))
        else:
            allowed = [at for at, one in enumerate(decode) if self._role[one.slot] is Role.BOTH]
            if not allowed:
                return None, [], ()
        able = [decode[at] for at in allowed]
        prompt = self._prompt(able, ask, held)
        costs = [answer[at] + cost for at, cost in zip(allowed, prompt, strict=True)]
        order = cheapest(able, costs, self._turn, rng)
        best = Pair(None, allowed[order[0]], costs[order[0]])
        return best, [allowed[at] for at in order], (Weighed(self._decode.name, Role.BOTH, able, costs, held.tokens),)

    def _costs(self, policy: Policy, side: Sequence[Ledger], ask: Ask, held: Held) -> list[float]:
        """What one of the two policies says, in seconds."""
        costs = costs_of(policy, side, ask, held)
        return costs if policy.second in (0.0, 1.0) else [cost / policy.second for cost in costs]

    def _prompt(self, side: Sequence[Ledger], ask: Ask, held: Held) -> list[float]:
        """What computing the prompt costs, there and to those who are being answered there.

        The answer is no part of it: what it takes is the decode policy's to say, and counted twice it would send short
        prompts behind long ones.
        """
        costs = self._costs(self._prefill, side, ask._replace(output_tokens=0), held)
        role, tokens, cached = self._role, ask.prompt_tokens, held.tokens
        for at, one in enumerate(side):
            if one.queued and role[one.slot] is not Role.PREFILL:
                costs[at] += HINDERS * max(tokens - cached.get(one.slot, 0), 0) * one.prefill_s * one.queued
        return costs

    def _moved(
        self, answer: Sequence[float], side: Sequence[Ledger], ask: Ask, cached: Mapping[int, int], transfer: float
    ) -> list[float]:
        """What the answer costs with the prompt from elsewhere. Infinite, where too little of it is missing."""
        tokens = ask.prompt_tokens
        least = self.split.min_uncached if self.split.dynamic else 0
        if not cached:
            if tokens < least:
                return [math.inf] * len(answer)
            return [cost + transfer * tokens * one.prefill_s for cost, one in zip(answer, side, strict=True)]
        return [
            cost + transfer * lacks * one.prefill_s
            if (lacks := max(tokens - cached.get(one.slot, 0), 0)) >= least
            else math.inf
            for cost, one in zip(answer, side, strict=True)
        ]

    def statistics(self) -> SplitStatistics:
        """The numbers now."""
        now = self.roles.now if self.split.dynamic else _FIXED
        roles = tuple((one.endpoint.address, now.get(one.slot, role)) for one, role in self._served)
        return SplitStatistics(self._pairs, self._singles, roles, self.roles.changes)

    def _prefillers(self) -> list[Ledger]:
        """Who may compute a prompt now."""
        able = self._computing
        if self.split.dynamic:
            now = self.roles.now
            able = [one for one in able if now.get(one.slot) is not Role.DECODE]
        return filters.candidates(able)

    def _answering(self, candidates: Sequence[Ledger]) -> list[Ledger]:
        """Who of them may answer now. Those that compute prompts for the time being can too, if nobody else is left."""
        role = self._role
        able = [one for one in candidates if role.get(one.slot) in _ANSWERING]
        if not self.split.dynamic:
            return able
        now = self.roles.now
        return [one for one in able if now.get(one.slot) is not Role.PREFILL] or able


# A tuple: members of an enum hash in Python code.
_ANSWERING: Final = (Role.DECODE, Role.BOTH)
_FIXED: Mapping[int, Role] = {}


def prefill_headers(split: Split | None, decision: Decision) -> tuple[tuple[str, str], ...]:
    """What the sidecar beside the decode endpoint is told. Nothing: that endpoint computes the prompt."""
    if split is None or decision.prefiller is None:
        return ()
    # Who has waited for a prefill endpoint need not be refused because it failed then.
    strict = split.on_failure is PrefillFailure.STRICT
    failure = wire.PREFILL_STRICT if strict else wire.PREFILL_DECODE
    return (wire.PREFILLER_HEADER, decision.prefiller.endpoint.address), (wire.PREFILL_FAILURE_HEADER, failure)
