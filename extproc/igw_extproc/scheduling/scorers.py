"""What placing a request on an endpoint costs, in seconds where it says nothing else. Lower wins.

One unit for everything, so terms add without weights to tune, and only differences between endpoints matter. Each
function returns one cost for each candidate, in order. They run on every request over every endpoint: plain attribute
reads in one comprehension, no call per endpoint. Pure; the table in `policies` names them.
"""

from collections.abc import Sequence

from igw_extproc.domain import Ask, Stay
from igw_extproc.inflight import Ledger
from igw_extproc.scheduling.popularity import HIGHEST, Held

# Bringing an adapter into a free place; with no free place the request waits until the last request of another
# adapter has ended. Seconds.
ADAPTER_LOAD_S = 0.5
ADAPTER_WAIT_S = 4.0
# Where a request can never fit into the KV cache; any other endpoint is better.
NEVER_S = 1e6
# A client that names its session wants to stay, though we may see nothing that is worth it. Seconds.
SESSION_S = 0.25


def nothing(candidates: Sequence[Ledger], ask: Ask, held: Held) -> list[float]:
    """For pickers that do not compare."""
    return [0.0] * len(candidates)


def least_request(candidates: Sequence[Ledger], ask: Ask, held: Held) -> list[float]:
    """Requests in the engine, whoever sent them."""
    return [ledger.queued for ledger in candidates]


def least_token(candidates: Sequence[Ledger], ask: Ask, held: Held) -> list[float]:
    """Tokens in flight: what running requests hold and queued ones will need."""
    return [ledger.kv_tokens for ledger in candidates]


def llm_metric(candidates: Sequence[Ledger], ask: Ask, held: Held) -> list[float]:
    """Seconds until its first token, plus those that its later ones take longer than in an idle engine."""
    prompt, output = ask.prompt_tokens, ask.output_tokens
    need = prompt + output
    return [
        ledger.wait_s
        + prompt * ledger.prefill_s
        + output * ledger.step_s
        + (NEVER_S if need > ledger.kv_capacity else 0.0)
        for ledger in candidates
    ]


def prefix_cache(candidates: Sequence[Ledger], ask: Ask, held: Held) -> list[float]:
    """The same, with only those prompt tokens that the endpoint does not hold, at `price` each."""
    if not held.tokens:
        return llm_metric(candidates, ask, held)
    prompt, output, price, cached = ask.prompt_tokens, ask.output_tokens, held.price, held.tokens.get
    need = prompt + output
    return [
        ledger.wait_s
        + price * (prompt - cached(ledger.slot, 0)) * ledger.prefill_s
        + output * ledger.step_s
        + (NEVER_S if need > ledger.kv_capacity else 0.0)
        for ledger in candidates
    ]


def add_adapter(costs: list[float], candidates: Sequence[Ledger], adapter: str, second: float) -> None:
    """Add what each candidate needs before it can serve `adapter`: nothing, a free place, or somebody else's.

    `second` is what a second is in the unit of `costs`.
    """
    for at, ledger in enumerate(candidates):
        if adapter in ledger.adapters:
            continue
        load = ledger.load
        running = load.running_adapters | load.waiting_adapters if load is not None else frozenset()
        if adapter in running:
            continue
        places = load.max_adapters if load is not None else None
        full = places is not None and len(running | ledger.adapters.keys()) >= places
        costs[at] += second * (ADAPTER_WAIT_S if full else ADAPTER_LOAD_S)


def add_stay(
    costs: list[float], candidates: Sequence[Ledger], stay: Stay, prompt_tokens: int, held: Held, second: float
) -> None:
    """Make the endpoint cheaper where the request's session was last, by the tokens left there that it may reuse.

    At most the prompt's own, at the HIGHEST price since nobody else asks for them, and SESSION_S at least; what `held`
    has counted is not counted again. `second` is what a second is in the unit of `costs`.
    """
    for at, ledger in enumerate(candidates):
        if ledger.endpoint.address == stay.address:
            worth = max(HIGHEST * min(stay.tokens, prompt_tokens) * ledger.prefill_s, SESSION_S)
            counted = held.price * held.tokens.get(ledger.slot, 0) * ledger.prefill_s
            costs[at] -= second * max(worth - counted, 0.0)
            return
