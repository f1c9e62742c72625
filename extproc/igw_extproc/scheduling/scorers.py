"""What placing a request on an endpoint costs, in token equivalents: the time to compute one prompt token. Lower wins.

One unit for everything, so terms add without weights to tune, and only differences between endpoints matter. Each
function returns one cost for each candidate, in order. They run on every request over every endpoint: plain attribute
reads in one comprehension, no call per endpoint. Pure; the table in `policies` names them.
"""

from collections.abc import Mapping, Sequence

from igw_extproc.domain import Ask, Stay
from igw_extproc.inflight import Ledger

# A token that is computed again, because another endpoint holds it, also evicts a token that somebody would reuse,
# which is then computed again too. At 1, busy moments copy every prefix everywhere and the hit rate collapses; the
# higher, the longer a hot prefix waits at its one endpoint. 2.5 to 4 is flat and best (docs/policies.md, "The study").
PRICE = 2.5
# A KV token that does not fit makes the request wait until another ends. Low, because our estimate counts a prefix
# that requests share more than once: at 4 it scattered tenants whose requests did fit.
SHORT = 0.5
# Bringing an adapter into a free place takes about a tenth of a second; with no free place the request waits until
# the last request of another adapter has ended.
ADAPTER_LOAD = 2_000.0
ADAPTER_WAIT = 16_000.0
# A client that names its session wants to stay, though we may see nothing that is worth it: a tenth of a second.
SESSION = 2_000.0


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
    """What is in the way there (`Ledger.delay`), and the KV tokens that do not fit, at SHORT each."""
    need = ask.prompt_tokens + ask.output_tokens
    return [
        ledger.delay if (free := ledger.kv_free) >= need else ledger.delay + SHORT * (need - free)
        for ledger in candidates
    ]


def prefix_cache(candidates: Sequence[Ledger], ask: Ask, cached: Mapping[int, int]) -> list[float]:
    """`llm_metric`, and the prompt tokens that the endpoint would still have to compute, at PRICE each.

    The whole prompt is common to all candidates and left out: a hit is a rebate.
    """
    if not cached:
        return llm_metric(candidates, ask, cached)
    need = ask.prompt_tokens + ask.output_tokens
    held = cached.get
    return [
        ledger.delay - PRICE * held(ledger.slot, 0)
        if (free := ledger.kv_free) >= need
        else ledger.delay - PRICE * (hit := held(ledger.slot, 0)) + SHORT * max(need - hit - free, 0.0)
        for ledger in candidates
    ]


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


def add_stay(
    costs: list[float],
    candidates: Sequence[Ledger],
    stay: Stay,
    prompt_tokens: int,
    cached: Mapping[int, int],
    token: float,
) -> None:
    """Make the endpoint cheaper where the request's session was last, by the tokens left there that it may reuse.

    At most the prompt's own, at PRICE, and SESSION at least; what `cached` has counted is not counted again. `token`
    is what a token costs in the unit of `costs`.
    """
    for at, ledger in enumerate(candidates):
        if ledger.endpoint.address == stay.address:
            worth = max(PRICE * min(stay.tokens, prompt_tokens), SESSION)
            costs[at] -= token * max(worth - PRICE * cached.get(ledger.slot, 0), 0.0)
            return
