"""Every placement policy the product offers, by the name that configuration uses. docs/policies.md explains them."""

from igw_extproc.inflight import DEFAULT_KV_CAPACITY, DEFAULT_REQUEST_TOKENS, KV_FULL, PER_REQUEST
from igw_extproc.scheduling import pickers, scorers
from igw_extproc.scheduling.framework import Policy

DEFAULT = "prefix-cache"

_ALL = (
    Policy("prefix-cache", scorers.prefix_cache, pickers.cheapest, reuses_prefixes=True),
    Policy("llm-metric", scorers.llm_metric, pickers.cheapest),
    Policy(
        "least-request", scorers.least_request, pickers.cheapest, token=1 / DEFAULT_REQUEST_TOKENS, unit=PER_REQUEST
    ),
    Policy("least-token", scorers.least_token, pickers.cheapest, unit=KV_FULL / DEFAULT_KV_CAPACITY),
    Policy("round-robin", scorers.nothing, pickers.in_turn, token=0.0),
    Policy("random", scorers.nothing, pickers.shuffled, token=0.0),
)
_ALIASES = {"llm-metric-based": "llm-metric"}

# Those that choose two endpoints, each by one of the others: `split`.
SPLITS = ("pd-split", "dynamic-pd-split")

POLICIES = {policy.name: policy for policy in _ALL}
POLICIES.update({alias: POLICIES[name] for alias, name in _ALIASES.items()})
