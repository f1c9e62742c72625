"""Every placement policy the product offers, by the name that configuration uses. docs/policies.md explains them."""

from igw_extproc.inflight import DEFAULT_REQUEST_TOKENS
from igw_extproc.scheduling import pickers, scorers
from igw_extproc.scheduling.framework import Policy
from igw_extproc.speeds import PREFILL_S

DEFAULT = "prefix-cache"

_ALL = (
    Policy("prefix-cache", scorers.prefix_cache, pickers.cheapest, reuses_prefixes=True),
    Policy("llm-metric", scorers.llm_metric, pickers.cheapest),
    Policy("least-request", scorers.least_request, pickers.cheapest, second=1 / (PREFILL_S * DEFAULT_REQUEST_TOKENS)),
    Policy("least-token", scorers.least_token, pickers.cheapest, second=1 / PREFILL_S),
    Policy("round-robin", scorers.nothing, pickers.in_turn, second=0.0),
    Policy("random", scorers.nothing, pickers.shuffled, second=0.0),
)
_ALIASES = {"llm-metric-based": "llm-metric"}

# Those that choose two endpoints, each by one of the others: `split`.
SPLITS = ("pd-split", "dynamic-pd-split")

POLICIES = {policy.name: policy for policy in _ALL}
POLICIES.update({alias: POLICIES[name] for alias, name in _ALIASES.items()})
