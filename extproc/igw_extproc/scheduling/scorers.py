"""What placing a request on an endpoint costs, in token equivalents: the time to compute one prompt token. Lower wins.

One unit for everything, so terms add without weights to tune, and only differences between endpoints matter. Each
function returns one cost for each candidate, in order. They run on every request over every endpoint: plain attribute
reads in one comprehension, no call per endpoint. Pure; the table in `policies` names them.
"""

from collections.abc import Mapping, Sequence

from igw_extproc.domain import Ask
from igw_extproc.inflight import Ledger

# A token that is computed again, because another endpoint holds it, also evicts a token that somebody would reuse,
# which is then computed again too. At 1, busy moments copy every prefix everywhere and the hit rate collapses; the
# higher, the longer a hot prefix waits at its one endpoint. 4 to 6 is flat (docs/policies.md, "The study").
PRICE = 4.0
# An engine whose whole cache is smaller than the request cannot serve it. Room that is taken just now is no reason:
# what shares a prefix is counted more than once, and even half a token for each that does not fit scattered tenants.
TOO_SMALL = 1_000_000.0
# Bringing an adapter into a free place takes some tenths of a second, and evicts in the end what others use; with no
# free place the request waits until the last request of another adapter has ended, as long as for room in a full cache.
ADAPTER_LOAD = 8_000.0
ADAPTER_WAIT = 64_000.0


def nothing(candidates: Sequence[Ledger], ask: Ask, cached: Mapping[int, int]) -> list[float]:
    """For pickers that do not compare."""
    return [0.0] * len(candidates)


def least_request(candidates: Sequence[Ledger], ask: Ask, cached: Mapping[int, int]) -> list[float]:
    """Requests in the engine, whoever sent them."""
    return [ledger.queued for ledger in candidates]


def least_token(candidates: Sequence[Ledger], ask: Ask, cached: Mapping[int, int]) -> list[float]:
    """Tokens in flight: what running requests hold and queued ones will need."""
    return [ledger.kv_tokens for ledger in candidates]


def llm_metric(candidates: Sequence[Ledger], ask: Ask, cached: Mapping[int, int]) -> list[float]:
    """What is in the way there (`Ledger.delay`), where the request fits at all."""
    need = ask.prompt_tokens + ask.output_tokens
    return [ledger.delay if ledger.kv_capacity >= need else ledger.delay + TOO_SMALL for ledger in candidates]


def prefix_cache(candidates: Sequence[Ledger], ask: Ask, cached: Mapping[int, int]) -> list[float]:
    """`llm_metric`, and the prompt tokens that the endpoint would still have to compute, at PRICE each.

    The whole prompt is common to all candidates and left out: a hit is a rebate.
    """
    costs = llm_metric(candidates, ask, cached)
    if not cached:
        return costs
    held = cached.get
    return [cost - PRICE * held(ledger.slot, 0) for cost, ledger in zip(costs, candidates, strict=True)]


def add_adapter(costs: list[float], candidates: Sequence[Ledger], adapter: str) -> None:
    """Add what each candidate needs before it can serve `adapter`: nothing, a free place, or somebody else's."""
    for at, ledger in enumerate(candidates):
        if adapter in ledger.adapters:
            continue
        load = ledger.load
        running = load.running_adapters | load.waiting_adapters if load is not None else frozenset()
        if adapter in running:
            continue
        places = load.max_adapters if load is not None else None
        full = places is not None and len(running | ledger.adapters.keys()) >= places
        costs[at] += ADAPTER_WAIT if full else ADAPTER_LOAD
